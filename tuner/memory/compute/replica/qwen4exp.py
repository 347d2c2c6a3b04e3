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
from tuner.memory.compute.replica.builder import NGRAMS, GraphBuilder, Tensors, output_streams
from tuner.memory.compute.replica.dsa import best, sparse_mask
from tuner.memory.compute.replica.feed_forward import feed_forward
from tuner.memory.compute.replica.state_space import joined_columns, mixer
from tuner.memory.kv_cache import ALL

_POSITIONS = 4  # numbers that say where a token is
_LOOKED_UP = "n-grams"  # carried to the layers that add them: [elements, n_tokens]


def widened(b: GraphBuilder, tensors: Sequence[Tensors], output: Tensors, x: Node) -> Node:
    """The embeddings, once per stream: [n_embd, n_tokens] -> [n_embd, streams, n_tokens]."""
    n, n_tokens = x.shape
    _look_up_ngrams(b, tensors)
    streams = tensors[0]["hc_attn_norm.weight"].shape
    hc = streams[1] if len(streams) > 1 else streams[0] // n
    return b.g.new(n, hc, n_tokens, of=(b.g.reshape(x, n, 1, n_tokens),), op="REPEAT")


def layer(b: GraphBuilder, t: Tensors, il: int, x: Node, last: bool) -> Node:
    """One layer over all streams: [n_embd, streams, n_tokens] -> the same, or [n_embd, streams,
    n_outputs] where the `last` layer picks the rows that become logits."""
    g = b.g
    if _LOOKED_UP in b.carried and "ple_key.weight" in t:
        x = _with_ngrams(b, t, b.carried[_LOOKED_UP], x)
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
    normed = b.by(t, f"{name}_norm.weight", g.over(x, op="RMS_NORM"))
    normed = g.reshape(normed, n * hc, n_tokens)
    low = g.over(g.over(b.mm(t, f"{name}_down", normed), op="SCALE"), op="SILU")
    return normed, b.mm(t, f"{name}_up", low)


def _mixed(b: GraphBuilder, t: Tensors, part: str, x: Node) -> tuple[Node, Node]:
    """The streams as one row, [n_embd, n_tokens], and how much of what becomes of it each is given,
    [streams, n_tokens] (`build_hc_mix`)."""
    g = b.g
    normed, gate = _gate(b, t, f"hc_{part}", x)
    of = (g.reshape(normed, *x.shape), g.reshape(gate, *x.shape))
    row = g.new(x.shape[0], x.shape[2], of=of, op="DSV4_HC_PRE")
    return row, b.mm(t, f"hc_{part}_inject", normed)


def _combined(b: GraphBuilder, x: Node, y: Node, inject: Node) -> Node:
    """y, [n_embd, n_tokens], added to every stream of x (`build_hc_combine`) -> [n_embd, streams,
    n_tokens]."""
    g = b.g
    shares = g.over(g.over(g.over(inject, op="SCALE"), op="SIGMOID"), op="SCALE")
    return g.new(*x.shape, of=(y, x, shares), op="DSV4_HC_POST")


def head(b: GraphBuilder, output: Tensors, x: Node) -> Node:
    """The last mixer, of the rows to output: not one operation as in the layers, and in place of
    a norm. [n_embd, streams, n_outputs] -> [n_embd, n_outputs]."""
    g = b.g
    n, hc, n_tokens = x.shape
    normed, gate = _gate(b, output, "output_hc", x)
    gated = g.reshape(g.mul(normed, g.over(gate, op="SIGMOID")), *x.shape)
    parts = [g.view(gated, n, n_tokens, contiguous=False, stride=n * hc) for _ in range(hc)]
    return g.over(_added(b, parts), op="SCALE")


