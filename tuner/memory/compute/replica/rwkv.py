"""RWKV as graph nodes: src/models/rwkv6-base.cpp and rwkv7-base.cpp, with the layers of rwkv6.cpp
and rwkv7.cpp around them; rwkv6qwen2.cpp and arwkv7.cpp put the same mixers into common layers."""

from __future__ import annotations

from tuner.memory.compute.graph import Node
from tuner.memory.compute.replica.builder import GraphBuilder, Tensors
from tuner.memory.compute.replica.feed_forward import feed_forward

_FIRST_VALUE = "first value"  # carried from the first layer to all others, which blend it in


def rwkv_layer(b: GraphBuilder, t: Tensors, x: Node, last: bool) -> Node:
    """A whole layer: the mixer over time, then the one over channels (src/models/rwkv6.cpp,
    rwkv7.cpp). [n_embd, n_tokens] -> the same, or [n_embd, n_outputs] where the `last` layer
    picks the rows that become logits."""
    g, n_tokens, n = b.g, b.n_tokens, b.hp.n_embd
    old = b.gather(b.hp.state_r)
    normed = b.norm(t, "attn_norm", x)
    y = _time_mix(b, t, normed, _shifted(b, old, normed))
    joined = g.new(n, n_tokens, of=(y, x))
    normed_2 = b.norm(t, "attn_norm_2", joined)
    before = _shifted(b, old, normed_2)
    rows = (g.view(normed, n, 1, contiguous=False), g.view(normed_2, n, 1, contiguous=False))
    g.expand(g.store(g.view(g.new(n, 2, of=rows), 2 * n)))
    if last:
        joined, normed_2, before = (b.output_rows(v) for v in (joined, normed_2, before))
    else:
        normed_2, before = g.view(normed_2, n, n_tokens), g.view(before, n, n_tokens)
    step = g.over(before, normed_2)
    k = b.mm(t, "channel_mix_key", g.over(b.by(t, "channel_mix_lerp_k.weight", step), normed_2))
    if b.has(t, "channel_mix_receptance"):
        r = g.over(b.by(t, "channel_mix_lerp_r.weight", step), normed_2)
        r = g.over(b.mm(t, "channel_mix_receptance", r))
        y = g.over(r, b.mm(t, "channel_mix_value", g.over(g.over(k))))
    else:
        y = b.mm(t, "channel_mix_value", g.over(g.over(k)))
    return g.over(y, joined)


def rwkv_in_common_layer(b: GraphBuilder, t: Tensors, x: Node, last: bool) -> Node:
    """The mixer over time with a common feed-forward part (src/models/rwkv6qwen2.cpp,
    arwkv7.cpp); sums are read through other shapes, which are those of `rwkv_layer`."""
    g, n_tokens, n = b.g, b.n_tokens, b.hp.n_embd
    x = g.view(x, n, n_tokens)
    old = b.gather(b.hp.state_r)
    normed = b.norm(t, "attn_norm", x)
    y = g.view(_time_mix(b, t, normed, _shifted(b, old, normed)), n, n_tokens)
    g.expand(g.store(g.view(normed, n, 1, contiguous=False)))
    x = g.view(g.over(y, x), n, n_tokens)
    if last:
        x = b.output_rows(x)
    out = feed_forward(b, t, b.norm(t, "ffn_norm", x))
    return x if out is None else g.over(out, x)


def _shifted(b: GraphBuilder, old: Node, x: Node) -> Node:
    """Each token's predecessor, the first one's out of the state (`build_rwkv_token_shift_load`):
    [n_embd, n_tokens] -> the same."""
    g, n_tokens, n = b.g, b.n_tokens, b.hp.n_embd
    parts = (g.view(old, n, 1, contiguous=False), g.view(x, n, n_tokens - 1, contiguous=False))
    return g.new(n, n_tokens, of=parts)


def _time_mix(b: GraphBuilder, t: Tensors, x: Node, before: Node) -> Node:
    """The mixer over time, of either kind: x and the tokens `before`, [n_embd, n_tokens] -> the
    same."""
    return (_time_mix_7 if b.has(t, "time_mix_a1") else _time_mix_6)(b, t, x, before)


def _low_rank(b: GraphBuilder, t: Tensors, names: tuple[str, str], x: Node, *, bent: bool) -> Node:
    """x through two narrow matrices, with a function between them where it is `bent`."""
    low = b.mm(t, names[0], x)
    return b.mm(t, names[1], b.g.over(low) if bent else low)


