"""Latent attention to pools of tokens as graph nodes: src/models/glm5-next.cpp.

An indexer caches a key, a gate and a pooled key per token, scores whole pools of `kpool` tokens
and opens the mask for the best ones and for the tokens of the last, incomplete pool. The graph
is reserved for a ubatch that completes every pool of the context (`kpool_build_sizes` and
`init_full` in src/llama-memory-hybrid-idx.cpp).
"""

from __future__ import annotations

from tuner.memory.compute.graph import F16, F32, I32, I64, Node
from tuner.memory.compute.replica.attention import LayerBuilder, Tensors
from tuner.memory.kv_cache import ALL


def pooled_attention(b: LayerBuilder, t: Tensors, il: int, x: Node) -> Node:
    """x is the normed input. A layer without an indexer takes what the one before it picked."""
    g, hp, u = b.g, b.hp, b.u
    n = hp.n_head[il]
    low = b.norm(t, "attn_q_a_norm", b.mm(t, "attn_q_a", x))
    q = b.mm(t, "attn_q_b", low)
    latent = b.norm(t, "attn_kv_a_norm", b.mm(t, "attn_kv_a_mqa", x))
    lora = latent.shape[0]
    w = t["attn_k_b.weight"]
    turned = g.view(g.view(q, w.shape[0], n, u), w.shape[0], u, n, contiguous=False)
    q = g.view(g.weighted((lora, u, n), (turned,), w.n_bytes), lora, n, u, contiguous=False)
    if b.has(t, "indexer.attn_q_b") and hp.indexer_full[il]:
        b.chosen = _selection(b, t, x, low)
    chosen = b.chosen
    assert chosen is not None
    latent = g.view(latent, lora, 1, u)
    v_b = t["attn_v_b.weight"]
    if b.shape.gathers:
        y = _gathered(b, q, latent, chosen)
        y = g.mm(v_b.shape[1], y, v_b.n_bytes)
        y = g.new(v_b.shape[1], n, 1, u, of=(g.view(y, *y.shape, contiguous=False),))
        return b.mm(t, "attn_output", g.view(y, v_b.shape[1] * n, u))
    element = F16 if b.shape.flash else F32
    y = b.attend(
        il, q, latent, latent, v_rows=v_b.shape[1], scale=v_b.n_bytes,
        mask_of=lambda: Node(chosen.shape, element, (chosen,), root=chosen),
    )  # fmt: skip
    return b.mm(t, "attn_output", y)


def _gathered(b: LayerBuilder, q: Node, latent: Node, chosen: Node) -> Node:
    """Attention of each token to its own copy of the chosen latent rows."""
    g, u = b.g, b.u
    lora, n_head, _ = q.shape
    n = chosen.shape[0]
    g.expand(q)
    g.expand(latent)
    g.expand(g.store(g.view(latent, lora, u), b.k_idxs[ALL]))
    g.expand(b.masks[ALL])
    cached = g.outside(int(b.cells[ALL] * lora * b.shape.k_bytes), g.device)
    rows = g.new(lora, n * u, of=(cached, g.view(chosen, n * u)))
    keys = g.view(rows, lora, n, 1, u)
    scores = g.new(n, 1, n_head, u, of=(keys, g.view(q, lora, 1, n_head, u, contiguous=False)))
    scores = g.over(scores, b.inputs[ALL, "chosen mask"])
    values = g.new(n, lora, 1, u, of=(g.view(keys, n, lora, 1, u, contiguous=False),))
    return g.new(lora, 1, n_head, u, of=(values, scores))


def pool_inputs(b: LayerBuilder) -> None:
    """The indexer's inputs, which are there from the start."""
    g, u, kpool = b.g, b.u, b.hp.indexer_kpool
    n_pool, _, chosen = _pools(b)
    b.inputs = {
        (ALL, "cells"): g.input(n_pool, element=I32),
        (ALL, "members"): g.input(kpool, n_pool, element=I32),
        (ALL, "pool mask"): g.input(n_pool, u, element=F16),
        (ALL, "tail"): g.input(kpool - 1, u, element=I32),
        (ALL, "chosen mask"): g.input(chosen, 1, 1, u),
    }
    g.expand(*b.inputs.values())
    new = b.counts["complete"]
    b.inputs[ALL, "rows"] = g.input(u, element=I64)
    b.inputs[ALL, "new members"] = g.input(kpool, new, element=I32)
    b.inputs[ALL, "new places"] = g.input(new, element=I64)


def _pools(b: LayerBuilder) -> tuple[int, int, int]:
    """Pools of the context with padding, how many of them the indexer picks, and the tokens that
    it picks with them."""
    kpool = b.hp.indexer_kpool
    n_pool, n_top = b.counts["pools"], b.counts["top"]
    return n_pool, n_top, kpool * n_top + (kpool - 1 if b.hp.indexer_tail else 0)


