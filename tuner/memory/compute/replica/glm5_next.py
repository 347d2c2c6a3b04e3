"""Latent attention to pools of tokens as graph nodes: src/models/glm5-next.cpp.

An indexer caches a key, a gate and a pooled key per token, scores whole pools of `kpool` tokens
and opens the mask for the best ones and for the tokens of the last, incomplete pool. The graph
is reserved for a ubatch that completes every pool of the context (`kpool_build_sizes` and
`init_full` in src/llama-memory-hybrid-idx.cpp).
"""

from __future__ import annotations

from tuner.memory.compute.graph import F16, F32, I32, I64, Node
from tuner.memory.compute.replica.attention import attend
from tuner.memory.compute.replica.builder import GraphBuilder, Tensors
from tuner.memory.compute.replica.dsa import PICKED
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
    turned = g.view(g.view(q, w.shape[0], n, n_tokens), w.shape[0], n_tokens, n, contiguous=False)
    q = g.view(
        g.product((lora, n_tokens, n), (turned,), g.held(w)), lora, n, n_tokens, contiguous=False
    )
    if b.has(t, "indexer.attn_q_b") and hp.indexer_full[il]:
        b.carried[PICKED] = _selection(b, t, x, low)
    chosen = b.carried[PICKED]
    latent = g.view(latent, lora, 1, n_tokens)
    v_b = t["attn_v_b.weight"]
    if b.shape.attends_by_copy:
        y = _gathered(b, q, latent, chosen)
        y = g.mm(v_b.shape[1], y, g.held(v_b))
        y = g.new(v_b.shape[1], n, 1, n_tokens, of=(g.view(y, *y.shape, contiguous=False),))
        return b.mm(t, "attn_output", g.view(y, v_b.shape[1] * n, n_tokens))
    element = F16 if b.shape.flash else F32
    y = attend(
        b,
        il,
        q,
        latent,
        latent,
        v_rows=v_b.shape[1],
        scale=g.held(v_b),
        mask_of=lambda: Node(chosen.shape, element, (chosen,), root=chosen),
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
    g.expand(g.store(g.view(latent, lora, n_tokens), b.k_idxs[ALL]))
    g.expand(b.masks[ALL])
    cached = g.external(int(b.cells[ALL] * lora * b.shape.k_bytes), g.device)
    rows = g.new(lora, n * n_tokens, of=(cached, g.view(chosen, n * n_tokens)))
    keys = g.view(rows, lora, n, 1, n_tokens)
    scores = g.new(
        n, 1, n_head, n_tokens, of=(keys, g.view(q, lora, 1, n_head, n_tokens, contiguous=False))
    )
    scores = g.over(scores, b.inputs[ALL, "chosen mask"])
    values = g.new(n, lora, 1, n_tokens, of=(g.view(keys, n, lora, 1, n_tokens, contiguous=False),))
    return g.new(lora, 1, n_head, n_tokens, of=(values, scores))


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
    blank = g.over(Node((d, n_tokens), F32, device=g.device))
    packed = g.new(3 * d, n_tokens, of=(g.new(2 * d, n_tokens, of=(keys, gates)), blank))
    g.expand(g.store(g.view(packed, 3 * d, n_tokens), b.inputs[ALL, "rows"]))
    members = b.inputs[ALL, "new members"]
    new = members.shape[1]
    cached = g.external(int(3 * d * b.cells[ALL] * b.shape.k_bytes), g.device)
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


def _selection(b: GraphBuilder, t: Tensors, x: Node, low: Node) -> Node:
    """The cells of the chosen pools and the tail, or the causal mask with everything else hidden
    (`build_kpool_select`)."""
    g, hp, n_tokens = b.g, b.hp, b.n_tokens
    d, kpool = hp.indexer_head, hp.indexer_kpool
    n_pool, n_top, n = _pools(b)
    q = b.mm(t, "indexer.attn_q_b", low)
    heads = q.shape[0] // d
    pooled = _pooled(b, t, x)
    weights = g.over(b.mm(t, "indexer.proj", x))
    score = g.new(
        n_pool,
        n_tokens,
        of=(
            g.view(q, d, heads, n_tokens),
            g.view(pooled, d, 1, n_pool),
            weights,
            b.inputs[ALL, "pool mask"],
        ),
    )
    top = g.new(n_top, n_tokens, of=(score,), element=I32)
    scores = g.new(1, n_top, n_tokens, of=(g.view(score, 1, n_pool, n_tokens), top))
    order = g.new(n_top, n_tokens, of=(g.view(scores, n_top, n_tokens),), element=I32)
    numbers = g.new(n_top, n_tokens, of=(top,))
    ordered = g.new(1, n_top, n_tokens, of=(g.view(numbers, 1, n_top, n_tokens), order))
    ordered = g.new(n_top, n_tokens, of=(g.view(ordered, n_top, n_tokens),))
    top = g.new(n_top, n_tokens, of=(ordered,), element=I32)
    chosen = g.new(
        kpool,
        n_top * n_tokens,
        of=(b.inputs[ALL, "members"], g.view(top, n_top * n_tokens)),
        element=I32,
    )
    chosen = g.view(chosen, kpool * n_top, n_tokens)
    if hp.indexer_tail:
        chosen = g.new(n, n_tokens, of=(chosen, b.inputs[ALL, "tail"]), element=I32)
    return chosen if b.shape.attends_by_copy else _opened(b, chosen, n)


def _opened(b: GraphBuilder, chosen: Node, n: int) -> Node:
    """The causal mask where the `n` chosen cells of each token are, hidden elsewhere. Slots
    without a cell write to rows of their own behind the mask."""
    g, n_tokens, cells = b.g, b.n_tokens, b.cells[ALL]
    mask = b.masks[ALL]
    element = F16 if b.shape.flash else F32
    seed = g.new(1, of=(g.view(chosen, 1),))
    hiding = g.new(1, of=(seed,), element=F16) if b.shape.flash else seed
    hiding = Node((1,), element, (hiding,), inplace=True)
    hidden = g.new(1, cells + n, n_tokens, of=(hiding,), element=element)
    zeros = g.new(1, n, n_tokens, of=(g.over(seed),))
    live = g.over(g.view(b.inputs[ALL, "chosen mask"], n, n_tokens))
    counted = g.new(n, of=(Node((0,), 0, external=True),))  # made of nothing, yet no leaf
    where = g.over(g.over(g.over(g.new(n, n_tokens, of=(chosen,)), counted), live), counted)
    where = g.new(n, n_tokens, of=(where,), element=I32)
    written = Node(
        (0,),
        0,
        (
            g.view(zeros, 1, n, n_tokens),
            g.view(where, n, n_tokens, 1),
            g.view(hidden, 1, cells + n, n_tokens),
        ),
        root=hidden,
    )
    visible = g.view(written, cells, n_tokens, contiguous=False)
    reshaped = Node((cells, n_tokens), element, (mask,), root=mask)
    return Node((cells, n_tokens), element, (visible, reshaped), inplace=True)
