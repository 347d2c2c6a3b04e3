"""Layers around hyper-connections as graph nodes: src/models/deepseek4.cpp, glm5-next.cpp.

The residual is four streams per token. Before each part of a layer the streams are mixed into
one row (`build_hc_pre`), behind it the part's result is spread over them again (`build_hc_post`).
Both are single operations, but the engine does without the second one where a host layer's would
run on the GPU of the layer behind it (`llama_context::resolve_fused_ops`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from tuner.gguf.header import TensorInfo
from tuner.memory.compute.graph import F32, HOST, Node
from tuner.memory.compute.replica.builder import GraphBuilder, Tensors, output_streams
from tuner.memory.compute.replica.deepseek4 import compressed_attention
from tuner.memory.compute.replica.feed_forward import feed_forward
from tuner.memory.compute.replica.glm5_next import pool_inputs, pooled_attention
from tuner.memory.compute.replica.state_space import mixer
from tuner.memory.kv_cache import WINDOW


def widened(b: GraphBuilder, tensors: Sequence[Tensors], output: Tensors, x: Node) -> Node:
    """The embeddings, once per stream: [n_embd, n_tokens] -> [n_embd, streams, n_tokens]."""
    n, n_tokens = x.shape
    streams = tensors[0]["hc_attn_fn.weight"].shape[0] // n
    if _compressed(b):
        b.g.expand(b.masks[WINDOW])
    else:
        pool_inputs(b)
    return b.g.new(n, streams, n_tokens, of=(b.g.reshape(x, n, 1, n_tokens),), op="REPEAT")


def _compressed(b: GraphBuilder) -> bool:
    """deepseek4, which says where the last operations of layers run, or glm5-next."""
    return b.hp.row.memory == "compressed"


def _fused(b: GraphBuilder) -> bool:
    """Whether results are spread over the streams by one operation."""
    if _compressed(b) or b.output_device == HOST:
        return True
    return all(device != HOST for _, device, _ in b.layers)


def layer(b: GraphBuilder, t: Tensors, il: int, x: Node, last: bool) -> Node:
    """One layer over all streams, [n_embd, streams, n_tokens] -> the same; rows are picked behind
    the `last` one."""
    g, hp = b.g, b.hp
    # scales of these experts are loaded, but not used
    t = {name: w for name, w in t.items() if not name.endswith(".scale")}
    fused = _fused(b)
    y, post, comb = mixed(b, t, "attn", x)
    y = b.norm(t, "attn_norm", y)
    if _compressed(b):
        y = compressed_attention(b, t, il, y)
    else:
        g.expand(y)
        state = mixer(b, t, y) if hp.recurrent[il] else None
        y = state if state is not None else pooled_attention(b, t, il, y)
    x = spread(b, y, x, post, comb, fused=fused)
    y, post, comb = mixed(b, t, "ffn", x)
    if _compressed(b):
        g.expand(x, post, comb)
    y = b.norm(t, "ffn_norm", y)
    picked: Node | None = None
    if "ffn_gate_tid2eid.weight" in t:  # the token alone says which experts
        shape = hp.n_expert_used, b.n_tokens
        picked = Node(shape, F32, (b.tokens,), "GET_ROWS", device=g.device)
        g.reads(t["ffn_gate_tid2eid.weight"], picked)
    out = feed_forward(b, t, y, picked=picked)
    return spread(b, out if out is not None else y, x, post, comb, fused=fused)


def mixed(b: GraphBuilder, t: Tensors, part: str, x: Node) -> tuple[Node, Node, Node]:
    """The streams as one row (`build_hc_pre`), [n_embd, streams, n_tokens] -> [n_embd, n_tokens],
    and how to spread what becomes of it: to each stream, [streams, n_tokens], and from each to
    each, [streams, streams, n_tokens]."""
    g = b.g
    n, hc, n_tokens = x.shape
    w, scale, base = (t[f"hc_{part}_{name}.weight"] for name in ("fn", "scale", "base"))
    mixes = _mixes(b, x, w)
    seen = b.seen(scale), b.seen(base)
    pre, post = (gate(b, mixes, hc, *seen) for _ in range(2))
    of = seen if g.device != HOST else seen[:1]  # the other one may be borrowed
    size = base.n_bytes
    comb = g.weighed((hc, hc, n_tokens), mixes, *of, weight=size, op="DSV4_HC_COMB")
    return g.new(n, n_tokens, of=(x, pre), op="DSV4_HC_PRE"), post, comb


def _mixes(b: GraphBuilder, x: Node, w: TensorInfo) -> Node:
    """What all streams of a token say of how to mix them: [n_embd, streams, n_tokens] -> [rows of
    w, n_tokens]."""
    g = b.g
    n, hc, n_tokens = x.shape
    flat = g.over(g.reshape(x, n * hc, n_tokens), op="RMS_NORM")
    return g.reads(w, g.mm(w.shape[1], flat, g.held(w)))


def gate(b: GraphBuilder, mixes: Node, streams: int, scale: Node, base: Node) -> Node:
    """A part of the mixes by parts of two weights (`dsv4_hc_affine`), through a sigmoid and a
    scaling: [streams, n_tokens]."""
    g = b.g
    rows, n_tokens = mixes.shape
    part = g.view(mixes, streams, n_tokens, contiguous=False, stride=rows)
    part = g.add(g.mul(part, g.view(scale, 1)), g.view(base, streams))
    return g.over(g.over(part, op="SIGMOID"), op="SCALE")


def spread(b: GraphBuilder, y: Node, x: Node, post: Node, comb: Node, *, fused: bool) -> Node:
    """y, [n_embd, n_tokens], added to every stream of x, and the streams blended
    (`build_hc_post`) -> [n_embd, streams, n_tokens]."""
    g = b.g
    n, hc, n_tokens = x.shape
    if fused:
        return g.new(n, hc, n_tokens, of=(y, x, post, comb), op="DSV4_HC_POST")
    out: Node | None = None
    for _ in range(hc):
        row = g.mul(y, own(b, post))
        for _ in range(hc):
            share = g.view(comb, 1, n_tokens, contiguous=False, stride=hc * hc)
            row = g.add(row, g.mul(stream(b, x), share))
        out = stacked(b, out, row)
    assert out is not None
    return out


def stacked(b: GraphBuilder, rows: Node | None, x: Node) -> Node:
    """x, [n, n_tokens], behind the rows of each token, [n, rows, n_tokens], if there are any."""
    n, n_tokens = x.shape
    row = b.g.reshape(x, n, 1, n_tokens)
    if rows is None:
        return row
    return b.g.new(n, rows.shape[1] + 1, n_tokens, of=(rows, row), op="CONCAT")


def own(b: GraphBuilder, gate: Node) -> Node:
    """One stream's gate of all: [streams, n_tokens] -> [1, n_tokens]."""
    return b.g.view(gate, 1, gate.shape[1], contiguous=False, stride=gate.shape[0])


