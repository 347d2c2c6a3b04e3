"""Layers around several residual streams as graph nodes: src/models/hy-v4.cpp (iHC).

The residual is `n_streams` rows per token. Before each part of a layer a gate blends them into
one row; behind it the part's result is added to every stream, as much as another gate says. All
of it runs in F32, through copies of what is in F32 already.
"""

from __future__ import annotations

from collections.abc import Sequence

from tuner.memory.compute.graph import F32, Node
from tuner.memory.compute.replica.builder import GraphBuilder, Tensors, output_streams
from tuner.memory.compute.replica.feed_forward import feed_forward
from tuner.memory.compute.replica.mla import latent_attention


def widened(b: GraphBuilder, tensors: Sequence[Tensors], output: Tensors, x: Node) -> Node:
    """The embeddings, once per stream: [n_embd, n_tokens] -> [n_embd, streams, n_tokens]."""
    n, n_tokens = x.shape
    streams = tensors[0]["hc_attn_base.weight"].shape[0] // 2
    return b.g.new(n, streams, n_tokens, of=(b.g.view(x, n, 1, n_tokens),))


def layer(b: GraphBuilder, t: Tensors, il: int, x: Node, last: bool) -> Node:
    """One layer over all streams, [n_embd, streams, n_tokens] -> the same; rows are picked behind
    the `last` one."""
    y, gate = _gathered(b, t, "hc_attn", x)
    y = latent_attention(b, t, il, b.norm(t, "attn_norm", y))
    x = _scattered(b, y, x, gate)
    y, gate = _gathered(b, t, "hc_ffn", x)
    out = feed_forward(b, t, b.norm(t, "ffn_norm", y))
    return x if out is None else _scattered(b, out, x, gate)


def head(b: GraphBuilder, output: Tensors, x: Node) -> Node:
    """The rows to output, their streams blended into one, normed: [n_embd, streams, n_tokens]
    -> [n_embd, n_outputs]."""
    g = b.g
    x = output_streams(b, x)
    gate = _mixes(b, output, "output_hc", x)
    for name in ("output_hc_scale.weight", "output_hc_base.weight"):
        gate = b.by(output, name, gate)
    gate = g.over(g.over(gate))  # a sigmoid, an offset
    return b.norm(output, "output_norm", _blended(b, x, gate))


def _mixes(b: GraphBuilder, t: Tensors, name: str, x: Node) -> Node:
    """What all streams of a token say of the gates: [n_embd, streams, n_tokens] -> [mixes,
    n_tokens]."""
    n, streams, n_tokens = x.shape
    return b.mm(t, f"{name}_fn", b.g.over(b.g.view(x, n * streams, n_tokens)))


def _gate(b: GraphBuilder, mixes: Node, streams: int, more: int) -> Node:
    """A half of the mixes, times a scale, plus a bias, through a sigmoid and `more` scalings. The
    scale and the bias are parts of weights, which do not bind an operation to their device."""
    g = b.g
    n_tokens = mixes.shape[1]
    gate = g.view(mixes, streams, n_tokens, contiguous=False, stride=2 * streams)
    for n in (1, streams):
        gate = g.over(gate, g.view(g.external(F32 * n, g.device), n))
    for _ in range(1 + more):
        gate = g.over(gate)
    return gate


def _gathered(b: GraphBuilder, t: Tensors, name: str, x: Node) -> tuple[Node, Node]:
    """The streams blended into one, [n_embd, n_tokens], and the gate by which they take the result
    in, [streams, n_tokens] (`build_hc_pre`)."""
    streams = x.shape[1]
    mixes = _mixes(b, t, name, x)
    return _blended(b, x, _gate(b, mixes, streams, 1)), _gate(b, mixes, streams, 2)


def _blended(b: GraphBuilder, x: Node, gate: Node) -> Node:
    """The streams, each times its gate, summed up: [n_embd, streams, n_tokens] -> [n_embd,
    n_tokens]."""
    g = b.g
    n, streams, n_tokens = x.shape
    copy = g.new(n, streams, n_tokens, of=(x,))
    total: Node | None = None
    for _ in range(streams):
        part = g.over(
            g.view(copy, n, n_tokens, contiguous=False, stride=n * streams),
            g.view(gate, 1, n_tokens, contiguous=False, stride=streams),
        )
        total = g.over(total, part) if total is not None else part
    assert total is not None
    return g.new(n, n_tokens, of=(total,))


def _scattered(b: GraphBuilder, y: Node, x: Node, gate: Node) -> Node:
    """y, [n_embd, n_tokens], added to every stream of x, as much as its gate says (`build_hc_post`)
    -> [n_embd, streams, n_tokens]."""
    g = b.g
    n, streams, n_tokens = x.shape
    y = g.new(n, n_tokens, of=(y,))
    gate = g.new(streams, n_tokens, of=(gate,))
    copy = g.new(n, streams, n_tokens, of=(x,))
    out: Node | None = None
    for i in range(streams):
        part = g.over(y, g.view(gate, 1, n_tokens, contiguous=False, stride=streams))
        part = g.over(g.view(copy, n, n_tokens, contiguous=False, stride=n * streams), part)
        part = g.view(part, n, 1, n_tokens)
        out = g.new(n, i + 1, n_tokens, of=(out, part)) if out is not None else part
    assert out is not None
    return g.new(n, streams, n_tokens, of=(out,))
