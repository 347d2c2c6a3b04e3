"""Attention over compressed caches as graph nodes: src/models/deepseek4.cpp.

Every layer attends to a window of raw keys, which are the values too. Layers of ratio 4 add the
best of the rows that stand for four tokens each, picked by an indexer with a compressed cache
of its own; layers of ratio 128 add all rows of their cache. The sizes of a graph's inputs are
those of `dsv4_build_reserve_comp_plan` (src/llama-kv-cache-dsv4.cpp).
"""

from __future__ import annotations

from math import prod

from tuner.memory.compute.graph import F16, F32, HOST, I32, I64, Node
from tuner.memory.compute.replica.attention import fused
from tuner.memory.compute.replica.builder import GraphBuilder, Tensors
from tuner.memory.compute.replica.dsa import best, scored
from tuner.memory.compute.replica.extras import of_attention
from tuner.memory.kv_cache import CSA, HCA, WINDOW, Cells

_INDEX = -CSA  # stands for the indexer's cache beside the one of ratio 4


def compressed_attention(b: GraphBuilder, t: Tensors, il: int, x: Node) -> Node:
    """Attention of a layer with a window and, as its ratio says, compressed rows
    (`build_raw_attention`, `build_csa_lid_attention`, `build_hca_attention`). x: normed,
    [n_embd, n_tokens] -> the same."""
    g, hp, n_tokens = b.g, b.hp, b.n_tokens
    n, d = hp.n_head[il], hp.head_k[il]
    low = b.norm(t, "attn_q_a_norm", b.mm(t, "attn_q_a", x))
    q = g.reshape(b.mm(t, "attn_q_b", low), d, n, n_tokens)
    q = g.over(g.over(q, op="RMS_NORM"), b.pos, op="ROPE")
    kv = g.reshape(b.norm(t, "attn_kv_a_norm", b.mm(t, "attn_kv", x)), d, 1, n_tokens)
    kv = g.over(kv, b.pos, op="ROPE")
    ratio = ratio_of(t)
    compressed: Node | None = None
    top: Node | None = None
    if ratio == CSA:
        compressed = _compress(b, t, x, "attn", CSA, d)
        index = _compress(b, t, x, "indexer", _INDEX, hp.indexer_head)
        top = _top_rows(b, t, x, low, index)
    elif ratio == HCA:
        compressed = _compress(b, t, x, "attn", HCA, d)
    turned = _turned(b, d)
    if turned:
        q, kv = (b.hadamard(v, WINDOW, "k", d) for v in (q, kv))
    g.expand(q)
    g.expand(kv)
    home = g.external(0, g.device)
    g.expand(g.stored(g.view(kv, d, n_tokens), b.k_idxs[WINDOW], home))

    keys = _rows(b, home, d, b.cells[WINDOW])
    mask = b.masks[WINDOW]
    if compressed is not None:
        rows = b.cells[Cells(ratio)]
        seen = _rows(b, _rows(b, compressed, d, rows), d, rows)
        keys = Node((d, 1, b.cells[WINDOW] + rows), 1, (keys, seen), "CONCAT")
        keys.size = keys.srcs[0].size + seen.size
        beside = _mask(b, ratio)
        if top is not None:
            beside = _shown(b, beside, top)
        mask = Node((keys.shape[2], n_tokens), mask.element, (mask, beside), "CONCAT")
    y = _attend(b, t, q, keys, mask, (WINDOW, Cells(ratio)) if ratio else (WINDOW,))
    if turned:
        y = b.hadamard(y, WINDOW, "k", d)
    y = g.over(g.reshape(y, d, n, n_tokens), b.pos, op="ROPE_BACK")
    w = t["attn_output_a.weight"]
    groups = t["attn_output_b.weight"].shape[0] * d * n // prod(w.shape)
    wide, rank = d * n // groups, prod(w.shape) // w.shape[0] // groups
    grouped = g.permute(g.reshape(y, wide, groups, n_tokens), wide, n_tokens, groups)
    y = g.reads(w, g.product((rank, n_tokens, groups), (grouped,), g.held(w)))
    y = g.cont(g.permute(y, rank, groups, n_tokens), rank * groups, n_tokens)
    return b.mm(t, "attn_output_b", y)


def ratio_of(t: Tensors) -> int:
    """How many tokens a compressed row of this layer stands for; 0: it has none."""
    ape = t.get("attn_compressor_ape.weight")
    return ape.shape[1] if ape is not None else 0


