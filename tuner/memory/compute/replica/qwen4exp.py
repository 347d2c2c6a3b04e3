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
from tuner.memory.compute.replica.attention import LayerBuilder, Tensors
from tuner.memory.compute.replica.builder import Layers
from tuner.memory.compute.replica.dsa import sparse_mask
from tuner.memory.compute.replica.state_space import mixer
from tuner.memory.kv_cache import ALL


def qsa_model(
    b: LayerBuilder,
    tensors: Sequence[Tensors],
    output: Tensors,
    tokens: Node,
    x: Node,
    layers: Layers,
    device: int,
) -> Node:
    """From the embeddings x to the row before the logits. `device`: the output's."""
    g, hp = b.g, b.hp
    n, u = x.shape
    ngrams = _ngrams(b, tensors)
    streams = tensors[0]["hc_attn_norm.weight"].shape
    hc = streams[1] if len(streams) > 1 else streams[0] // n
    x = g.new(n, hc, u, of=(g.view(x, n, 1, u),))
    for il, at, experts_on_host in layers:
        g.device = at
        b.experts_on_host = experts_on_host and at != HOST
        t = tensors[il]
        if ngrams is not None and "ple_key.weight" in t:
            x = _with_ngrams(b, t, ngrams, x)
        y, inject = _mixed(b, t, "attn", x)
        g.expand(y)
        mixed = mixer(b, t, y) if hp.recurrent[il] else _attention(b, t, il, y)
        assert mixed is not None
        if il == hp.n_layer - 1:
            mixed = g.new(n, 1, of=(mixed, b.out_ids))
            inject = g.new(hc, 1, of=(inject, b.out_ids))
            x = g.view(g.new(n * hc, 1, of=(g.view(x, n * hc, u), b.out_ids)), n, hc, 1)
        x = _combined(b, x, mixed, inject)
        y, inject = _mixed(b, t, "ffn", x)
        out = b.feed_forward(t, y)
        assert out is not None
        x = _combined(b, x, out, inject)
    g.device = device
    return _head(b, output, x)


def _gate(b: LayerBuilder, t: Tensors, name: str, x: Node) -> tuple[Node, Node]:
    """The normed streams and a gate for each of their elements."""
    g = b.g
    n, hc, u = x.shape
    normed = g.view(g.over(g.over(x), weighted=True), n * hc, u)
    low = g.over(g.over(b.mm(t, f"{name}_down", normed)))
    return normed, b.mm(t, f"{name}_up", low)


def _mixed(b: LayerBuilder, t: Tensors, part: str, x: Node) -> tuple[Node, Node]:
    """The streams as one row, and how much of what becomes of it each is given."""
    g = b.g
    n, hc, u = x.shape
    normed, gate = _gate(b, t, f"hc_{part}", x)
    row = g.new(n, u, of=(g.view(normed, n, hc, u), g.view(gate, n, hc, u)))
    return row, b.mm(t, f"hc_{part}_inject", normed)


def _combined(b: LayerBuilder, x: Node, y: Node, inject: Node) -> Node:
    g = b.g
    return g.new(*x.shape, of=(y, x, g.over(g.over(g.over(inject)))))


def _head(b: LayerBuilder, output: Tensors, x: Node) -> Node:
    """The last mixer, of the rows to output: not one operation as in the layers."""
    g = b.g
    n, hc, u = x.shape
    normed, gate = _gate(b, output, "output_hc", x)
    gated = g.over(normed, g.over(gate))
    parts = [g.view(gated, n, u, contiguous=False, stride=n * hc) for _ in range(hc)]
    total = g.new(n, u, of=(parts[0],))
    for part in parts[1:]:
        total = g.over(total, part)
    return g.over(total)


# ------------------------------------------------------------------- attention


def _ratio(b: LayerBuilder, il: int) -> int:
    """Tokens per block; 0: the layer attends to every token."""
    return 0 if b.hp.recurrent[il] else b.hp.compress_ratios[il]


def _attention(b: LayerBuilder, t: Tensors, il: int, x: Node) -> Node:
    g, hp, u = b.g, b.hp, b.u
    n, n_kv, d = hp.n_head[il], hp.n_head_kv[il], hp.head_k[il]
    ratio = _ratio(b, il)
    top = _top_tokens(b, t, x, ratio) if ratio else None
    both = b.mm(t, "attn_q", x)  # each head's query and gate side by side
    q = b.norm(t, "attn_q_norm", g.view(both, d, n, u, contiguous=False))
    k, v = b.mm(t, "attn_k", x), b.mm(t, "attn_v", x)
    k = b.norm(t, "attn_k_norm", g.view(k, d, n_kv, u))
    gate = g.new(d * n, u, of=(g.view(both, d, n, u, contiguous=False),))
    v = g.view(v, d, n_kv, u)
    q, k = g.over(q, b.pos), g.over(k, b.pos)
    mask_of = partial(sparse_mask, b, top) if top is not None else None
    y = b.attend(il, q, k, v, mask_of=mask_of)
    return b.mm(t, "attn_output", g.over(y, g.over(gate)))


