"""qwen4exp as graph nodes (src/models/qwen4exp.cpp): gated hyper-connections, attention to blocks
of tokens, embeddings of n-grams.

The residual is several streams per token in place of norms: a gate blends them into one row
before each part of a layer (`build_hc_mix`), behind it the part's result is added to each
(`build_hc_combine`). An indexer scores the means of blocks of cached keys and leaves attention
the best blocks. One recurrent layer adds what the last few tokens are together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tuner.memory.compute.graph import F32, HOST, I32, I64, Node
from tuner.memory.compute.replica.attention import attend
from tuner.memory.compute.replica.builder import GraphBuilder, Tensors, output_streams
from tuner.memory.compute.replica.dsa import sparse_mask
from tuner.memory.compute.replica.feed_forward import feed_forward
from tuner.memory.compute.replica.state_space import mixer
from tuner.memory.kv_cache import ALL

_POSITIONS = 4  # numbers that say where a token is
_NGRAMS = "n-grams"  # carried to the layers that add them: [elements, n_tokens]


def widened(b: GraphBuilder, tensors: Sequence[Tensors], output: Tensors, x: Node) -> Node:
    """The embeddings, once per stream: [n_embd, n_tokens] -> [n_embd, streams, n_tokens]."""
    n, n_tokens = x.shape
    _look_up_ngrams(b, tensors)
    streams = tensors[0]["hc_attn_norm.weight"].shape
    hc = streams[1] if len(streams) > 1 else streams[0] // n
    return b.g.new(n, hc, n_tokens, of=(b.g.view(x, n, 1, n_tokens),))


def layer(b: GraphBuilder, t: Tensors, il: int, x: Node, last: bool) -> Node:
    """One layer over all streams: [n_embd, streams, n_tokens] -> the same, or [n_embd, streams,
    n_outputs] where the `last` layer picks the rows that become logits."""
    g = b.g
    if _NGRAMS in b.carried and "ple_key.weight" in t:
        x = _with_ngrams(b, t, b.carried[_NGRAMS], x)
    y, inject = _mixed(b, t, "attn", x)
    g.expand(y)
    mixed = mixer(b, t, y) if b.hp.recurrent[il] else _attention(b, t, il, y)
    assert mixed is not None
    if last:
        mixed, inject = b.output_rows(mixed), b.output_rows(inject)
        x = output_streams(b, x)
    x = _combined(b, x, mixed, inject)
    y, inject = _mixed(b, t, "ffn", x)
    out = feed_forward(b, t, y)
    assert out is not None
    return _combined(b, x, out, inject)


def _gate(b: GraphBuilder, t: Tensors, name: str, x: Node) -> tuple[Node, Node]:
    """The normed streams and a gate for each of their elements: [n_embd, streams, n_tokens] -> two
    of [n_embd x streams, n_tokens]."""
    g = b.g
    n, hc, n_tokens = x.shape
    normed = g.view(b.by(t, f"{name}_norm.weight", g.over(x)), n * hc, n_tokens)
    low = g.over(g.over(b.mm(t, f"{name}_down", normed)))
    return normed, b.mm(t, f"{name}_up", low)


def _mixed(b: GraphBuilder, t: Tensors, part: str, x: Node) -> tuple[Node, Node]:
    """The streams as one row, [n_embd, n_tokens], and how much of what becomes of it each is given,
    [streams, n_tokens] (`build_hc_mix`)."""
    g = b.g
    n, hc, n_tokens = x.shape
    normed, gate = _gate(b, t, f"hc_{part}", x)
    row = g.new(n, n_tokens, of=(g.view(normed, n, hc, n_tokens), g.view(gate, n, hc, n_tokens)))
    return row, b.mm(t, f"hc_{part}_inject", normed)


def _combined(b: GraphBuilder, x: Node, y: Node, inject: Node) -> Node:
    """y, [n_embd, n_tokens], added to every stream of x (`build_hc_combine`) -> [n_embd, streams,
    n_tokens]."""
    g = b.g
    return g.new(*x.shape, of=(y, x, g.over(g.over(g.over(inject)))))


def head(b: GraphBuilder, output: Tensors, x: Node) -> Node:
    """The last mixer, of the rows to output: not one operation as in the layers, and in place of
    a norm. [n_embd, streams, n_outputs] -> [n_embd, n_outputs]."""
    g = b.g
    n, hc, n_tokens = x.shape
    normed, gate = _gate(b, output, "output_hc", x)
    gated = g.over(normed, g.over(gate))
    parts = [g.view(gated, n, n_tokens, contiguous=False, stride=n * hc) for _ in range(hc)]
    total = g.new(n, n_tokens, of=(parts[0],))
    for part in parts[1:]:
        total = g.over(total, part)
    return g.over(total)


# ------------------------------------------------------------------- attention


def _ratio(b: GraphBuilder, il: int) -> int:
    """Tokens per block; 0: the layer attends to every token."""
    return 0 if b.hp.recurrent[il] else b.hp.compress_ratios[il]


def _attention(b: GraphBuilder, t: Tensors, il: int, x: Node) -> Node:
    """Gated attention, to blocks where the layer has a ratio (`build_layer_attn`,
    `build_attn_qsa`). x: [n_embd, n_tokens] -> the same."""
    g, hp, n_tokens = b.g, b.hp, b.n_tokens
    n, n_kv, d = hp.n_head[il], hp.n_head_kv[il], hp.head_k[il]
    ratio = _ratio(b, il)
    top = _top_tokens(b, t, x, ratio) if ratio else None
    both = b.mm(t, "attn_q", x)  # each head's query and gate side by side
    q = b.norm(t, "attn_q_norm", g.view(both, d, n, n_tokens, contiguous=False))
    k, v = b.mm(t, "attn_k", x), b.mm(t, "attn_v", x)
    k = b.norm(t, "attn_k_norm", g.view(k, d, n_kv, n_tokens))
    gate = g.new(d * n, n_tokens, of=(g.view(both, d, n, n_tokens, contiguous=False),))
    v = g.view(v, d, n_kv, n_tokens)
    q, k = g.over(q, b.pos), g.over(k, b.pos)
    mask_of = partial(sparse_mask, b, top) if top is not None else None
    y = attend(b, il, q, k, v, mask_of=mask_of)
    return b.mm(t, "attn_output", g.over(y, g.over(gate)))


def _top_tokens(b: GraphBuilder, t: Tensors, x: Node, ratio: int) -> Node:
    """The tokens of the blocks that the indexer picks (`build_qsa_top_k`). x: [n_embd, n_tokens] ->
    [width, n_tokens]."""
    g, hp, n_tokens = b.g, b.hp, b.n_tokens
    d, cells = hp.indexer_head, b.cells[ALL]
    blocks = b.counts[f"blocks of {ratio}"]
    rows = b.input(ratio, "rows", n_tokens, element=I64)
    block_of = b.input(ratio, "block of", cells)
    of_blocks = b.input(ratio, "members", ratio * blocks)
    places = b.input(ratio, "places", _POSITIONS * blocks)
    bias = b.input(ratio, "bias", blocks, n_tokens, element=F32)
    k = g.view(b.mm(t, "indexer.k_proj", x), d, 1, n_tokens)
    g.expand(g.store(g.view(k, d, n_tokens), rows))
    cached = g.external(int(cells * d * b.shape.k_bytes), g.device)
    members = g.new(d, ratio * blocks, of=(cached, of_blocks))
    parts = [
        g.new(d, blocks, of=(g.view(members, d, blocks, contiguous=False),)) for _ in range(ratio)
    ]
    pooled = parts[0]
    for part in parts[1:]:
        pooled = g.over(pooled, part)
    pooled = b.norm(t, "indexer.k_norm", g.view(g.over(pooled), d, blocks))
    pooled = g.over(g.view(pooled, d, 1, blocks), places)
    q = b.mm(t, "indexer.q_proj", x)
    heads = q.shape[0] // d
    q = g.over(b.norm(t, "indexer.q_norm", g.view(q, d, heads, n_tokens)), b.pos)
    score = g.new(
        blocks, heads * n_tokens, of=(g.view(pooled, d, blocks), g.view(q, d, heads * n_tokens))
    )
    score = g.over(g.view(score, blocks, heads, n_tokens))
    slices = [
        g.view(score, blocks, n_tokens, contiguous=False, stride=blocks * heads)
        for _ in range(heads)
    ]
    total = g.new(blocks, n_tokens, of=(slices[0],))
    for part in slices[1:]:
        total = g.over(total, part)
    total = g.over(total, bias)
    turned = g.new(n_tokens, blocks, of=(g.view(total, n_tokens, blocks, contiguous=False),))
    spread = g.new(n_tokens, cells, of=(turned, block_of))
    spread = g.new(cells, n_tokens, of=(g.view(spread, cells, n_tokens, contiguous=False),))
    mask = b.masks[ALL]
    if b.shape.flash:
        mask = g.new(cells, n_tokens, of=(mask,))
    spread = g.over(spread, g.view(mask, cells, n_tokens))
    width = b.counts[f"width at {ratio}"]
    top = g.new(width, n_tokens, of=(spread,), element=I32)
    return g.new(width, n_tokens, of=(top,), element=I32)


# --------------------------------------------------------------------- n-grams


def _look_up_ngrams(b: GraphBuilder, tensors: Sequence[Tensors]) -> None:
    """Every token's n-grams, looked up on the host for the layers that add them."""
    key = next((t["ple_key.weight"] for t in tensors if "ple_key.weight" in t), None)
    if key is None:
        return
    n = key.shape[0] // b.hp.ngram_row * b.n_tokens
    rows = Node((b.hp.ngram_row, n), F32, (b.g.input(n, element=I32),), device=HOST)
    b.g.expand(rows)
    b.carried[_NGRAMS] = b.g.view(rows, key.shape[0], b.n_tokens)


