"""Attention to blocks of tokens as graph nodes: src/models/minimax-m3.cpp (MSA).

An indexer scores every position, takes the best of each block, and picks blocks for each group of
heads. The graph is reserved while the cache is empty, when there are no more positions than one
padding unit; masks as long as the whole cache are made all the same.
"""

from __future__ import annotations

from tuner.memory.compute.graph import F16, F32, I32, I64, Node
from tuner.memory.compute.replica.builder import GraphBuilder, Tensors
from tuner.memory.compute.replica.extras import of_attention
from tuner.memory.kv_cache import ALL

_POSITIONS = 256  # `llama_kv_cache_msa_context::get_n_pos` of an empty cache


def in_blocks(b: GraphBuilder, t: Tensors) -> bool:
    """Whether a layer picks blocks: fused attention only, and not the leading dense layers."""
    return b.shape.flash and b.has(t, "indexer.q_proj")


class Blocks:
    """What all layers share: inputs, and the mask in F32."""

    def __init__(self, b: GraphBuilder):
        g, n_tokens, block = b.g, b.n_tokens, b.hp.indexer_block
        self.positions = -(-_POSITIONS // block) * block
        self.count = self.positions // block
        self.cells = b.cells[ALL]
        self.bias = g.input(self.count, n_tokens)
        self.visible = g.input(self.positions, n_tokens)
        self.cell_of = g.input(self.positions, element=I32)
        self.block_of = g.input(self.cells, element=I32)
        self.rows = g.input(n_tokens, element=I64)
        self.mask = g.new(self.cells, n_tokens, of=(b.masks[ALL],))

    def views(self, b: GraphBuilder) -> tuple[Node, ...]:
        """The inputs as one layer reads them; each layer has its own copies on its device."""
        inputs = (self.cell_of, self.visible, self.bias, self.block_of, self.mask)
        return tuple(b.g.view(x, *x.shape) for x in inputs)


def unread_blocks(b: GraphBuilder, device: int) -> None:
    """The copies of inputs that a layer needs which the graph leaves out."""
    blocks = b.made(Blocks)
    if blocks is not None:
        b.g.expand(Node((0,), 0, blocks.views(b), external=True, device=device))


def block_attention(b: GraphBuilder, t: Tensors, il: int, x: Node) -> Node:
    """Self-attention of a layer that picks blocks (`build_attn_msa_fa`). x: normed, [n_embd,
    n_tokens] -> the same."""
    g, hp, n_tokens = b.g, b.hp, b.n_tokens
    shared = b.once(Blocks)
    n, n_kv, d = hp.n_head[il], hp.n_head_kv[il], hp.head_k[il]
    q, k, v = (
        g.view(b.mm(t, f"attn_{name}", x), d, heads, n_tokens)
        for name, heads in (("q", n), ("k", n_kv), ("v", n_kv))
    )
    q, k = (g.over(b.norm(t, f"attn_{name}_norm", y), b.pos) for name, y in (("q", q), ("k", k)))
    head = hp.indexer_head
    iq, ik = (b.mm(t, f"indexer.{name}_proj", x) for name in ("q", "k"))
    groups = iq.shape[0] // head
    iq = g.over(b.norm(t, "indexer.q_norm", g.view(iq, head, groups, n_tokens)), b.pos)
    ik = g.over(b.norm(t, "indexer.k_norm", g.view(ik, head, 1, n_tokens)), b.pos)
    g.expand(g.store(g.view(ik, head, n_tokens), shared.rows))
    if b.shape.rotate_k:
        q, k = b.hadamard(q, ALL, "k", d), b.hadamard(k, ALL, "k", d)
    if b.shape.rotate_v:
        v = b.hadamard(v, ALL, "v", d)
    g.expand(q, k, v)
    g.expand(g.store(g.view(k, d * n_kv, n_tokens), b.k_idxs[ALL]))
    g.expand(g.store(g.view(v, d * n_kv, n_tokens), b.v_idxs[ALL]))

    shape, cells = b.shape, shared.cells
    mask = _mask(b, shared, iq, head, groups)
    cached = [
        g.external(int(cells * d * n_kv * size), g.device)
        for size in (shape.k_bytes, shape.v_bytes)
    ]
    heads = g.view(g.view(q, d, n, n_tokens), d, n_tokens, n, contiguous=False)
    y = g.new(d, n, n_tokens, of=(heads, *cached, mask))
    y.extra = of_attention(b, (ALL,), (d, d), n_kv, n)
    y = g.new(d * n, n_tokens, of=(g.view(y, d * n, n_tokens, contiguous=False),))
    return b.mm(t, "attn_output", b.hadamard(y, ALL, "v", d) if b.shape.rotate_v else y)


def _mask(b: GraphBuilder, shared: Blocks, iq: Node, head: int, groups: int) -> Node:
    """One mask for each group of heads, the blocks it has picked: index queries of [head, groups,
    n_tokens] -> [cells, n_tokens, groups]."""
    g, n_tokens = b.g, b.n_tokens
    positions, count, cells = shared.positions, shared.count, shared.cells
    cell_of, visible, bias, block_of, causal = shared.views(b)
    cached = g.external(int(cells * head * b.shape.k_bytes), g.device)
    keys = g.new(head, positions, of=(cached, cell_of))
    score = g.new(positions, groups * n_tokens, of=(keys, g.view(iq, head, groups * n_tokens)))
    scored = Node((0,), 0, (g.view(score, positions, groups, n_tokens), visible), external=True)
    best = g.new(
        count,
        groups,
        n_tokens,
        of=(Node((positions, groups, n_tokens), F32, (scored,), root=score),),
    )
    n_top = min(b.hp.indexer_top_k, count)
    top = g.new(n_top, groups, n_tokens, of=(g.over(best, bias),), element=I32)
    hidden = g.new(count, 1, n_tokens, of=(g.over(bias),), element=F16)
    hidden = g.new(count, groups, n_tokens, of=(hidden,), element=F16)
    zero = g.over(g.new(n_top, groups, n_tokens, of=(top,)))
    parts = (g.view(zero, n_top, groups * n_tokens), g.view(top, n_top, groups * n_tokens))
    written = Node((0,), 0, (*parts, g.view(hidden, count, groups * n_tokens)), external=True)
    picked = Node((count, groups, n_tokens), F16, (written,), root=hidden)
    picked = g.new(count, n_tokens, groups, of=(picked,), element=F16)
    turned = g.new(
        n_tokens * groups, count, of=(g.view(picked, count, n_tokens * groups),), element=F16
    )
    by_cell = g.new(n_tokens * groups, cells, of=(turned, block_of))
    mask = g.new(
        cells, n_tokens * groups, of=(g.view(by_cell, cells, n_tokens * groups, contiguous=False),)
    )
    joined = Node((0,), 0, (g.view(mask, cells, n_tokens, groups), causal), external=True)
    mask = Node((cells, n_tokens, groups), F32, (joined,), root=mask)
    return g.new(cells, n_tokens, groups, of=(mask,), element=F16)