def _turned(b: GraphBuilder, d: int) -> bool:
    """Whether keys are rotated (Hadamard): a quantized cache's are, the indexer's always, and
    the engine takes every cache of heads as wide for the indexer's."""
    return b.shape.rotate_k or d == b.hp.indexer_head


def _rows(b: GraphBuilder, cache: Node, d: int, n: int) -> Node:
    """n rows of d elements of a cache or of what is read of one."""
    rows = b.g.view(cache, d, 1, n, contiguous=False)
    rows.size = int(n * d * b.shape.k_cached)
    return rows


def _mask(b: GraphBuilder, kind: int, element: int = 0) -> Node:
    """Which compressed rows a token may see: [rows, n_tokens]."""
    rows = b.cells[Cells(abs(kind))]
    return b.input(
        kind, "mask", rows, b.n_tokens, element=element or (F16 if b.shape.flash else F32)
    )


def _compress(b: GraphBuilder, t: Tensors, x: Node, name: str, kind: int, d: int) -> Node:
    """Finishes the rows that these tokens complete, and stores what is left for the next ones.
    With ratio 4 each row looks back at the four tokens before its own. x: [n_embd, n_tokens];
    `d`: elements of a row; `name`: of the compressor's tensors. The cache of rows is returned."""
    g, n_tokens = b.g, b.n_tokens
    ratio = abs(kind)
    overlap = ratio == CSA
    wide = 2 * d if overlap else d
    kept = 2 * ratio if overlap else ratio  # rows of state
    blocks = b.counts[f"blocks of {ratio}"]
    values = b.mm(t, f"{name}_compressor_kv", x)
    scores = b.mm(t, f"{name}_compressor_gate", x)
    where = b.input(kind, "pos", n_tokens)
    places = Node((wide, n_tokens), F32, (where,), "GET_ROWS", device=g.device)
    scores = g.add(scores, g.reads(t[f"{name}_compressor_ape.weight"], places))
    reads = b.input(kind, "reads", (2 if overlap else 1) * ratio * blocks)
    states = [g.external(F32 * wide * kept, g.device) for _ in range(2)]
    sources = [
        g.new(wide, kept + n_tokens, of=(_state(b, state, wide, kept), rows), op="CONCAT")
        for state, rows in zip(states, (values, scores), strict=True)
    ]
    parts = [
        _overlapping(b, source, reads, d, ratio, blocks)
        if overlap
        else g.reshape(
            g.new(d, ratio * blocks, of=(source, reads), op="GET_ROWS"), d, ratio, blocks
        )
        for source in sources
    ]
    parts = [g.cont(g.permute(part, part.shape[1], d, blocks)) for part in parts]
    row = g.mul(parts[0], g.over(parts[1], op="SOFT_MAX"))
    row = g.new(1, d, blocks, of=(row,), op="SUM_ROWS")
    row = g.cont(g.permute(row, d, 1, blocks))
    row = b.norm(t, f"{name}_compressor_norm", row)
    row = g.over(row, b.input(kind, "places", blocks), op="ROPE")
    if kind == _INDEX or _turned(b, d):
        row = b.hadamard(row, kind, "k", d)
    cache = g.external(0, g.device)
    writes = b.input(kind, "writes", blocks, element=I64)
    g.expand(g.stored(g.view(row, d, blocks), writes, cache))
    n = b.counts[f"{kept} kept"]
    source, target = b.input(kind, "kept from", n), b.input(kind, "kept at", n)
    stores = [
        g.stored(
            g.new(wide, n, of=(rows, source), op="GET_ROWS"),
            target,
            state,
            g.view(state, wide, kept),
        )
        for state, rows in zip(states, (values, scores), strict=True)
    ]
    g.expand(*stores)
    return cache


def _state(b: GraphBuilder, state: Node, wide: int, kept: int) -> Node:
    """What earlier tokens have left of a row that is not complete (`get_kv_all`)."""
    return b.g.view(b.g.view(state, wide, kept), wide, kept)