def stream(b: GraphBuilder, x: Node) -> Node:
    """One of the streams: [n_embd, streams, n_tokens] -> [n_embd, n_tokens]."""
    n, hc, n_tokens = x.shape
    return b.g.view(x, n, n_tokens, contiguous=False, stride=n * hc)


def head(b: GraphBuilder, output: Tensors, x: Node) -> Node:
    """The rows to output, their streams as one, normed: [n_embd, streams, n_tokens]
    -> [n_embd, n_outputs]."""
    return b.norm(output, "output_norm", _narrowed(b, output, output_streams(b, x)))


def _narrowed(b: GraphBuilder, output: Tensors, x: Node) -> Node:
    """The streams as one row (`build_hc_head`, `build_hc_mean`)."""
    g = b.g
    streams = [stream(b, x) for _ in range(x.shape[1])]
    w = output.get("output_hc_fn.weight")
    if w is not None:
        pre = head_gate(b, output, _mixes(b, x, w))
        streams = [g.mul(row, own(b, pre)) for row in streams]
    total = reduce(g.add, streams)
    return total if w is not None else g.over(total, op="SCALE")  # their mean


def head_gate(b: GraphBuilder, output: Tensors, mixes: Node) -> Node:
    """How much of each stream is put out, by what all say: [streams, n_tokens] -> the same."""
    mixes = b.by(output, "output_hc_scale.weight", mixes)
    mixes = b.by(output, "output_hc_base.weight", mixes, "ADD")
    return b.g.over(b.g.over(mixes, op="SIGMOID"), op="SCALE")
