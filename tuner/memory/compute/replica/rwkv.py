"""RWKV as graph nodes: src/models/rwkv6-base.cpp and rwkv7-base.cpp, with the layers of rwkv6.cpp
and rwkv7.cpp around them; rwkv6qwen2.cpp and arwkv7.cpp put the same mixers into common layers."""

from __future__ import annotations

from typing import Literal

from tuner.machine.kernels import Asked
from tuner.memory.compute.graph import Node
from tuner.memory.compute.replica.builder import GraphBuilder, Tensors
from tuner.memory.compute.replica.feed_forward import feed_forward
from tuner.model.hparams import HParams

_FIRST_VALUE = "first value"  # carried from the first layer to all others, which blend it in


def rescales(hp: HParams, il: int) -> bool:
    """Whether a layer halves what it has made."""
    return hp.rescaled_every > 0 and (il + 1) % hp.rescaled_every == 0


def rwkv_layer(b: GraphBuilder, t: Tensors, x: Node, last: bool) -> Node:
    """A whole layer: the mixer over time, then the one over channels (src/models/rwkv6.cpp,
    rwkv7.cpp). [n_embd, n_tokens] -> the same, or [n_embd, n_outputs] where the `last` layer
    picks the rows that become logits."""
    g, n_tokens, n = b.g, b.n_tokens, b.hp.n_embd
    x = g.reshape(x, n, n_tokens)
    old = b.gather(b.hp.state_r)
    shift = g.reshape(old, n, 2)
    normed = b.norm(t, "attn_norm", x)
    y = _time_mix(b, t, normed, _shifted(b, g.view(shift, n, 1), normed))
    joined = g.add(y, x)
    normed_2 = b.norm(t, "attn_norm_2", joined)
    before = _shifted(b, g.view(shift, n, 1), normed_2)
    rows = (g.view(normed, n, 1), g.view(normed_2, n, 1))
    b.keep(g.view(g.new(n, 2, of=rows, op="CONCAT"), 2 * n), old)
    joined, normed_2, before = (g.reshape(v, n, n_tokens) for v in (joined, normed_2, before))
    if last:
        joined, normed_2, before = (b.output_rows(v) for v in (joined, normed_2, before))
    y = g.add(_channel_mix(b, t, normed_2, before), joined)
    return g.over(y, op="SCALE") if rescales(b.hp, b.layer) else y


def _channel_mix(b: GraphBuilder, t: Tensors, x: Node, before: Node) -> Node:
    """The mixer over channels (`build_rwkv6_channel_mix`, `build_rwkv7_channel_mix`): x and what
    was `before`, [n_embd, n] -> the same."""
    g = b.g
    step = g.over(before, x, op="SUB")

    def between(of: str) -> Node:
        return g.add(b.by(t, f"channel_mix_lerp_{of}.weight", step), x)

    k = b.mm(t, "channel_mix_key", between("k"))
    y = b.mm(t, "channel_mix_value", g.over(g.over(k, op="RELU"), op="SQR"))
    if not b.has(t, "channel_mix_receptance"):
        return y
    return g.mul(g.over(b.mm(t, "channel_mix_receptance", between("r")), op="SIGMOID"), y)


def rwkv_in_common_layer(b: GraphBuilder, t: Tensors, x: Node, last: bool) -> Node:
    """The mixer over time with a common feed-forward part (src/models/rwkv6qwen2.cpp,
    arwkv7.cpp); sums are read through other shapes, which are those of `rwkv_layer`."""
    g, n_tokens, n = b.g, b.n_tokens, b.hp.n_embd
    x = g.reshape(x, n, n_tokens)
    old = b.gather(b.hp.state_r)
    normed = b.norm(t, "attn_norm", x)
    y = _time_mix(b, t, normed, _shifted(b, g.reshape(old, n, 1), normed))
    b.keep(g.view(g.view(normed, n, 1), n), old)
    x = g.reshape(g.add(y, x), n, n_tokens)
    if last:
        x = b.output_rows(x)
    out = feed_forward(b, t, b.norm(t, "ffn_norm", x))
    return x if out is None else g.add(out, x)


def _shifted(b: GraphBuilder, first: Node, x: Node) -> Node:
    """Each token's predecessor, the `first` one's out of the state: [n_embd, n_tokens] -> the
    same."""
    g, n_tokens, n = b.g, b.n_tokens, b.hp.n_embd
    return g.new(n, n_tokens, of=(first, g.view(x, n, n_tokens - 1)), op="CONCAT")