def _time_mix_7(b: GraphBuilder, t: Tensors, x: Node, before: Node) -> Node:
    """`build_rwkv7_time_mix` (src/models/rwkv7-base.cpp)."""
    g, n_tokens, n = b.g, b.n_tokens, b.hp.n_embd
    head = max(1, b.hp.ssm.wkv_head)
    heads = n // head
    gated = b.has(t, "time_mix_g1")
    wide = g.new(n, n_tokens, 6 if gated else 5, of=(g.over(before, x),))
    wide = g.over(b.by(t, "time_mix_lerp_fused.weight", wide), x)
    xr, xw, xk, xv, xa, xg = (g.view(wide, n, n_tokens, contiguous=False) for _ in range(6))
    r = b.mm(t, "time_mix_receptance", xr)
    w = _low_rank(b, t, ("time_mix_w1", "time_mix_w2"), xw, bent=True)
    w = g.over(g.over(g.over(b.by(t, "time_mix_w0.weight", w))))
    k = b.mm(t, "time_mix_key", xk)
    v = b.mm(t, "time_mix_value", xv)
    first = b.carried.setdefault(_FIRST_VALUE, v)
    if first is not v:
        away = g.over(first, v)
        part = _low_rank(b, t, ("time_mix_v1", "time_mix_v2"), xv, bent=False)
        v = g.over(v, g.over(away, g.over(b.by(t, "time_mix_v0.weight", part))))
    a = _low_rank(b, t, ("time_mix_a1", "time_mix_a2"), xa, bent=False)
    a = g.over(b.by(t, "time_mix_a0.weight", a))
    kk = g.view(b.by(t, "time_mix_k_k.weight", k), head, heads, n_tokens)
    kk = g.new(head, heads, n_tokens, of=(kk,))
    ka = b.by(t, "time_mix_k_a.weight", k)
    k = g.over(k, g.over(g.over(a, ka), ka))
    r, w, k, v, a = (g.view(y, head, heads, n_tokens) for y in (r, w, k, v, a))
    done = _run(b, (r, w, k, v, g.over(kk), g.over(kk, a)))
    y = _normed_heads(b, t, done)
    rk = g.new(1, heads, n_tokens, of=(b.by(t, "time_mix_r_k.weight", g.over(k, r)),))
    y = g.over(y, g.view(g.over(v, rk), n, n_tokens))
    if gated:
        y = g.over(y, _low_rank(b, t, ("time_mix_g1", "time_mix_g2"), xg, bent=True))
    return b.mm(t, "time_mix_output", y)


def _time_mix_6(b: GraphBuilder, t: Tensors, x: Node, before: Node) -> Node:
    """`build_rwkv6_time_mix` (src/models/rwkv6-base.cpp)."""
    g, n_tokens, n = b.g, b.n_tokens, b.hp.n_embd
    head = max(1, b.hp.ssm.wkv_head)
    heads = n // head
    step = g.view(g.over(before, x), n, n_tokens)
    x = g.view(x, n, n_tokens)
    low = g.over(b.mm(t, "time_mix_w1", g.over(b.by(t, "time_mix_lerp_x.weight", step), x)))
    rank = low.shape[0] // 5
    turned = g.new(rank, n_tokens, 5, of=(g.view(low, rank, n_tokens, 5, contiguous=False),))
    wide = g.product((n, n_tokens, 5), (turned,), g.held(t["time_mix_w2.weight"]))
    if b.has(t, "time_mix_lerp_fused"):
        wide = g.over(g.over(b.by(t, "time_mix_lerp_fused.weight", wide), step), x)
        parts = [g.view(wide, n, n_tokens, contiguous=False) for _ in range(5)]
    else:
        parts = [
            g.over(
                g.over(b.by(t, f"time_mix_lerp_{of}.weight", g.view(wide, n, n_tokens)), step), x
            )
            for of in "wkvrg"
        ]
    xw, xk, xv, xr, xg = parts
    r, k, v = (
        b.mm(t, f"time_mix_{name}", y)
        for name, y in (("receptance", xr), ("key", xk), ("value", xv))
    )
    gate = g.over(b.mm(t, "time_mix_gate", xg))
    if k.shape[0] != n:
        k, v = (g.new(n, n_tokens, of=(y,)) for y in (k, v))
    k, v, r = (g.view(y, head, heads, n_tokens) for y in (k, v, r))
    w = _low_rank(b, t, ("time_mix_decay_w1", "time_mix_decay_w2"), xw, bent=True)
    w = g.over(g.over(g.over(b.by(t, "time_mix_decay.weight", w))))
    w = g.view(w, head, heads, n_tokens)
    own_norm = b.has(t, "time_mix_first")
    if not own_norm:
        k = g.over(k, g.over(k, w))
    y = _run(b, (k, v, r, w))
    y = _normed_heads(b, t, y) if own_norm else g.view(y, n, n_tokens)
    return b.mm(t, "time_mix_output", g.over(y, gate))


def _run(b: GraphBuilder, srcs: tuple[Node, ...]) -> Node:
    """The recurrence itself: what it makes of the tokens, then the new state, which is stored."""
    g, size = b.g, b.hp.state_s
    state = b.gather(size)
    done = g.new(b.hp.n_embd * b.n_tokens + size, of=(*srcs, state))
    g.expand(g.store(g.view(done, size)))
    return done


def _normed_heads(b: GraphBuilder, t: Tensors, done: Node) -> Node:
    """What the recurrence made of the tokens, normed head by head: -> [n_embd, n_tokens]."""
    g, n_tokens, n = b.g, b.n_tokens, b.hp.n_embd
    if not b.has(t, "time_mix_ln"):
        return g.view(done, n, n_tokens)
    y = g.view(g.new(n, n_tokens, of=(g.view(done, n, n_tokens),)), n, n_tokens)
    return b.by(t, "time_mix_ln.bias", b.by(t, "time_mix_ln.weight", y))
