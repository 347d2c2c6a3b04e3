"""Latent attention to pools of tokens as graph nodes: src/models/glm5-next.cpp.

An indexer caches a key, a gate and a pooled key per token, scores whole pools of `kpool` tokens
and opens the mask for the best ones and for the tokens of the last, incomplete pool. The graph
is reserved for a ubatch that completes every pool of the context (`kpool_build_sizes` and
`init_full` in src/llama-memory-hybrid-idx.cpp).
"""

from __future__ import annotations

from tuner.memory.compute.graph import F16, I32, I64, Node
from tuner.memory.compute.replica.attention import attend
from tuner.memory.compute.replica.builder import GraphBuilder, Tensors
from tuner.memory.compute.replica.dsa import PICKED, best, scored
from tuner.memory.compute.replica.extras import of_order
from tuner.memory.kv_cache import ALL


def pooled_attention(b: GraphBuilder, t: Tensors, il: int, x: Node) -> Node:
    """x: normed, [n_embd, n_tokens] -> the same. A layer without an indexer takes what the one
    before it picked."""
    g, hp, n_tokens = b.g, b.hp, b.n_tokens
    n = hp.n_head[il]
    low = b.norm(t, "attn_q_a_norm", b.mm(t, "attn_q_a", x))
    q = b.mm(t, "attn_q_b", low)
    latent = b.norm(t, "attn_kv_a_norm", b.mm(t, "attn_kv_a_mqa", x))
    lora = latent.shape[0]
    w = t["attn_k_b.weight"]
    turned = g.permute(g.reshape(q, w.shape[0], n, n_tokens), w.shape[0], n_tokens, n)
    absorbed = g.reads(w, g.product((lora, n_tokens, n), (turned,), g.held(w)))
    q = g.permute(absorbed, lora, n, n_tokens)
    if b.has(t, "indexer.attn_q_b") and hp.indexer_full[il]:
        b.carried[PICKED] = _selection(b, t, x, low)
    chosen = b.carried[PICKED]
    latent = g.reshape(latent, lora, 1, n_tokens)
    v_b = t["attn_v_b.weight"]
    if b.shape.attends_by_copy:
        y = _gathered(b, q, latent, chosen)
        y = g.reads(v_b, g.mm(v_b.shape[1], y, g.held(v_b)))
        y = g.cont(g.permute(y, v_b.shape[1], n, 1, n_tokens))
        return b.mm(t, "attn_output", g.reshape(y, v_b.shape[1] * n, n_tokens))
    y = attend(
        b,
        il,
        q,
        latent,
        latent,
        v_rows=v_b.shape[1],
        scale=g.held(v_b),
        mask_of=lambda: _reshaped(chosen, *chosen.shape),
    )
    return b.mm(t, "attn_output", y)


def _gathered(b: GraphBuilder, q: Node, latent: Node, chosen: Node) -> Node:
    """Attention of each token to its own copy of the chosen latent rows. q: [lora, n_head,
    n_tokens], latent: [lora, 1, n_tokens], chosen: [n, n_tokens] -> [lora, 1, n_head, n_tokens]."""
    g, n_tokens = b.g, b.n_tokens
    lora, n_head, _ = q.shape
    n = chosen.shape[0]
    g.expand(q)
    g.expand(latent)
    home = g.external(0, g.device)
    g.expand(g.stored(g.view(latent, lora, n_tokens), b.k_idxs[ALL], home))
    g.expand(b.masks[ALL])
    of = (_rows(b, home, lora, lora), _reshaped(chosen, n * n_tokens))
    keys = g.reshape(g.new(lora, n * n_tokens, of=of, op="GET_ROWS"), lora, n, 1, n_tokens)
    each = g.permute(q, lora, 1, n_head, n_tokens)
    scores = g.new(n, 1, n_head, n_tokens, of=(keys, each), op="MUL_MAT")
    scores = g.over(scores, b.inputs[ALL, "chosen mask"], op="SOFT_MAX")
    turned = g.view(keys, n, lora, 1, n_tokens, contiguous=False, op="TRANSPOSE")
    return g.new(lora, 1, n_head, n_tokens, of=(g.cont(turned), scores), op="MUL_MAT")


