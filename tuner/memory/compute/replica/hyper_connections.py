"""Layers around hyper-connections as graph nodes: src/models/deepseek4.cpp, glm5-next.cpp.

The residual is four streams per token. Before each part of a layer the streams are mixed into
one row (`build_hc_pre`), behind it the part's result is spread over them again (`build_hc_post`).
Both are single operations, but the engine does without the second one where a host layer's would
run on the GPU of the layer behind it (`llama_context::resolve_fused_ops`).
"""

from __future__ import annotations

from collections.abc import Sequence

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
    return b.g.new(n, streams, n_tokens, of=(b.g.view(x, n, 1, n_tokens),))


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
        picked = Node((hp.n_expert_used, b.n_tokens), F32, (b.tokens,), device=g.device)
    out = feed_forward(b, t, y, picked=picked)
    return spread(b, out if out is not None else y, x, post, comb, fused=fused)


def mixed(b: GraphBuilder, t: Tensors, part: str, x: Node) -> tuple[Node, Node, Node]:
    """The streams as one row (`build_hc_pre`), [n_embd, streams, n_tokens] -> [n_embd, n_tokens],
    and how to spread what becomes of it: to each stream, [streams, n_tokens], and from each to
    each, [streams, streams, n_tokens]."""
    g = b.g
    n, hc, n_tokens = x.shape
    w = t[f"hc_{part}_fn.weight"]
    flat = g.over(g.view(x, n * hc, n_tokens))
    mixes = g.mm(w.shape[1], flat, g.held(w))
    pre, post = (
        g.over(g.over(g.over(g.over(g.view(mixes, hc, n_tokens, contiguous=False)))))
        for _ in range(2)
    )
    comb = Node((hc, hc, n_tokens), F32, (mixes,), device=g.device)
    return g.new(n, n_tokens, of=(x, pre)), post, comb


def spread(b: GraphBuilder, y: Node, x: Node, post: Node, comb: Node, *, fused: bool) -> Node:
    """y, [n_embd, n_tokens], added to every stream of x, and the streams blended
    (`build_hc_post`) -> [n_embd, streams, n_tokens]."""
    g = b.g
    n, hc, n_tokens = x.shape
    if fused:
        return g.new(n, hc, n_tokens, of=(y, x, post, comb))
    out: Node | None = None
    for _ in range(hc):
        row = g.over(y, g.view(post, 1, n_tokens, contiguous=False, stride=hc))
        for _ in range(hc):
            part = g.view(x, n, n_tokens, contiguous=False, stride=n * hc)
            share = g.view(comb, 1, n_tokens, contiguous=False, stride=hc * hc)
            row = g.over(row, g.over(part, share))
        row = g.view(row, n, 1, n_tokens)
        out = row if out is None else g.new(n, out.shape[1] + 1, n_tokens, of=(out, row))
    assert out is not None
    return out


def head(b: GraphBuilder, output: Tensors, x: Node) -> Node:
    """The rows to output, their streams as one, normed: [n_embd, streams, n_tokens]
    -> [n_embd, n_outputs]."""
    return b.norm(output, "output_norm", _narrowed(b, output, output_streams(b, x)))


def _narrowed(b: GraphBuilder, output: Tensors, x: Node) -> Node:
    """The streams as one row (`build_hc_head`, `build_hc_mean`)."""
    g = b.g
    n, hc, n_tokens = x.shape
    streams = [g.view(x, n, n_tokens, contiguous=False, stride=n * hc) for _ in range(hc)]
    w = output.get("output_hc_fn.weight")
    if w is None:  # their mean
        total = streams[0]
        for stream in streams[1:]:
            total = g.over(total, stream)
        return g.over(total)
    mixes = g.mm(hc, g.over(g.view(x, n * hc, n_tokens)), g.held(w))
    for name in ("output_hc_scale.weight", "output_hc_base.weight"):
        mixes = b.by(output, name, mixes)
    pre = g.over(g.over(mixes))
    parts = [g.over(s, g.view(pre, 1, n_tokens, contiguous=False)) for s in streams]
    total = parts[0]
    for part in parts[1:]:
        total = g.over(total, part)
    return total