def _added(b: GraphBuilder, parts: Sequence[Node]) -> Node:
    """The sum of parts that lie apart, the first of which is copied; the shape stays."""
    total = b.g.cont(parts[0])
    for part in parts[1:]:
        total = b.g.add(total, part)
    return total


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
    k = b.norm(t, "attn_k_norm", g.reshape(k, d, n_kv, n_tokens))
    gate = g.cont(g.view(both, d, n, n_tokens, contiguous=False), d * n, n_tokens)
    v = g.reshape(v, d, n_kv, n_tokens)
    q, k = g.over(q, b.pos, op="ROPE"), g.over(k, b.pos, op="ROPE")
    mask_of = partial(sparse_mask, b, top) if top is not None else None
    y = attend(b, il, q, k, v, mask_of=mask_of)
    return b.mm(t, "attn_output", g.mul(y, g.over(gate, op="SIGMOID")))


def _top_tokens(b: GraphBuilder, t: Tensors, x: Node, ratio: int) -> Node:
    """The tokens of the blocks that the indexer picks (`build_qsa_top_k`). x: [n_embd, n_tokens] ->
    [width, n_tokens]."""
    g, hp, n_tokens = b.g, b.hp, b.n_tokens
    d, cells = hp.indexer_head, b.cells[ALL]
    blocks = b.counts[f"blocks of {ratio}"]
    block_of, keys = _pooled_keys(b, t, x, ratio)
    bias = b.input(ratio, "bias", blocks, n_tokens, element=F32)
    q = b.mm(t, "indexer.q_proj", x)
    heads = q.shape[0] // d
    q = b.norm(t, "indexer.q_norm", g.reshape(q, d, heads, n_tokens))
    q = g.reshape(g.over(q, b.pos, op="ROPE"), d, heads * n_tokens)
    score = g.new(blocks, heads * n_tokens, of=(keys, q), op="MUL_MAT")
    score = g.over(g.reshape(score, blocks, heads, n_tokens), op="RELU")
    slices = [
        g.view(score, blocks, n_tokens, contiguous=False, stride=blocks * heads)
        for _ in range(heads)
    ]
    total = g.add(_added(b, slices), bias)
    turned = g.cont(g.permute(total, n_tokens, blocks))
    spread = g.new(n_tokens, cells, of=(turned, block_of), op="GET_ROWS")
    spread = g.cont(g.permute(spread, cells, n_tokens))
    mask = b.masks[ALL]
    if b.shape.flash:
        mask = g.new(cells, n_tokens, of=(mask,), op="CPY")
    spread = g.add(spread, g.reshape(mask, cells, n_tokens))
    width = b.counts[f"width at {ratio}"]
    top = g.new(width, n_tokens, of=(best(b, spread, width),), op="CONT", element=I32)
    return g.reshape(top, width, n_tokens)


def _pooled_keys(b: GraphBuilder, t: Tensors, x: Node, ratio: int) -> tuple[Node, Node]:
    """Stores these tokens' index keys; which block each cell is of, and the mean key of each block,
    [indexer_head, blocks]."""
    g, n_tokens = b.g, b.n_tokens
    d, cells = b.hp.indexer_head, b.cells[ALL]
    blocks = b.counts[f"blocks of {ratio}"]
    rows = b.input(ratio, "rows", n_tokens, element=I64)
    block_of = b.input(ratio, "block of", cells)
    of_blocks = b.input(ratio, "members", ratio * blocks)
    places = b.input(ratio, "places", _POSITIONS * blocks)
    k = g.reshape(b.mm(t, "indexer.k_proj", x), d, 1, n_tokens)
    cache = b.cache("index keys", 0, g.device)
    g.expand(g.stored(g.view(k, d, n_tokens), rows, cache))
    cached = g.view(g.view(cache, d, 1, cells), d, cells)
    cached.size = int(cells * d * b.shape.k_bytes)
    members = g.new(d, ratio * blocks, of=(cached, of_blocks), op="GET_ROWS")
    members = g.reshape(members, d, ratio, blocks)
    parts = [
        g.cont(g.view(members, d, blocks, contiguous=False, stride=ratio * d)) for _ in range(ratio)
    ]
    pooled = parts[0]
    for part in parts[1:]:
        pooled = g.add(pooled, part)
    pooled = b.norm(t, "indexer.k_norm", g.reshape(g.over(pooled, op="SCALE"), d, blocks))
    pooled = g.over(g.reshape(pooled, d, 1, blocks), places, op="ROPE")
    return block_of, g.reshape(pooled, d, blocks)