def _overlapping(
    b: GraphBuilder, source: Node, reads: Node, d: int, ratio: int, blocks: int
) -> Node:
    """For each block the rows before and its own, side by side for the softmax over them
    (`build_overlap_compressed_kv_from_state`): [2 d, rows] -> [d, 2 ratio, blocks]."""
    g = b.g
    wide, rows = source.shape
    blank = g.reshape(g.over(g.view(source, wide), op="SCALE"), wide, 1)
    source = g.new(wide, rows + 1, of=(source, blank), op="CONCAT")
    read = g.new(wide, 2 * ratio * blocks, of=(source, reads), op="GET_ROWS")
    halves = [
        g.reshape(
            g.cont(g.view(read, d, ratio * blocks, contiguous=False, stride=wide)),
            d, ratio, blocks,
        )
        for _ in range(2)
    ]  # fmt: skip
    return g.new(d, 2 * ratio, blocks, of=tuple(halves), op="CONCAT")


def _top_rows(b: GraphBuilder, t: Tensors, x: Node, low: Node, cache: Node) -> Node:
    """The rows that the indexer picks for each token (`build_lid_top_k`): [n_top, n_tokens].
    `cache`: of its keys."""
    g, hp, n_tokens = b.g, b.hp, b.n_tokens
    d, rows = hp.indexer_head, b.cells[CSA]
    q = b.mm(t, "indexer.attn_q_b", low)
    heads = q.shape[0] // d
    q = g.over(g.reshape(q, d, heads, n_tokens), b.pos, op="ROPE")
    q = g.view(b.hadamard(q, _INDEX, "k", d), d, heads, n_tokens)
    keys = _rows(b, _rows(b, cache, d, rows), d, rows)
    weights = g.over(b.mm(t, "indexer.proj", x), op="SCALE")
    mask = _mask(b, _INDEX, F16)
    score = scored(b, q, keys, g.view(weights, heads, n_tokens), mask)
    n_top = b.counts["top"]
    return g.new(n_top, n_tokens, of=(best(b, score, n_top),), op="CONT", element=I32)


def _shown(b: GraphBuilder, mask: Node, top: Node) -> Node:
    """The mask, [rows, n_tokens], with everything hidden but the chosen ones
    (`build_top_k_mask`)."""
    g, n_tokens = b.g, b.n_tokens
    cells, element = mask.shape[0], mask.element
    hidden = Node((cells, n_tokens), element, (mask,), "FILL", inplace=True)
    zeros = Node((1, top.shape[0], n_tokens), element)  # a leaf, there from the start
    shown = Node(zeros.shape, element, (zeros,), "FILL", inplace=True)
    places, whole = g.view(top, *top.shape), g.view(hidden, 1, cells, n_tokens)
    rows = Node(whole.shape, element, (shown, places, whole), "SET_ROWS", root=hidden)
    return Node(mask.shape, element, (g.view(rows, *mask.shape), mask), "ADD", inplace=True)


def _attend(
    b: GraphBuilder, t: Tensors, q: Node, keys: Node, mask: Node, kinds: tuple[Cells, ...]
) -> Node:
    """`build_attn_mha` where the keys are the values too: [d, n_head, n_tokens]
    -> [d n_head, n_tokens]."""
    g, n_tokens = b.g, b.n_tokens
    d, n, _ = q.shape
    cells = mask.shape[0]
    w = t["attn_sinks.weight"]
    heads = g.permute(g.view(q, d, n, n_tokens), d, n_tokens, n)
    rows, values = (g.permute(keys, d, cells, 1) for _ in range(2))
    rows.size = values.size = keys.size
    if b.shape.flash:
        scratch = of_attention(
            b,
            kinds,
            (d, d),
            1,
            n,
            within=True,
            # a window alone is read where it is, of which another device gets two copies
            copied=g.device == HOST and len(kinds) == 1,
            sinks=True,
            listed=CSA in kinds,
        )
        y = g.reads(w, fused(b, (heads, rows, values, mask), (d, d), n, w, scratch))
        y = g.reshape(y, d * n, n_tokens)
    else:
        kq = g.new(cells, n_tokens, n, of=(rows, heads), op="MUL_MAT")
        kq = g.reads(w, g.over(kq, mask, op="SOFT_MAX", weight=w.n_bytes))
        turned = g.view(values, cells, d, contiguous=False, op="TRANSPOSE")
        values = Node((cells, d), 1, (turned,), "CONT")
        turned.size = values.size = keys.size
        y = g.new(d, n_tokens, n, of=(values, kq), op="MUL_MAT")
        y = g.cont(g.permute(y, d, n, n_tokens), d * n, n_tokens)
    g.expand(y)
    return y