def _rows(b: GraphBuilder, cache: Node, n: int, wide: int) -> Node:
    """Some n elements of every row of a cache of this layer, `wide` elements each; a copy for
    another device takes what lies between them along."""
    cells = b.cells[ALL]
    rows = b.g.view(cache, n, cells, contiguous=False)
    rows.size = int(((cells - 1) * wide + n) * b.shape.k_bytes)
    return rows


def _reshaped(x: Node, *shape: int) -> Node:
    """x, which is not in F32, under another shape."""
    return Node(shape, x.element, (x,), "RESHAPE", root=x.root or x)


def pool_inputs(b: GraphBuilder) -> None:
    """The indexer's inputs, which are there from the start."""
    g, n_tokens, kpool = b.g, b.n_tokens, b.hp.indexer_kpool
    n_pool, _, chosen = _pools(b)
    b.inputs = {
        (ALL, "cells"): g.input(n_pool, element=I32),
        (ALL, "members"): g.input(kpool, n_pool, element=I32),
        (ALL, "pool mask"): g.input(n_pool, n_tokens, element=F16),
        (ALL, "tail"): g.input(kpool - 1, n_tokens, element=I32),
        (ALL, "chosen mask"): g.input(chosen, 1, 1, n_tokens),
    }
    g.expand(*b.inputs.values())
    new = b.counts["complete"]
    b.inputs[ALL, "rows"] = g.input(n_tokens, element=I64)
    b.inputs[ALL, "new members"] = g.input(kpool, new, element=I32)
    b.inputs[ALL, "new places"] = g.input(new, element=I64)


def _pools(b: GraphBuilder) -> tuple[int, int, int]:
    """Pools of the context with padding, how many of them the indexer picks, and the tokens that
    it picks with them."""
    kpool = b.hp.indexer_kpool
    n_pool, n_top = b.counts["pools"], b.counts["top"]
    return n_pool, n_top, kpool * n_top + (kpool - 1 if b.hp.indexer_tail else 0)


def _pooled(b: GraphBuilder, t: Tensors, x: Node) -> Node:
    """Stores what these tokens add, pools what is complete. x: [n_embd, n_tokens] -> the pooled
    keys of the context, [indexer_head, pools]."""
    g, n_tokens, d, kpool = b.g, b.n_tokens, b.hp.indexer_head, b.hp.indexer_kpool
    keys = b.norm(t, "indexer.k_norm", b.mm(t, "indexer.attn_k", x))
    gates = b.mm(t, "indexer_compressor_gate", x)
    blank = g.over(Node((d, n_tokens)), op="FILL")
    both = g.new(2 * d, n_tokens, of=(keys, gates), op="CONCAT")
    packed = g.new(3 * d, n_tokens, of=(both, blank), op="CONCAT")
    packed = g.view(g.reshape(packed, 3 * d, 1, n_tokens), 3 * d, n_tokens)
    home = g.external(0, g.device)
    g.expand(g.stored(packed, b.inputs[ALL, "rows"], home))
    members = b.inputs[ALL, "new members"]
    new = members.shape[1]
    of = (_rows(b, home, 2 * d, 3 * d), _reshaped(members, kpool * new))
    rows = g.reshape(g.new(2 * d, kpool * new, of=of, op="GET_ROWS"), 2 * d, kpool, new)
    values, logits = (
        g.view(rows, d, kpool, new, contiguous=False, stride=2 * d * kpool) for _ in range(2)
    )
    logits = b.by(t, "indexer_compressor_ape.weight", logits, "ADD")
    logits = g.cont(g.permute(logits, kpool, d, new))
    probs = g.over(g.reshape(logits, kpool, d * new), op="SOFT_MAX")
    values = g.cont(g.permute(values, kpool, d, new))
    blend = g.mul(g.reshape(probs, kpool, d, new), values)
    row = g.reshape(g.new(1, d, new, of=(blend,), op="SUM_ROWS"), d, new)
    pooled = _rows(b, home, d, 3 * d)
    g.expand(g.stored(row, b.inputs[ALL, "new places"], home, pooled))
    n_pool, _, _ = _pools(b)
    return g.new(d, n_pool, of=(pooled, b.inputs[ALL, "cells"]), op="GET_ROWS")


