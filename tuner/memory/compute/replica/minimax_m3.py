"""Attention to blocks of tokens as graph nodes: src/models/minimax-m3.cpp (MSA).

An indexer scores every position, takes the best of each block, and picks blocks for each group of
heads. The graph is reserved while the cache is empty, when there are no more positions than one
padding unit; masks as long as the whole cache are made all the same.
"""

from __future__ import annotations

from tuner.memory.compute.graph import F16, I32, I64, Node
from tuner.memory.compute.replica.attention import LayerBuilder, Tensors
from tuner.memory.kv_cache import ALL

_POSITIONS = 256  # `llama_kv_cache_msa_context::get_n_pos` of an empty cache


def in_blocks(b: LayerBuilder, t: Tensors) -> bool:
    """Whether a layer picks blocks: fused attention only, and not the leading dense layers."""
    return b.shape.flash and b.has(t, "indexer.q_proj")


class Blocks:
    """What all layers share: inputs, and the mask in F32."""

    def __init__(self, b: LayerBuilder):
        g, u, block = b.g, b.u, b.hp.indexer_block
        self.positions = -(-_POSITIONS // block) * block
        self.count = self.positions // block
        self.cells = b.cells[ALL]
        self.bias = g.input(self.count, u)
        self.visible = g.input(self.positions, u)
        self.cell_of = g.input(self.positions, element=I32)
        self.block_of = g.input(self.cells, element=I32)
        self.rows = g.input(u, element=I64)
        self.mask = g.new(self.cells, u, of=(b.masks[ALL],))

    def views(self, b: LayerBuilder) -> tuple[Node, ...]:
        """The inputs as one layer reads them; each layer has its own copies on its device."""
        inputs = (self.cell_of, self.visible, self.bias, self.block_of, self.mask)
        return tuple(b.g.view(x, *x.shape) for x in inputs)


def unread_blocks(b: LayerBuilder, device: int) -> None:
    """The copies of inputs that a layer needs which the graph leaves out."""
    if b.blocks is not None:
        b.g.expand(Node((0,), 0, b.blocks.views(b), external=True, device=device))


def block_attention(b: LayerBuilder, t: Tensors, il: int, x: Node) -> Node:
    """Self-attention of a layer that picks blocks; x is the normed input."""
    g, hp, u = b.g, b.hp, b.u
    if b.blocks is None:
        b.blocks = Blocks(b)
    shared = b.blocks
    n, n_kv, d = hp.n_head[il], hp.n_head_kv[il], hp.head_k[il]
    q, k, v = (
        g.view(b.mm(t, f"attn_{name}", x), d, heads, u)
        for name, heads in (("q", n), ("k", n_kv), ("v", n_kv))
    )
    q, k = (g.over(b.norm(t, f"attn_{name}_norm", y), b.pos) for name, y in (("q", q), ("k", k)))
    head = hp.indexer_head
    iq, ik = (b.mm(t, f"indexer.{name}_proj", x) for name in ("q", "k"))
    groups = iq.shape[0] // head
    iq = g.over(b.norm(t, "indexer.q_norm", g.view(iq, head, groups, u)), b.pos)
    ik = g.over(b.norm(t, "indexer.k_norm", g.view(ik, head, 1, u)), b.pos)
    g.expand(g.store(g.view(ik, head, u), shared.rows))
    if b.shape.rotate_k:
        q, k = b.hadamard(q, ALL, "k", d), b.hadamard(k, ALL, "k", d)
    if b.shape.rotate_v:
        v = b.hadamard(v, ALL, "v", d)
    g.expand(q, k, v)
    g.expand(g.store(g.view(k, d * n_kv, u), b.k_idxs[ALL]))
    g.expand(g.store(g.view(v, d * n_kv, u), b.v_idxs[ALL]))

    shape, cells = b.shape, shared.cells
    mask = _mask(b, shared, iq, head, groups)
    cached = [
        g.outside(int(cells * d * n_kv * size), g.device) for size in (shape.k_bytes, shape.v_bytes)
    ]
    heads = g.view(g.view(q, d, n, u), d, u, n, contiguous=False)
    y = g.new(d, n, u, of=(heads, *cached, mask))
    y.size += b.scratch((ALL,), d * n_kv, d * n_kv, n, d)
    y = g.new(d * n, u, of=(g.view(y, d * n, u, contiguous=False),))
    return b.mm(t, "attn_output", b.hadamard(y, ALL, "v", d) if b.shape.rotate_v else y)


def _mask(b: LayerBuilder, shared: Blocks, iq: Node, head: int, groups: int) -> Node:
    """One mask for each group of heads: the blocks it has picked."""
    g, u = b.g, b.u
    positions, count, cells = shared.positions, shared.count, shared.cells
    cell_of, visible, bias, block_of, causal = shared.views(b)
    cached = g.outside(int(cells * head * b.shape.k_bytes), g.device)
    keys = g.new(head, positions, of=(cached, cell_of))
    score = g.new(positions, groups * u, of=(keys, g.view(iq, head, groups * u)))
    scored = Node((0,), 0, (g.view(score, positions, groups, u), visible), external=True)
    best = g.new(count, groups, u, of=(Node((positions, groups, u), 4, (scored,), root=score),))
    n_top = min(b.hp.indexer_top_k, count)
    top = g.new(n_top, groups, u, of=(g.over(best, bias),), element=I32)
    hidden = g.new(count, 1, u, of=(g.over(bias),), element=F16)
    hidden = g.new(count, groups, u, of=(hidden,), element=F16)
    zero = g.over(g.new(n_top, groups, u, of=(top,)))
    parts = (g.view(zero, n_top, groups * u), g.view(top, n_top, groups * u))
    written = Node((0,), 0, (*parts, g.view(hidden, count, groups * u)), external=True)
    picked = Node((count, groups, u), F16, (written,), root=hidden)
    picked = g.new(count, u, groups, of=(picked,), element=F16)
    turned = g.new(u * groups, count, of=(g.view(picked, count, u * groups),), element=F16)
    by_cell = g.new(u * groups, cells, of=(turned, block_of))
    mask = g.new(cells, u * groups, of=(g.view(by_cell, cells, u * groups, contiguous=False),))
    joined = Node((0,), 0, (g.view(mask, cells, u, groups), causal), external=True)
    mask = Node((cells, u, groups), 4, (joined,), root=mask)
    return g.new(cells, u, groups, of=(mask,), element=F16)