# --------------------------------------------------------------------- n-grams


def _look_up_ngrams(b: GraphBuilder, tensors: Sequence[Tensors]) -> None:
    """Every token's n-grams, looked up on the host for the layers that add them."""
    key = next((t["ple_key.weight"] for t in tensors if "ple_key.weight" in t), None)
    if key is None:
        return
    n = key.shape[0] // b.hp.ngram_row * b.n_tokens
    rows = Node((b.hp.ngram_row, n), F32, (b.g.input(n, element=I32),), "GET_ROWS", device=HOST)
    b.carried[_LOOKED_UP] = b.g.reshape(rows, key.shape[0], b.n_tokens)
    b.g.expand(b.carried[_LOOKED_UP])


def _with_ngrams(b: GraphBuilder, t: Tensors, ngrams: Node, x: Node) -> Node:
    """The streams with n-grams added, gated, beside a dilated convolution over them (`build_ple`).
    x: [n_embd, streams, n_tokens] -> the same; `ngrams`: [elements, n_tokens]."""
    g = b.g
    n, hc, n_tokens = x.shape
    wide = n * hc

    def normed(of: str, y: Node) -> Node:
        """The streams, normed: [n_embd, streams, n_tokens], whatever the shape of y."""
        y = g.over(g.reshape(y, n, hc, n_tokens), op="RMS_NORM")
        return b.by(t, f"ple_norm_{of}.weight", y)

    key, value = b.mm(t, "ple_key", ngrams), b.mm(t, "ple_value", ngrams)
    product = g.mul(normed("key", key), normed("query", x))
    score = g.over(g.new(1, hc, n_tokens, of=(product,), op="SUM_ROWS"), op="SCALE")
    size = g.over(g.over(g.over(score, op="ABS"), op="CLAMP"), op="SQRT")
    gate = g.over(g.mul(g.over(score, op="SGN"), size), op="SIGMOID")
    value = g.reshape(value, n, 1, n_tokens)
    gated = g.mul(g.new(n, hc, n_tokens, of=(value,), op="REPEAT"), gate)
    flat = g.reshape(normed("conv", g.reshape(gated, wide, n_tokens)), wide, n_tokens)
    history = b.hp.ngram_state // wide
    padded = joined_columns(
        b,
        g.reshape(flat, wide, n_tokens),
        wide,
        history + 1,
        b.gather(b.hp.ngram_state, which=NGRAMS),
        times=1 + b.shape.n_rs_seq,
    )
    joined = g.cont(g.over(_dilated(b, t, padded), op="SILU"))
    return g.add(x, g.add(gated, g.reshape(joined, n, hc, n_tokens)))


def _dilated(b: GraphBuilder, t: Tensors, padded: Node) -> Node:
    """The sum of the rows, each shifted, each by a column of the weight: [history + n_tokens, wide]
    -> [wide, n_tokens]."""
    g, n_tokens = b.g, b.n_tokens
    length, wide = padded.shape
    w = t["ple_conv1d.weight"]
    taps = w.shape[0]
    element = w.n_bytes // (taps * wide)
    whole = b.seen(w)
    total: Node | None = None
    for _ in range(taps):
        rows = g.view(padded, n_tokens, wide, contiguous=False, stride=length)
        shifted = g.cont(g.view(rows, wide, n_tokens, contiguous=False, op="TRANSPOSE"))
        column = g.view(whole, 1, wide, contiguous=False)
        column.size = w.n_bytes - (taps - 1) * element
        weight = g.reshape(g.new(1, wide, of=(column,), op="CONT", element=element), wide)
        if w.ggml_type != 0:
            weight = g.new(wide, of=(weight,), op="CPY")
        term = g.mul(shifted, weight)
        total = term if total is None else g.add(total, term)
    assert total is not None
    return total