def _selection(b: GraphBuilder, t: Tensors, x: Node, low: Node) -> Node:
    """The cells of the chosen pools and the tail, or the causal mask with everything else hidden
    (`build_kpool_select`)."""
    g, hp, n_tokens = b.g, b.hp, b.n_tokens
    d, kpool = hp.indexer_head, hp.indexer_kpool
    n_pool, n_top, n = _pools(b)
    q = b.mm(t, "indexer.attn_q_b", low)
    q = g.reshape(q, d, q.shape[0] // d, n_tokens)
    pooled = g.reshape(_pooled(b, t, x), d, 1, n_pool)
    weights = g.over(b.mm(t, "indexer.proj", x), op="SCALE")
    score = scored(b, q, pooled, weights, b.inputs[ALL, "pool mask"])
    top = _ordered(b, score, n_top)
    members = b.inputs[ALL, "members"], _reshaped(top, n_top * n_tokens)
    chosen = g.new(kpool, n_top * n_tokens, of=members, op="GET_ROWS", element=I32)
    chosen = _reshaped(chosen, kpool * n_top, n_tokens)
    if hp.indexer_tail:
        tail = b.inputs[ALL, "tail"]
        chosen = g.new(n, n_tokens, of=(chosen, tail), op="CONCAT", element=I32)
    return chosen if b.shape.attends_by_copy else _opened(b, chosen, n)


def _ordered(b: GraphBuilder, score: Node, n: int) -> Node:
    """The places of the n best in each row, by their score: [n_row, n_tokens] -> [n, n_tokens]."""
    g = b.g
    rows, n_tokens = score.shape
    top = best(b, score, n)
    scores = g.new(1, n, n_tokens, of=(g.reshape(score, 1, rows, n_tokens), top), op="GET_ROWS")
    order = g.new(n, n_tokens, of=(g.reshape(scores, n, n_tokens),), op="ARGSORT", element=I32)
    order.extra = of_order(b, order)
    numbers = g.reshape(g.new(n, n_tokens, of=(top,), op="CPY"), 1, n, n_tokens)
    ordered = g.new(1, n, n_tokens, of=(numbers, order), op="GET_ROWS")
    ordered = g.cont(g.reshape(ordered, n, n_tokens))
    return g.new(n, n_tokens, of=(ordered,), op="CPY", element=I32)


def _opened(b: GraphBuilder, chosen: Node, n: int) -> Node:
    """The causal mask where the `n` chosen cells of each token are, hidden elsewhere. Slots
    without a cell write to rows of their own behind the mask."""
    g, n_tokens, cells = b.g, b.n_tokens, b.cells[ALL]
    mask = b.masks[ALL]
    seed = g.new(1, of=(g.view(chosen, 1),), op="CPY")
    hiding = g.new(1, of=(seed,), op="CPY", element=F16) if b.shape.flash else seed
    hiding = Node((1,), hiding.element, (hiding,), "FILL", inplace=True)
    hidden = g.new(1, cells + n, n_tokens, of=(hiding,), op="REPEAT", element=hiding.element)
    zeros = g.new(1, n, n_tokens, of=(g.over(seed, op="FILL"),), op="REPEAT")
    live = g.over(g.reshape(b.inputs[ALL, "chosen mask"], n, n_tokens), op="EXP")
    # made of nothing, yet no leaf
    counted = g.new(n, of=(Node((0,), 0, external=True),), op="ARANGE")
    where = g.new(n, n_tokens, of=(chosen,), op="CPY")
    where = g.add(g.mul(g.over(where, counted, op="SUB"), live), counted)
    where = _reshaped(g.new(n, n_tokens, of=(where,), op="CPY", element=I32), n, n_tokens, 1)
    whole = _reshaped(hidden, *hidden.shape)
    of = (g.reshape(zeros, *zeros.shape), where, whole)
    written = Node(whole.shape, mask.element, of, "SET_ROWS", root=hidden)
    visible = g.view(written, cells, n_tokens, contiguous=False)
    causal = _reshaped(mask, cells, n_tokens)
    return Node((cells, n_tokens), mask.element, (visible, causal), "ADD", inplace=True)
