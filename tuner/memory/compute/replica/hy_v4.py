"""Layers around several residual streams as graph nodes: src/models/hy-v4.cpp (iHC).

The residual is `n_streams` rows per token. Before each part of a layer a gate blends them into
one row; behind it the part's result is added to every stream, as much as another gate says. All
of it runs in F32, through copies of what is in F32 already.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from tuner.memory.compute.graph import Node
from tuner.memory.compute.replica.builder import GraphBuilder, Tensors, output_streams
from tuner.memory.compute.replica.feed_forward import feed_forward
from tuner.memory.compute.replica.hyper_connections import gate, head_gate, own, stacked, stream
from tuner.memory.compute.replica.mla import latent_attention


def widened(b: GraphBuilder, tensors: Sequence[Tensors], output: Tensors, x: Node) -> Node:
    """The embeddings, once per stream: [n_embd, n_tokens] -> [n_embd, streams, n_tokens]."""
    n, n_tokens = x.shape
    streams = tensors[0]["hc_attn_base.weight"].shape[0] // 2
    of = (b.g.reshape(x, n, 1, n_tokens),)
    return b.g.new(n, streams, n_tokens, of=of, op="REPEAT")


def layer(b: GraphBuilder, t: Tensors, il: int, x: Node, last: bool) -> Node:
    """One layer over all streams, [n_embd, streams, n_tokens] -> the same; rows are picked behind
    the `last` one."""
    y, post = _gathered(b, t, "hc_attn", x)
    y = latent_attention(b, t, il, b.norm(t, "attn_norm", y))
    x = _scattered(b, y, x, post)
    y, post = _gathered(b, t, "hc_ffn", x)
    out = feed_forward(b, t, b.norm(t, "ffn_norm", y))
    return x if out is None else _scattered(b, out, x, post)


def head(b: GraphBuilder, output: Tensors, x: Node) -> Node:
    """The rows to output, their streams blended into one, normed: [n_embd, streams, n_tokens]
    -> [n_embd, n_outputs] (`build_hc_head`)."""
    x = output_streams(b, x)
    pre = head_gate(b, output, _mixes(b, output, "output_hc", x))
    return b.norm(output, "output_norm", _blended(b, x, pre))


def _mixes(b: GraphBuilder, t: Tensors, name: str, x: Node) -> Node:
    """What all streams of a token say of the gates: [n_embd, streams, n_tokens] -> [mixes,
    n_tokens]."""
    n, streams, n_tokens = x.shape
    flat = b.g.reshape(x, n * streams, n_tokens)
    return b.mm(t, f"{name}_fn", b.g.over(flat, op="RMS_NORM"))


def _gathered(b: GraphBuilder, t: Tensors, name: str, x: Node) -> tuple[Node, Node]:
    """The streams blended into one, [n_embd, n_tokens], and the gate by which they take the result
    in, [streams, n_tokens] (`build_hc_pre`)."""
    mixes = _mixes(b, t, name, x)
    scale, bias = (b.seen(t[f"{name}_{of}.weight"]) for of in ("scale", "base"))
    pre, post = (gate(b, mixes, x.shape[1], scale, bias) for _ in range(2))
    return _blended(b, x, pre), b.g.over(post, op="SCALE")


def _copy(b: GraphBuilder, x: Node) -> Node:
    """`ggml_cast` to the type that x has already."""
    return b.g.new(*x.shape, of=(x,), op="CPY")


def _blended(b: GraphBuilder, x: Node, pre: Node) -> Node:
    """The streams, each times its gate, summed up (`hy_v4_hc_reduce`): [n_embd, streams, n_tokens]
    -> [n_embd, n_tokens]."""
    g, copy = b.g, _copy(b, x)
    parts = [g.mul(stream(b, copy), own(b, pre)) for _ in range(x.shape[1])]
    return _copy(b, reduce(g.add, parts))


def _scattered(b: GraphBuilder, y: Node, x: Node, post: Node) -> Node:
    """y, [n_embd, n_tokens], added to every stream of x, as much as its gate says (`build_hc_post`)
    -> [n_embd, streams, n_tokens]."""
    g = b.g
    y, post, copy = (_copy(b, of) for of in (y, post, x))
    out: Node | None = None
    for _ in range(x.shape[1]):
        out = stacked(b, out, g.add(stream(b, copy), g.mul(y, own(b, post))))
    assert out is not None
    return _copy(b, out)