def _top_tokens(b: LayerBuilder, t: Tensors, x: Node, ratio: int) -> Node:
    """The tokens of the blocks that the indexer picks (`build_qsa_top_k`)."""
    g, hp, u = b.g, b.hp, b.u
    d, cells = hp.indexer_head, b.cells[ALL]
    blocks = b.counts[f"blocks of {ratio}"]
    if (ratio, "rows") not in b.inputs:  # layers of one ratio share them
        b.inputs[ratio, "rows"] = g.input(u, element=I64)
        b.inputs[ratio, "block of"] = g.input(cells, element=I32)
        b.inputs[ratio, "members"] = g.input(ratio * blocks, element=I32)
        b.inputs[ratio, "places"] = g.input(4 * blocks, element=I32)
        b.inputs[ratio, "bias"] = g.input(blocks, u)
    k = g.view(b.mm(t, "indexer.k_proj", x), d, 1, u)
    g.expand(g.store(g.view(k, d, u), b.inputs[ratio, "rows"]))
    cached = g.outside(int(cells * d * b.shape.k_bytes), g.device)
    members = g.new(d, ratio * blocks, of=(cached, b.inputs[ratio, "members"]))
    parts = [
        g.new(d, blocks, of=(g.view(members, d, blocks, contiguous=False),)) for _ in range(ratio)
    ]
    pooled = parts[0]
    for part in parts[1:]:
        pooled = g.over(pooled, part)
    pooled = b.norm(t, "indexer.k_norm", g.view(g.over(pooled), d, blocks))
    pooled = g.over(g.view(pooled, d, 1, blocks), b.inputs[ratio, "places"])
    q = b.mm(t, "indexer.q_proj", x)
    heads = q.shape[0] // d
    q = g.over(b.norm(t, "indexer.q_norm", g.view(q, d, heads, u)), b.pos)
    score = g.new(blocks, heads * u, of=(g.view(pooled, d, blocks), g.view(q, d, heads * u)))
    score = g.over(g.view(score, blocks, heads, u))
    slices = [
        g.view(score, blocks, u, contiguous=False, stride=blocks * heads) for _ in range(heads)
    ]
    total = g.new(blocks, u, of=(slices[0],))
    for part in slices[1:]:
        total = g.over(total, part)
    total = g.over(total, b.inputs[ratio, "bias"])
    turned = g.new(u, blocks, of=(g.view(total, u, blocks, contiguous=False),))
    spread = g.new(u, cells, of=(turned, b.inputs[ratio, "block of"]))
    spread = g.new(cells, u, of=(g.view(spread, cells, u, contiguous=False),))
    mask = b.masks[ALL]
    if b.shape.flash:
        mask = g.new(cells, u, of=(mask,))
    spread = g.over(spread, g.view(mask, cells, u))
    width = b.counts[f"width at {ratio}"]
    top = g.new(width, u, of=(spread,), element=I32)
    return g.new(width, u, of=(top,), element=I32)


# --------------------------------------------------------------------- n-grams


def _ngrams(b: LayerBuilder, tensors: Sequence[Tensors]) -> Node | None:
    """Every token's n-grams, looked up on the host."""
    key = next((t["ple_key.weight"] for t in tensors if "ple_key.weight" in t), None)
    if key is None:
        return None
    heads = key.shape[0] // b.hp.ngram_row
    rows = Node((b.hp.ngram_row, heads * b.u), F32, (b.g.input(heads * b.u, element=I32),),
                device=HOST)  # fmt: skip
    b.g.expand(rows)
    return b.g.view(rows, key.shape[0], b.u)


def _with_ngrams(b: LayerBuilder, t: Tensors, ngrams: Node, x: Node) -> Node:
    """The streams with n-grams added, gated, beside a dilated convolution over them."""
    g = b.g
    n, hc, u = x.shape
    wide = n * hc

    def normed(y: Node) -> Node:
        return g.over(g.over(g.view(y, n, hc, u)), weighted=True)

    key, value = b.mm(t, "ple_key", ngrams), b.mm(t, "ple_value", ngrams)
    key, query = normed(key), normed(x)
    score = g.over(g.new(1, hc, u, of=(g.over(key, query),)))
    size = g.over(g.over(g.over(score)))
    gate = g.over(g.over(g.over(score), size))
    gated = g.over(g.new(n, hc, u, of=(g.view(value, n, 1, u),)), gate)
    flat = g.view(normed(g.view(gated, wide, u)), wide, u)
    taps = t["ple_conv1d.weight"].shape[0]
    history = b.hp.ngram_state // wide
    old = g.view(b.gather(b.hp.ngram_state), history, wide)
    padded = g.new(history + u, wide, of=(old, g.view(flat, u, wide, contiguous=False)))
    kept = g.new(history, wide, of=(g.view(padded, history, wide, contiguous=False),))
    g.expand(g.store(kept))
    total: Node | None = None
    w = t["ple_conv1d.weight"]
    for _ in range(taps):
        shifted = g.new(wide, u, of=(g.view(padded, wide, u, contiguous=False),))
        weight = g.new(1, wide, of=(g.outside(w.n_bytes, g.device),),
                       element=w.n_bytes // (taps * wide))  # fmt: skip
        weight = g.view(weight, wide)
        if w.ggml_type != 0:
            weight = g.new(wide, of=(weight,))
        term = g.over(shifted, weight)
        total = term if total is None else g.over(total, term)
    assert total is not None
    joined = g.view(g.new(wide, u, of=(g.over(total),)), n, hc, u)
    return g.over(x, g.over(gated, joined))
