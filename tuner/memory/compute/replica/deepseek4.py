"""Attention over compressed caches as graph nodes: src/models/deepseek4.cpp.

Every layer attends to a window of raw keys, which are the values too. Layers of ratio 4 add the
best of the rows that stand for four tokens each, picked by an indexer with a compressed cache
of its own; layers of ratio 128 add all rows of their cache. The sizes of a graph's inputs are
those of `dsv4_build_reserve_comp_plan` (src/llama-kv-cache-dsv4.cpp).
"""

from __future__ import annotations

from math import prod

from tuner.memory.compute.graph import F16, F32, I32, I64, Node
from tuner.memory.compute.replica.builder import GraphBuilder, Tensors
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
    q = g.over(g.over(g.view(b.mm(t, "attn_q_b", low), d, n, n_tokens)), b.pos)
    kv = g.view(b.norm(t, "attn_kv_a_norm", b.mm(t, "attn_kv", x)), d, 1, n_tokens)
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
        q, kv = (b.hadamard(v, WINDOW, "k", d) for v in (q, kv))
    g.expand(q)
    g.expand(kv)
    g.expand(g.store(g.view(kv, d, n_tokens), b.k_idxs[WINDOW]))

    cells = b.cells[WINDOW]
    bytes_k = b.shape.k_cached
    keys = g.external(int(cells * d * bytes_k), g.device)
    mask = b.masks[WINDOW]
    element = F16 if b.shape.flash else F32
    if ratio:
        rows = b.cells[Cells(ratio)]
        compressed = g.external(int(rows * d * bytes_k), g.device)
        cells += rows
        keys = Node((d, 1, cells), 1, (keys, compressed))
        keys.size = int(cells * d * bytes_k)
        beside = _mask(b, ratio)
        if top is not None:
            beside = _shown(b, beside, top)
        mask = Node((cells, n_tokens), element, (mask, beside))
    y = _attend(b, t, q, keys, mask, (WINDOW, Cells(ratio)) if ratio else (WINDOW,))
    if turned:
        y = b.hadamard(y, WINDOW, "k", d)
    y = g.over(g.view(y, d, n, n_tokens), b.pos)
    w = t["attn_output_a.weight"]
    groups = t["attn_output_b.weight"].shape[0] * d * n // prod(w.shape)
    grouped = g.view(y, d * n // groups, n_tokens, groups, contiguous=False)
    rank = prod(w.shape) // w.shape[0] // groups
    y = g.product((rank, n_tokens, groups), (grouped,), g.held(w))
    y = g.new(rank * groups, n_tokens, of=(g.view(y, rank, groups, n_tokens, contiguous=False),))
    return b.mm(t, "attn_output_b", y)


def ratio_of(t: Tensors) -> int:
    """How many tokens a compressed row of this layer stands for; 0: it has none."""
    ape = t.get("attn_compressor_ape.weight")
    return ape.shape[1] if ape is not None else 0


def _turned(b: GraphBuilder, d: int) -> bool:
    """Whether keys are rotated (Hadamard): a quantized cache's are, the indexer's always, and
    the engine takes every cache of heads as wide for the indexer's."""
    return b.shape.rotate_k or d == b.hp.indexer_head


def _mask(b: GraphBuilder, kind: int, element: int = 0) -> Node:
    """Which compressed rows a token may see: [rows, n_tokens]."""
    rows = b.cells[Cells(abs(kind))]
    return b.input(
        kind, "mask", rows, b.n_tokens, element=element or (F16 if b.shape.flash else F32)
    )


def _compress(b: GraphBuilder, t: Tensors, x: Node, name: str, kind: int, d: int) -> None:
    """Finishes the rows that these tokens complete, and stores what is left for the next ones.
    With ratio 4 each row looks back at the four tokens before its own. x: [n_embd, n_tokens];
    `d`: elements of a row; `name`: of the compressor's tensors."""
    g, n_tokens = b.g, b.n_tokens
    ratio = abs(kind)
    overlap = ratio == CSA
    wide = 2 * d if overlap else d
    kept = 2 * ratio if overlap else ratio  # rows of state
    blocks = b.counts[f"blocks of {ratio}"]
    values = b.mm(t, f"{name}_compressor_kv", x)
    scores = b.mm(t, f"{name}_compressor_gate", x)
    where = b.input(kind, "pos", n_tokens)
    scores = g.over(scores, Node((wide, n_tokens), F32, (where,), device=g.device))
    reads = b.input(kind, "reads", (2 if overlap else 1) * ratio * blocks)
    sources = [
        g.new(wide, kept + n_tokens, of=(g.external(F32 * wide * kept, g.device), rows))
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
    row = b.by(t, f"{name}_compressor_norm.weight", g.over(row))
    row = g.over(row, b.input(kind, "places", blocks))
    if kind == _INDEX or _turned(b, d):
        row = b.hadamard(row, kind, "k", d)
    g.expand(g.store(g.view(row, d, blocks), b.input(kind, "writes", blocks, element=I64)))
    n = b.counts[f"{kept} kept"]
    source, target = b.input(kind, "kept from", n), b.input(kind, "kept at", n)
    stores = [g.store(g.new(wide, n, of=(rows, source)), target) for rows in (values, scores)]
    g.expand(*stores)


def _overlapping(
    b: GraphBuilder, source: Node, reads: Node, d: int, ratio: int, blocks: int
) -> Node:
    """For each block the rows before and its own, side by side for the softmax over them:
    [2 d, rows] -> [2 ratio, d, blocks]."""
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


def _top_rows(b: GraphBuilder, t: Tensors, x: Node, low: Node) -> Node:
    """The rows that the indexer picks for each token (`build_lid_top_k`): [n_top, n_tokens]."""
    g, hp, n_tokens = b.g, b.hp, b.n_tokens
    d = hp.indexer_head
    q = b.mm(t, "indexer.attn_q_b", low)
    heads = q.shape[0] // d
    q = b.hadamard(g.over(g.view(q, d, heads, n_tokens), b.pos), _INDEX, "k", d)
    weights = g.over(b.mm(t, "indexer.proj", x))
    rows = b.cells[CSA]
    cached = g.external(int(rows * d * b.shape.k_bytes), g.device)
    q = g.view(q, d, heads, n_tokens)
    score = g.new(
        rows, n_tokens, of=(q, cached, g.view(weights, heads, n_tokens), _mask(b, _INDEX, F16))
    )
    n_top = b.counts["top"]
    top = g.new(n_top, n_tokens, of=(score,), element=I32)
    return g.new(n_top, n_tokens, of=(top,), element=I32)


def _shown(b: GraphBuilder, mask: Node, top: Node) -> Node:
    """The mask, [rows, n_tokens], with everything hidden but the chosen ones
    (`build_top_k_mask`)."""
    g, n_tokens = b.g, b.n_tokens
    cells = mask.shape[0]
    element = F16 if b.shape.flash else F32
    hidden = Node((cells, n_tokens), element, (mask,), inplace=True)
    zeros = Node(
        (1, top.shape[0], n_tokens), element, device=g.device
    )  # a leaf, there from the start
    shown = Node(zeros.shape, element, (zeros,), inplace=True)
    rows = Node(
        (0,), 0, (shown, g.view(top, *top.shape), g.view(hidden, 1, cells, n_tokens)), root=hidden
    )
    return Node((cells, n_tokens), element, (g.view(rows, cells, n_tokens), mask), inplace=True)


def _attend(
    b: GraphBuilder, t: Tensors, q: Node, keys: Node, mask: Node, kinds: tuple[Cells, ...]
) -> Node:
    """`build_attn_mha` where the keys are the values too: [d, n_head, n_tokens]
    -> [d n_head, n_tokens]."""
    g, n_tokens = b.g, b.n_tokens
    d, n, _ = q.shape
    cells = mask.shape[0]
    heads = g.view(g.view(q, d, n, n_tokens), d, n_tokens, n, contiguous=False)
    if b.shape.flash:
        y = Node(
            (d, n, n_tokens), F32, (heads, keys, mask), device=g.device
        )  # its sinks are a weight
        y.extra = of_attention(b, kinds, (d, d), 1, n, within=True, listed=CSA in kinds)
        y = g.view(y, d * n, n_tokens)
    else:
        sinks = t["attn_sinks.weight"].n_bytes
        kq = g.over(g.new(cells, n_tokens, n, of=(keys, heads)), mask, weight=sinks)
        values = Node((cells, d), 1, (keys,))
        values.size = int(cells * d * b.shape.k_cached)
        y = g.new(d, n_tokens, n, of=(values, kq))
        y = g.new(d * n, n_tokens, of=(g.view(y, d, n, n_tokens, contiguous=False),))
    g.expand(y)
    return y