def _time_mix(b: GraphBuilder, t: Tensors, x: Node, before: Node) -> Node:
    """The mixer over time, of either kind: x and the tokens `before`, [n_embd, n_tokens] -> the
    same."""
    y = (_time_mix_7 if b.has(t, "time_mix_a1") else _time_mix_6)(b, t, x, before)
    return b.g.reshape(y, *y.shape)


def _low_rank(
    b: GraphBuilder, t: Tensors, of: str, x: Node, bend: Literal["", "TANH", "SIGMOID"] = ""
) -> Node:
    """x through two narrow matrices, with a function between them if one is stated."""
    low = b.bare_mm(t, f"time_mix_{of}1", x)
    return b.bare_mm(t, f"time_mix_{of}2", b.g.over(low, op=bend) if bend else low)


def _time_mix_7(b: GraphBuilder, t: Tensors, x: Node, before: Node) -> Node:
    """`build_rwkv7_time_mix` (src/models/rwkv7-base.cpp)."""
    g, n_tokens, n = b.g, b.n_tokens, b.hp.n_embd
    head = max(1, b.hp.ssm.wkv_head)
    heads = n // head
    gated = b.has(t, "time_mix_g1")
    parts = 6 if gated else 5
    wide = g.new(n, n_tokens, 1, parts, of=(g.over(before, x, op="SUB"),), op="REPEAT")
    wide = g.add(b.by(t, "time_mix_lerp_fused.weight", wide), x)
    xr, xw, xk, xv, xa, *xg = (g.view(wide, n, n_tokens) for _ in range(parts))
    r = b.mm(t, "time_mix_receptance", xr)
    w = b.by(t, "time_mix_w0.weight", _low_rank(b, t, "w", xw, "TANH"), "ADD")
    w = g.over(g.over(g.over(w, op="SIGMOID"), op="SCALE"), op="EXP")
    k = b.mm(t, "time_mix_key", xk)
    v = b.mm(t, "time_mix_value", xv)
    first = b.carried.setdefault(_FIRST_VALUE, v)
    if first is not v:
        part = b.by(t, "time_mix_v0.weight", _low_rank(b, t, "v", xv), "ADD")
        v = g.add(v, g.mul(g.over(first, v, op="SUB"), g.over(part, op="SIGMOID")))
    a = b.by(t, "time_mix_a0.weight", _low_rank(b, t, "a", xa), "ADD")
    a = g.over(a, op="SIGMOID")
    kk = g.reshape(b.by(t, "time_mix_k_k.weight", k), head, heads, n_tokens)
    kk = g.new(head, heads, n_tokens, of=(kk,), op="L2_NORM")
    ka = b.by(t, "time_mix_k_a.weight", k)
    k = g.add(k, g.over(g.mul(a, ka), ka, op="SUB"))
    r, w, k, v, a = (g.reshape(y, head, heads, n_tokens) for y in (r, w, k, v, a))
    state = b.gather(b.hp.state_s)
    of = (r, w, k, v, g.over(kk, op="NEG"), g.mul(kk, a), state)
    done = g.new(n, n_tokens + head, of=of, op="RWKV_WKV7")
    y = _kept(b, done, state)
    y = _normed_heads(b, t, y) if b.has(t, "time_mix_ln") else g.reshape(y, n, n_tokens)
    rk = g.mul(g.mul(k, r), b.seen_as(t, "time_mix_r_k.weight", head, heads))
    rk = g.new(1, heads, n_tokens, of=(rk,), op="SUM_ROWS")
    y = g.add(y, g.reshape(g.mul(v, rk), n, n_tokens))
    if gated:
        y = g.mul(y, _low_rank(b, t, "g", xg[0], "SIGMOID"))
    return b.mm(t, "time_mix_output", y)