def _with_ngrams(b: GraphBuilder, t: Tensors, ngrams: Node, x: Node) -> Node:
    """The streams with n-grams added, gated, beside a dilated convolution over them (`build_ple`).
    x: [n_embd, streams, n_tokens] -> the same; `ngrams`: [elements, n_tokens]."""
    g = b.g
    n, hc, n_tokens = x.shape
    wide = n * hc

    def normed(of: str, y: Node) -> Node:
        """The streams, normed: [n_embd, streams, n_tokens], whatever the shape of y."""
        return b.by(t, f"ple_norm_{of}.weight", g.over(g.view(y, n, hc, n_tokens)))

    key, value = b.mm(t, "ple_key", ngrams), b.mm(t, "ple_value", ngrams)
    key, query = normed("key", key), normed("query", x)
    score = g.over(g.new(1, hc, n_tokens, of=(g.over(key, query),)))
    size = g.over(g.over(g.over(score)))
    gate = g.over(g.over(g.over(score), size))
    gated = g.over(g.new(n, hc, n_tokens, of=(g.view(value, n, 1, n_tokens),)), gate)
    flat = g.view(normed("conv", g.view(gated, wide, n_tokens)), wide, n_tokens)
    taps = t["ple_conv1d.weight"].shape[0]
    history = b.hp.ngram_state // wide
    old = g.view(b.gather(b.hp.ngram_state), history, wide)
    padded = g.new(
        history + n_tokens, wide, of=(old, g.view(flat, n_tokens, wide, contiguous=False))
    )
    kept = g.new(history, wide, of=(g.view(padded, history, wide, contiguous=False),))
    g.expand(g.store(kept))
    total: Node | None = None
    w = t["ple_conv1d.weight"]
    for _ in range(taps):
        shifted = g.new(wide, n_tokens, of=(g.view(padded, wide, n_tokens, contiguous=False),))
        weight = g.new(
            1, wide, of=(g.external(w.n_bytes, g.device),), element=w.n_bytes // (taps * wide)
        )
        weight = g.view(weight, wide)
        if w.ggml_type != 0:
            weight = g.new(wide, of=(weight,))
        term = g.over(shifted, weight)
        total = term if total is None else g.over(total, term)
    assert total is not None
    joined = g.view(g.new(wide, n_tokens, of=(g.over(total),)), n, hc, n_tokens)
    return g.over(x, g.over(gated, joined))
