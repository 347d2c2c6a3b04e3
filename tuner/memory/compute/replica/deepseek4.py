"""Attention over compressed caches as graph nodes: src/models/deepseek4.cpp.

Every layer attends to a window of raw keys, which are the values too. Layers of ratio 4 add the
best of the rows that stand for four tokens each, picked by an indexer with a compressed cache
of its own; layers of ratio 128 add all rows of their cache. The sizes of a graph's inputs are
those of `dsv4_build_reserve_comp_plan` (src/llama-kv-cache-dsv4.cpp).
"""

from __future__ import annotations

from math import prod

from tuner.memory.compute.graph import F16, F32, I32, I64, Node
from tuner.memory.compute.replica.attention import LayerBuilder, Tensors
from tuner.memory.kv_cache import CSA, HCA, WINDOW, Cells

_INDEX = -CSA  # stands for the indexer's cache beside the one of ratio 4


def compressed_attention(b: LayerBuilder, t: Tensors, il: int, x: Node) -> Node:
    """x is the normed input."""
    g, hp, u = b.g, b.hp, b.u
    n, d = hp.n_head[il], hp.head_k[il]
    low = b.norm(t, "attn_q_a_norm", b.mm(t, "attn_q_a", x))
    q = g.over(g.over(g.view(b.mm(t, "attn_q_b", low), d, n, u)), b.pos)
    kv = g.view(b.norm(t, "attn_kv_a_norm", b.mm(t, "attn_kv", x)), d, 1, u)
    kv = g.over(kv, b.pos)
    ratio = ratio_of(t)
    if ratio == CSA:
        _compress(b, t, x, "attn", CSA, d)
        _compress(b, t, x, "indexer", _INDEX, hp.indexer_head)
    elif ratio == HCA:
        _compress(b, t, x, "attn", HCA, d)
    top = _top_rows(b, t, x, low) if ratio == CSA else None
    turned = _turned(b, d)
    if turned:
        q, kv = (_rotate(b, v, WINDOW, d) for v in (q, kv))
    g.expand(q)
    g.expand(kv)
    g.expand(g.store(g.view(kv, d, u), b.k_idxs[WINDOW]))

    cells = b.cells[WINDOW]
    bytes_k = b.shape.k_cached
    keys = g.outside(int(cells * d * bytes_k), g.device)
    mask = b.masks[WINDOW]
    element = F16 if b.shape.flash else F32
    if ratio:
        rows = b.cells[Cells(ratio)]
        compressed = g.outside(int(rows * d * bytes_k), g.device)
        cells += rows
        keys = Node((d, 1, cells), 1, (keys, compressed))
        keys.size = int(cells * d * bytes_k)
        beside = _mask(b, ratio)
        if top is not None:
            beside = _shown(b, beside, top)
        mask = Node((cells, u), element, (mask, beside))
    y = _attend(b, q, keys, mask, (WINDOW, Cells(ratio)) if ratio else (WINDOW,))
    if turned:
        y = _rotate(b, y, WINDOW, d)
    y = g.over(g.view(y, d, n, u), b.pos)
    w = t["attn_output_a.weight"]
    groups = t["attn_output_b.weight"].shape[0] * d * n // prod(w.shape)
    grouped = g.view(y, d * n // groups, u, groups, contiguous=False)
    rank = prod(w.shape) // w.shape[0] // groups
    y = g.weighted((rank, u, groups), (grouped,), w.n_bytes)
    y = g.new(rank * groups, u, of=(g.view(y, rank, groups, u, contiguous=False),))
    return b.mm(t, "attn_output_b", y)


def ratio_of(t: Tensors) -> int:
    """How many tokens a compressed row of this layer stands for; 0: it has none."""
    ape = t.get("attn_compressor_ape.weight")
    return ape.shape[1] if ape is not None else 0


def _turned(b: LayerBuilder, d: int) -> bool:
    """Whether keys are rotated (Hadamard): a quantized cache's are, the indexer's always, and
    the engine takes every cache of heads as wide for the indexer's."""
    return b.shape.rotate_k or d == b.hp.indexer_head


def _rotate(b: LayerBuilder, x: Node, kind: int, d: int) -> Node:
    g = b.g
    size = 64
    while d % (2 * size) == 0:
        size *= 2
    matrix = b.rotations.setdefault((kind, "k"), g.input(size, size))
    flat = g.view(x, size, prod(x.shape) // size)
    return g.view(g.new(*flat.shape, of=(matrix, flat)), *x.shape)


def _input(b: LayerBuilder, kind: int, name: str, n: int, element: int = I32) -> Node:
    return b.inputs.setdefault((kind, name), b.g.input(n, element=element))


def _mask(b: LayerBuilder, ratio: int, element: int = 0) -> Node:
    element = element or (F16 if b.shape.flash else F32)
    key = (ratio, "mask")
    return b.inputs.setdefault(key, b.g.input(b.cells[Cells(abs(ratio))], b.u, element=element))


def _compress(b: LayerBuilder, t: Tensors, x: Node, name: str, kind: int, d: int) -> None:
    """Finishes the rows that these tokens complete, and stores what is left for the next ones.
    With ratio 4 each row looks back at the four tokens before its own."""
    g, u = b.g, b.u
    ratio = abs(kind)
    overlap = ratio == CSA
    wide = 2 * d if overlap else d
    kept = 2 * ratio if overlap else ratio  # rows of state
    blocks = b.counts[f"blocks of {ratio}"]
    values = b.mm(t, f"{name}_compressor_kv", x)
    scores = b.mm(t, f"{name}_compressor_gate", x)
    where = _input(b, kind, "pos", u)
    scores = g.over(scores, Node((wide, u), F32, (where,), device=g.device))
    reads = _input(b, kind, "reads", (2 if overlap else 1) * ratio * blocks)
    sources = [
        g.new(wide, kept + u, of=(g.outside(4 * wide * kept, g.device), rows))
        for rows in (values, scores)
    ]
    if overlap:
        parts = [_overlapping(b, source, reads, d, ratio, blocks) for source in sources]
    else:
        parts = [
            g.view(g.new(d, ratio * blocks, of=(source, reads)), d, ratio, blocks)
            for source in sources
        ]
        parts = [
            g.new(ratio, d, blocks, of=(g.view(part, ratio, d, blocks, contiguous=False),))
            for part in parts
        ]
    row = g.over(parts[0], g.over(parts[1]))
    row = g.new(1, d, blocks, of=(row,))
    row = g.new(d, 1, blocks, of=(g.view(row, d, 1, blocks, contiguous=False),))
    row = g.over(g.over(row), weighted=True)
    row = g.over(row, _input(b, kind, "places", blocks))
    if kind == _INDEX or _turned(b, d):
        row = _rotate(b, row, kind, d)
    g.expand(g.store(g.view(row, d, blocks), _input(b, kind, "writes", blocks, I64)))
    n = b.counts[f"{kept} kept"]
    source, target = _input(b, kind, "kept from", n), _input(b, kind, "kept at", n)
    stores = [g.store(g.new(wide, n, of=(rows, source)), target) for rows in (values, scores)]
    g.expand(*stores)


def _overlapping(
    b: LayerBuilder, source: Node, reads: Node, d: int, ratio: int, blocks: int
) -> Node:
    """For each block the rows before and its own, side by side for the softmax over them."""
    g = b.g
    wide, rows = source.shape
    blank = g.over(g.view(source, wide, contiguous=True))
    source = g.new(wide, rows + 1, of=(source, g.view(blank, wide, 1)))
    read = g.new(wide, 2 * ratio * blocks, of=(source, reads))
    halves = [
        g.view(
            g.new(d, ratio * blocks, of=(g.view(read, d, ratio * blocks, contiguous=False),)),
            d, ratio, blocks,
        )
        for _ in range(2)
    ]  # fmt: skip
    both = g.new(d, 2 * ratio, blocks, of=tuple(halves))
    return g.new(2 * ratio, d, blocks, of=(g.view(both, 2 * ratio, d, blocks, contiguous=False),))


def _top_rows(b: LayerBuilder, t: Tensors, x: Node, low: Node) -> Node:
    """The rows that the indexer picks for each token (`build_lid_top_k`)."""
    g, hp, u = b.g, b.hp, b.u
    d = hp.indexer_head
    q = b.mm(t, "indexer.attn_q_b", low)
    heads = q.shape[0] // d
    q = _rotate(b, g.over(g.view(q, d, heads, u), b.pos), _INDEX, d)
    weights = g.over(b.mm(t, "indexer.proj", x))
    rows = b.cells[CSA]
    cached = g.outside(int(rows * d * b.shape.k_bytes), g.device)
    q = g.view(q, d, heads, u)
    score = g.new(rows, u, of=(q, cached, g.view(weights, heads, u), _mask(b, _INDEX, F16)))
    n_top = b.counts["top"]
    top = g.new(n_top, u, of=(score,), element=I32)
    return g.new(n_top, u, of=(top,), element=I32)


def _shown(b: LayerBuilder, mask: Node, top: Node) -> Node:
    """The mask with everything hidden but the chosen rows (`build_top_k_mask`)."""
    g, u = b.g, b.u
    cells = mask.shape[0]
    element = F16 if b.shape.flash else F32
    hidden = Node((cells, u), element, (mask,), inplace=True)
    zeros = Node((1, top.shape[0], u), element, device=g.device)  # a leaf, there from the start
    shown = Node(zeros.shape, element, (zeros,), inplace=True)
    rows = Node((0,), 0, (shown, g.view(top, *top.shape), g.view(hidden, 1, cells, u)), root=hidden)
    return Node((cells, u), element, (g.view(rows, cells, u), mask), inplace=True)


def _attend(b: LayerBuilder, q: Node, keys: Node, mask: Node, kinds: tuple[Cells, ...]) -> Node:
    """`build_attn_mha` where the keys are the values too."""
    g, u = b.g, b.u
    d, n, _ = q.shape
    cells = mask.shape[0]
    heads = g.view(g.view(q, d, n, u), d, u, n, contiguous=False)
    if b.shape.flash:
        y = Node((d, n, u), F32, (heads, keys, mask), device=g.device)  # its sinks are a weight
        y.size += b.scratch(kinds, d, 0, n, d)
        y = g.view(y, d * n, u)
    else:
        kq = g.over(g.new(cells, u, n, of=(keys, heads)), mask, weighted=True)
        values = Node((cells, d), 1, (keys,))
        values.size = int(cells * d * b.shape.k_cached)
        y = g.new(d, u, n, of=(values, kq))
        y = g.new(d * n, u, of=(g.view(y, d, n, u, contiguous=False),))
    g.expand(y)
    return y