def _pooled(b: LayerBuilder, t: Tensors, x: Node) -> Node:
    """Stores what these tokens add, pools what is complete; the pooled keys of the context."""
    g, u, d, kpool = b.g, b.u, b.hp.indexer_head, b.hp.indexer_kpool
    keys = b.norm(t, "indexer.k_norm", b.mm(t, "indexer.attn_k", x))
    gates = b.mm(t, "indexer_compressor_gate", x)
    blank = g.over(Node((d, u), F32, device=g.device))
    packed = g.new(3 * d, u, of=(g.new(2 * d, u, of=(keys, gates)), blank))
    g.expand(g.store(g.view(packed, 3 * d, u), b.inputs[ALL, "rows"]))
    members = b.inputs[ALL, "new members"]
    new = members.shape[1]
    cached = g.outside(int(3 * d * b.cells[ALL] * b.shape.k_bytes), g.device)
    rows = g.new(2 * d, kpool * new, of=(cached, g.view(members, kpool * new)))
    part = g.view(rows, d, kpool, new, contiguous=False)
    logits = Node((d, kpool, new), F32, (part,), device=g.device)
    logits = g.new(kpool, d, new, of=(g.view(logits, kpool, d, new, contiguous=False),))
    probs = g.over(g.view(logits, kpool, d * new))
    values = g.view(g.view(rows, d, kpool, new, contiguous=False), kpool, d, new, contiguous=False)
    blend = g.over(g.view(probs, kpool, d, new), g.new(kpool, d, new, of=(values,)))
    row = g.view(g.new(1, d, new, of=(blend,)), d, new)
    g.expand(g.store(row, b.inputs[ALL, "new places"]))
    n_pool, _, _ = _pools(b)
    return g.new(d, n_pool, of=(cached, b.inputs[ALL, "cells"]))


def _selection(b: LayerBuilder, t: Tensors, x: Node, low: Node) -> Node:
    """The cells of the chosen pools and the tail, or the causal mask with everything else hidden
    (`build_kpool_select`)."""
    g, hp, u = b.g, b.hp, b.u
    d, kpool = hp.indexer_head, hp.indexer_kpool
    n_pool, n_top, n = _pools(b)
    q = b.mm(t, "indexer.attn_q_b", low)
    heads = q.shape[0] // d
    pooled = _pooled(b, t, x)
    weights = g.over(b.mm(t, "indexer.proj", x))
    score = g.new(
        n_pool, u,
        of=(g.view(q, d, heads, u), g.view(pooled, d, 1, n_pool), weights,
            b.inputs[ALL, "pool mask"]),
    )  # fmt: skip
    top = g.new(n_top, u, of=(score,), element=I32)
    scores = g.new(1, n_top, u, of=(g.view(score, 1, n_pool, u), top))
    order = g.new(n_top, u, of=(g.view(scores, n_top, u),), element=I32)
    numbers = g.new(n_top, u, of=(top,))
    ordered = g.new(1, n_top, u, of=(g.view(numbers, 1, n_top, u), order))
    ordered = g.new(n_top, u, of=(g.view(ordered, n_top, u),))
    top = g.new(n_top, u, of=(ordered,), element=I32)
    chosen = g.new(kpool, n_top * u, of=(b.inputs[ALL, "members"], g.view(top, n_top * u)),
                   element=I32)  # fmt: skip
    chosen = g.view(chosen, kpool * n_top, u)
    if hp.indexer_tail:
        chosen = g.new(n, u, of=(chosen, b.inputs[ALL, "tail"]), element=I32)
    return chosen if b.shape.gathers else _opened(b, chosen, n)


def _opened(b: LayerBuilder, chosen: Node, n: int) -> Node:
    """The causal mask where the `n` chosen cells of each token are, hidden elsewhere. Slots
    without a cell write to rows of their own behind the mask."""
    g, u, cells = b.g, b.u, b.cells[ALL]
    mask = b.masks[ALL]
    element = F16 if b.shape.flash else F32
    seed = g.new(1, of=(g.view(chosen, 1),))
    hiding = g.new(1, of=(seed,), element=F16) if b.shape.flash else seed
    hiding = Node((1,), element, (hiding,), inplace=True)
    hidden = g.new(1, cells + n, u, of=(hiding,), element=element)
    zeros = g.new(1, n, u, of=(g.over(seed),))
    live = g.over(g.view(b.inputs[ALL, "chosen mask"], n, u))
    counted = g.new(n, of=(Node((0,), 0, external=True),))  # made of nothing, yet no leaf
    where = g.over(g.over(g.over(g.new(n, u, of=(chosen,)), counted), live), counted)
    where = g.new(n, u, of=(where,), element=I32)
    written = Node(
        (0,), 0, (g.view(zeros, 1, n, u), g.view(where, n, u, 1), g.view(hidden, 1, cells + n, u)),
        root=hidden,
    )  # fmt: skip
    visible = g.view(written, cells, u, contiguous=False)
    reshaped = Node((cells, u), element, (mask,), root=mask)
    return Node((cells, u), element, (visible, reshaped), inplace=True)
