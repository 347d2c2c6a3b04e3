"""Attention to blocks of tokens as graph nodes: src/models/minimax-m3.cpp (MSA).

An indexer scores every position, takes the best of each block, and picks blocks for each group of
heads. The graph is reserved while the cache is empty, when there are no more positions than one
padding unit; masks as long as the whole cache are made all the same.
"""

from __future__ import annotations

from math import prod

from tuner.memory.compute.graph import F16, F32, I32, I64, Node
from tuner.memory.compute.replica.attention import cached_rows
from tuner.memory.compute.replica.builder import GraphBuilder, Tensors
from tuner.memory.compute.replica.dsa import best
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
        self.mask = g.new(self.cells, n_tokens, of=(b.masks[ALL],), op="CPY")

    def views(self, b: GraphBuilder) -> tuple[Node, ...]:
        """The inputs as one layer reads them; each layer has its own copies on its device."""
        g, n_tokens = b.g, b.n_tokens
        return (
            g.view(self.cell_of, self.positions),
            g.view(self.visible, self.positions, 1, n_tokens),
            g.view(self.bias, self.count, 1, n_tokens),
            g.view(self.block_of, self.cells),
            g.view(self.mask, self.cells, n_tokens),
        )


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
        g.reshape(b.mm(t, f"attn_{name}", x), d, heads, n_tokens)
        for name, heads in (("q", n), ("k", n_kv), ("v", n_kv))
    )
    q, k = (b.rotated(b.norm(t, f"attn_{name}_norm", y)) for name, y in (("q", q), ("k", k)))
    iq, ik = (_indexing(b, t, of, x) for of in "qk")
    index = g.external(0, g.device)
    g.expand(g.stored(g.view(ik, hp.indexer_head, n_tokens), shared.rows, index))
    if b.shape.rotate_k:
        q, k = b.hadamard(q, ALL, "k", d), b.hadamard(k, ALL, "k", d)
    if b.shape.rotate_v:
        v = b.hadamard(v, ALL, "v", d)
    g.expand(q, k, v)
    for of, rows, where in (("k", k, b.k_idxs[ALL]), ("v", v, b.v_idxs[ALL])):
        b.caches[ALL, of] = g.external(0, g.device)
        g.expand(g.stored(g.view(rows, d * n_kv, n_tokens), where, b.caches[ALL, of]))

    group = n // n_kv
    heads = g.reshape(g.view(q, d, n, n_tokens), d, group, n_kv, n_tokens)
    heads = g.permute(heads, d, n_tokens, group, n_kv)
    cached = (
        _by_group(b, of, (d, n_kv, shared.cells), size)
        for of, size in (("k", b.shape.k_bytes), ("v", b.shape.v_bytes))
    )
    mask = _mask(b, shared, iq, index)
    y = g.new(d, group, n_tokens, n_kv, of=(heads, *cached, mask), op="FLASH_ATTN_EXT")
    y.extra = of_attention(b, (ALL,), (d, d), n_kv, n, masks=n_kv)
    y = g.permute(y, d, group, n_kv, n_tokens)
    y = g.reshape(g.cont(y) if n_kv > 1 else y, d * n, n_tokens)
    return b.mm(t, "attn_output", b.hadamard(y, ALL, "v", d) if b.shape.rotate_v else y)


def _indexing(b: GraphBuilder, t: Tensors, of: str, x: Node) -> Node:
    """The indexer's queries, one for each group of heads, or its keys: [n_embd, n_tokens]
    -> [head, groups or 1, n_tokens]."""
    head = b.hp.indexer_head
    y = b.mm(t, f"indexer.{of}_proj", x)
    y = b.g.reshape(y, head, y.shape[0] // head, b.n_tokens)
    return b.rotated(b.norm(t, f"indexer.{of}_norm", y))


def _by_group(b: GraphBuilder, of: str, shape: tuple[int, int, int], element: float) -> Node:
    """A cache as attention reads it, with groups last: [head, groups, cells]
    -> [head, cells, 1, groups]."""
    head, groups, cells = shape
    rows = cached_rows(b, (ALL, of), shape, element, b.g.device)
    rows = b.g.permute(b.g.view(rows, *shape), head, cells, 1, groups)
    rows.size = int(prod(shape) * element)
    return rows


def _mask(b: GraphBuilder, shared: Blocks, iq: Node, index: Node) -> Node:
    """One mask for each group of heads, the blocks it has picked: index queries of [head, groups,
    n_tokens] -> [cells, n_tokens, 1, groups]."""
    g, n_tokens = b.g, b.n_tokens
    head, groups = iq.shape[:2]
    positions, count, cells = shared.positions, shared.count, shared.cells
    cell_of, visible, bias, block_of, causal = shared.views(b)
    cached = g.view(g.view(index, head, 1, cells), head, cells)
    cached.size = int(cells * head * b.shape.k_bytes)
    keys = g.new(head, positions, of=(cached, cell_of), op="GET_ROWS")
    flat = g.reshape(g.view(iq, head, groups, n_tokens), head, groups * n_tokens)
    score = g.new(positions, groups * n_tokens, of=(keys, flat), op="MUL_MAT")
    scores = g.reshape(score, positions, groups, n_tokens)
    scores = Node(scores.shape, F32, (scores, visible), "ADD", root=score)
    of_blocks = g.add(g.new(count, groups, n_tokens, of=(scores,), op="POOL_2D"), bias)
    n_top = min(b.hp.indexer_top_k, count)
    top = best(b, of_blocks, n_top)

    hidden = g.new(count, 1, n_tokens, of=(g.over(bias, op="SCALE"),), op="CPY", element=F16)
    hidden = g.new(count, groups, n_tokens, of=(hidden,), op="REPEAT", element=F16)
    zero = g.over(g.new(n_top, groups, n_tokens, of=(top,), op="CPY"), op="SCALE")
    each = groups * n_tokens
    written = (
        g.reshape(zero, 1, n_top, each), g.reshape(top, n_top, each),
        g.reshape(hidden, 1, count, each),
    )  # fmt: skip
    picked = Node((1, count, each), F16, written, "SET_ROWS", root=hidden)
    picked = g.permute(g.reshape(picked, count, groups, n_tokens), count, n_tokens, groups)
    picked = g.new(*picked.shape, of=(picked,), op="CONT", element=F16)
    turned = _turned(b, g.reshape(picked, count, each), F16)
    by_cell = g.new(each, cells, of=(turned, block_of), op="GET_ROWS")
    by_token = _turned(b, by_cell, F32)
    mask = g.reshape(by_token, cells, n_tokens, groups)
    mask = Node(mask.shape, F32, (mask, causal), "ADD", root=by_token)
    mask = g.reshape(mask, cells, n_tokens, 1, groups)
    return g.new(*mask.shape, of=(mask,), op="CPY", element=F16)


def _turned(b: GraphBuilder, x: Node, element: int) -> Node:
    """A copy of x with rows and columns exchanged."""
    n, m = x.shape
    turned = b.g.view(x, m, n, contiguous=False, op="TRANSPOSE")
    return b.g.new(m, n, of=(turned,), op="CONT", element=element)