def _time_mix_6(b: GraphBuilder, t: Tensors, x: Node, before: Node) -> Node:
    """`build_rwkv6_time_mix` (src/models/rwkv6-base.cpp)."""
    g, n_tokens, n = b.g, b.n_tokens, b.hp.n_embd
    head = max(1, b.hp.ssm.wkv_head)
    heads = n // head
    with_first = b.has(t, "time_mix_first")
    xw, xk, xv, xr, xg = _blended(b, t, x, before)
    r = b.mm(t, "time_mix_receptance", xr)
    k = b.mm(t, "time_mix_key", xk)
    v = b.mm(t, "time_mix_value", xv)
    gate = g.over(b.mm(t, "time_mix_gate", xg), op="SILU" if with_first else "SIGMOID")
    if k.shape[0] != n:
        k, v = (_repeated(b, y, head, heads) for y in (k, v))
    k, v, r = (g.reshape(y, head, heads, n_tokens) for y in (k, v, r))
    w = b.by(t, "time_mix_decay.weight", _low_rank(b, t, "decay_w", xw, "TANH"), "ADD")
    w = g.over(g.over(g.over(w, op="EXP"), op="NEG"), op="EXP")
    w = g.reshape(w, head, heads, n_tokens)
    if not with_first:
        k = g.over(k, g.mul(k, w), op="SUB")
    state = b.gather(b.hp.state_s)
    shape = (n, n_tokens + head)
    if with_first:
        first = t["time_mix_first.weight"].n_bytes
        done = g.weighed(shape, k, v, r, w, state, weight=first, op="RWKV_WKV6")
    else:
        done = g.new(*shape, of=(k, v, r, w, state), op="GATED_LINEAR_ATTN")
        b.unless_lacking(done, Asked("GATED_LINEAR_ATTN", head))
    y = _kept(b, done, state)
    y = _normed_heads(b, t, y) if with_first else g.reshape(y, n, n_tokens)
    return b.mm(t, "time_mix_output", g.mul(y, gate))


def _blended(b: GraphBuilder, t: Tensors, x: Node, before: Node) -> list[Node]:
    """What decay, keys, values, receptance and gate are made of: x and the tokens before, blended
    by what both say, [n_embd, n_tokens] each."""
    g, n_tokens, n = b.g, b.n_tokens, b.hp.n_embd
    step = g.reshape(g.over(before, x, op="SUB"), n, n_tokens)
    x = g.reshape(x, n, n_tokens)
    low = g.add(b.by(t, "time_mix_lerp_x.weight", step), x)
    low = g.over(b.bare_mm(t, "time_mix_w1", low), op="TANH")
    rank = low.shape[0] // 5
    turned = g.cont(g.permute(g.reshape(low, rank, 1, 5, n_tokens), rank, 1, n_tokens, 5))
    weight = b.seen_as(t, "time_mix_w2.weight", rank, n, 1, 5)
    wide = g.new(n, 1, n_tokens, 5, of=(weight, turned), op="MUL_MAT")
    if b.has(t, "time_mix_lerp_fused"):
        step, x = (g.reshape(y, n, 1, n_tokens) for y in (step, x))
        wide = b.by(t, "time_mix_lerp_fused.weight", wide, "ADD")
        wide = g.add(g.mul(wide, step), x)
        return [g.view(wide, n, n_tokens) for _ in range(5)]
    parts = [
        b.by(t, f"time_mix_lerp_{of}.weight", g.view(wide, n, n_tokens), "ADD") for of in "wkvrg"
    ]
    return [g.add(g.mul(part, step), x) for part in parts]


def _repeated(b: GraphBuilder, x: Node, head: int, heads: int) -> Node:
    """Keys or values of fewer heads for all: [head x few, n_tokens] -> [head, heads / few, few,
    n_tokens]."""
    few = x.shape[0] // head
    x = b.g.reshape(x, head, 1, few, b.n_tokens)
    return b.g.new(head, heads // few, few, b.n_tokens, of=(x,), op="REPEAT")


def _kept(b: GraphBuilder, done: Node, state: Node) -> Node:
    """What the recurrence has made of the tokens, in one row; the new state behind that is stored
    where the old one was gathered."""
    made = b.g.view(done, b.hp.n_embd * b.n_tokens)
    b.keep(b.g.view(done, b.hp.state_s), state)
    return made


def _normed_heads(b: GraphBuilder, t: Tensors, y: Node) -> Node:
    """What the recurrence made of the tokens, normed head by head: -> [n_embd, n_tokens]."""
    g, n_tokens, n = b.g, b.n_tokens, b.hp.n_embd
    head = max(1, b.hp.ssm.wkv_head)
    y = g.reshape(y, head, n // head, n_tokens)
    y = g.reshape(g.new(*y.shape, of=(y,), op="NORM"), n, n_tokens)
    return b.by(t, "time_mix_ln.bias", b.by(t, "time_mix_ln.weight", y))
