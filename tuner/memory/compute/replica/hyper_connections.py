"""Whole models around hyper-connections as graph nodes: src/models/deepseek4.cpp, glm5-next.cpp.

The residual is four streams per token. Before each part of a layer the streams are mixed into
one row (`build_hc_pre`), behind it the part's result is spread over them again (`build_hc_post`).
Both are single operations, but the engine does without the second one where a host layer's would
run on the GPU of the layer behind it (`llama_context::resolve_fused_ops`).
"""

from __future__ import annotations

from collections.abc import Sequence

from tuner.memory.compute.graph import F32, HOST, Node
from tuner.memory.compute.replica.attention import LayerBuilder, Tensors
from tuner.memory.compute.replica.builder import Layers
from tuner.memory.compute.replica.deepseek4 import compressed_attention
from tuner.memory.compute.replica.glm5_next import pool_inputs, pooled_attention
from tuner.memory.compute.replica.state_space import mixer
from tuner.memory.kv_cache import WINDOW


def hyper_model(
    b: LayerBuilder,
    tensors: Sequence[Tensors],
    output: Tensors,
    tokens: Node,
    x: Node,
    layers: Layers,
    device: int,
) -> Node:
    """From the embeddings x to the normed row before the logits. `device`: the output's."""
    g, hp = b.g, b.hp
    n, u = x.shape
    deepseek4 = hp.row.memory == "compressed"  # it says where the last operations of layers run
    b.fused = deepseek4 or device == HOST or all(at != HOST for _, at, _ in layers)
    streams = tensors[0]["hc_attn_fn.weight"].shape[0] // n
    if deepseek4:
        g.expand(b.masks[WINDOW])
    else:
        pool_inputs(b)
    x = g.new(n, streams, u, of=(g.view(x, n, 1, u),))
    for il, at, experts_on_host in layers:
        g.device = at
        b.experts_on_host = experts_on_host and at != HOST
        # scales of these experts are loaded, but not used
        used = {name: w for name, w in tensors[il].items() if not name.endswith(".scale")}
        x = _layer(b, used, il, tokens, x)
    g.device = device
    x = g.new(n * streams, 1, of=(g.view(x, n * streams, u), b.out_ids))
    x = g.view(x, n, streams, 1)
    return b.norm(output, "output_norm", _head(b, output, x))


def _layer(b: LayerBuilder, t: Tensors, il: int, tokens: Node, x: Node) -> Node:
    g, hp = b.g, b.hp
    deepseek4 = hp.row.memory == "compressed"
    y, post, comb = mixed(b, t, "attn", x)
    y = b.norm(t, "attn_norm", y)
    if deepseek4:
        y = compressed_attention(b, t, il, y)
    else:
        g.expand(y)
        state = mixer(b, t, y) if hp.recurrent[il] else None
        y = state if state is not None else pooled_attention(b, t, il, y)
    x = spread(b, y, x, post, comb)
    y, post, comb = mixed(b, t, "ffn", x)
    if deepseek4:
        g.expand(x, post, comb)
    y = b.norm(t, "ffn_norm", y)
    if "ffn_gate_tid2eid.weight" in t:  # the token alone says which experts
        b.routed = Node((hp.n_expert_used, b.u), F32, (tokens,), device=g.device)
    out = b.feed_forward(t, y)
    b.routed = None
    return spread(b, out if out is not None else y, x, post, comb)


def mixed(b: LayerBuilder, t: Tensors, part: str, x: Node) -> tuple[Node, Node, Node]:
    """The streams as one row, and how to spread what becomes of it."""
    g = b.g
    n, hc, u = x.shape
    w = t[f"hc_{part}_fn.weight"]
    flat = g.over(g.view(x, n * hc, u))
    mixes = g.mm(w.shape[1], flat, w.n_bytes)
    pre, post = (
        g.over(g.over(g.over(g.over(g.view(mixes, hc, u, contiguous=False))))) for _ in range(2)
    )
    comb = Node((hc, hc, u), F32, (mixes,), device=g.device)
    return g.new(n, u, of=(x, pre)), post, comb


def spread(b: LayerBuilder, y: Node, x: Node, post: Node, comb: Node) -> Node:
    """y added to every stream, and the streams blended."""
    g = b.g
    n, hc, u = x.shape
    if b.fused:
        return g.new(n, hc, u, of=(y, x, post, comb))
    out: Node | None = None
    for _ in range(hc):
        row = g.over(y, g.view(post, 1, u, contiguous=False, stride=hc))
        for _ in range(hc):
            part = g.view(x, n, u, contiguous=False, stride=n * hc)
            share = g.view(comb, 1, u, contiguous=False, stride=hc * hc)
            row = g.over(row, g.over(part, share))
        row = g.view(row, n, 1, u)
        out = row if out is None else g.new(n, out.shape[1] + 1, u, of=(out, row))
    assert out is not None
    return out


def _head(b: LayerBuilder, output: Tensors, x: Node) -> Node:
    """The streams of the rows to output as one."""
    g = b.g
    n, hc, u = x.shape
    streams = [g.view(x, n, u, contiguous=False, stride=n * hc) for _ in range(hc)]
    w = output.get("output_hc_fn.weight")
    if w is None:  # their mean
        total = streams[0]
        for stream in streams[1:]:
            total = g.over(total, stream)
        return g.over(total)
    mixes = g.mm(hc, g.over(g.view(x, n * hc, u)), w.n_bytes)
    pre = g.over(g.over(g.over(g.over(mixes, weighted=True), weighted=True)))
    parts = [g.over(s, g.view(pre, 1, u, contiguous=False)) for s in streams]
    total = parts[0]
    for part in parts[1:]:
        total = g.over(total, part)
    return total
