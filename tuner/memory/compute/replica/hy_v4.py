"""Layers around several residual streams as graph nodes: src/models/hy-v4.cpp (iHC).

The residual is `n_streams` rows per token. Before each part of a layer a gate blends them into
one row; behind it the part's result is added to every stream, as much as another gate says. All
of it runs in F32, through copies of what is in F32 already.
"""

from __future__ import annotations

from tuner.memory.compute.graph import Node
from tuner.memory.compute.replica.attention import LayerBuilder, Tensors
from tuner.memory.compute.replica.mla import latent_attention


def widened(b: LayerBuilder, t: Tensors, x: Node) -> Node:
    """The embeddings, once per stream. t: any layer."""
    n, u = x.shape
    return b.g.new(n, t["hc_attn_base.weight"].shape[0] // 2, u, of=(b.g.view(x, n, 1, u),))


def streams_layer(b: LayerBuilder, t: Tensors, il: int, x: Node) -> Node:
    """One layer over all streams."""
    y, gate = _gathered(b, t, "hc_attn", x)
    y = latent_attention(b, t, il, b.norm(t, "attn_norm", y))
    x = _scattered(b, y, x, gate)
    y, gate = _gathered(b, t, "hc_ffn", x)
    out = b.feed_forward(t, b.norm(t, "ffn_norm", y))
    return x if out is None else _scattered(b, out, x, gate)


def narrowed(b: LayerBuilder, t: Tensors, x: Node) -> Node:
    """The rows to output, their streams blended into one. t: the output's tensors."""
    g = b.g
    n, streams, _ = x.shape
    flat = g.view(x, n * streams, x.shape[2])
    x = g.view(g.new(n * streams, 1, of=(flat, b.out_ids)), n, streams, 1)
    gate = _mixes(b, t, "output_hc", x)
    for weighted in (True, True, False, False):  # a scale, a bias, a sigmoid, an offset
        gate = g.over(gate, weighted=weighted)
    return _blended(b, x, gate)


def _mixes(b: LayerBuilder, t: Tensors, name: str, x: Node) -> Node:
    n, streams, u = x.shape
    return b.mm(t, f"{name}_fn", b.g.over(b.g.view(x, n * streams, u)))


def _gate(b: LayerBuilder, mixes: Node, streams: int, more: int) -> Node:
    """A half of the mixes, times a scale, plus a bias, through a sigmoid and `more` scalings. The
    scale and the bias are parts of weights, which do not bind an operation to their device."""
    g = b.g
    u = mixes.shape[1]
    gate = g.view(mixes, streams, u, contiguous=False, stride=2 * streams)
    for n in (1, streams):
        gate = g.over(gate, g.view(g.outside(4 * n, g.device), n))
    for _ in range(1 + more):
        gate = g.over(gate)
    return gate


def _gathered(b: LayerBuilder, t: Tensors, name: str, x: Node) -> tuple[Node, Node]:
    """The streams blended into one, and the gate by which they take the result in."""
    streams = x.shape[1]
    mixes = _mixes(b, t, name, x)
    return _blended(b, x, _gate(b, mixes, streams, 1)), _gate(b, mixes, streams, 2)


def _blended(b: LayerBuilder, x: Node, gate: Node) -> Node:
    g = b.g
    n, streams, u = x.shape
    copy = g.new(n, streams, u, of=(x,))
    total: Node | None = None
    for _ in range(streams):
        part = g.over(
            g.view(copy, n, u, contiguous=False, stride=n * streams),
            g.view(gate, 1, u, contiguous=False, stride=streams),
        )
        total = g.over(total, part) if total is not None else part
    assert total is not None
    return g.new(n, u, of=(total,))


def _scattered(b: LayerBuilder, y: Node, x: Node, gate: Node) -> Node:
    g = b.g
    n, streams, u = x.shape
    y = g.new(n, u, of=(y,))
    gate = g.new(streams, u, of=(gate,))
    copy = g.new(n, streams, u, of=(x,))
    out: Node | None = None
    for i in range(streams):
        part = g.over(y, g.view(gate, 1, u, contiguous=False, stride=streams))
        part = g.over(g.view(copy, n, u, contiguous=False, stride=n * streams), part)
        part = g.view(part, n, 1, u)
        out = g.new(n, i + 1, u, of=(out, part)) if out is not None else part
    assert out is not None
    return g.new(n, streams, u, of=(out,))
