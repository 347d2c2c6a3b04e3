"""Layers with a recurrent state as graph nodes.

Mirrors src/models/mamba-base.cpp, delta-net-base.cpp with qwen3next.cpp, qwen35.cpp,
kimi-linear.cpp and lfm2.cpp; rwkv is apart. Which of them a layer is, its tensors say.
"""

from __future__ import annotations

from math import prod

from tuner.machine.kernels import Asked
from tuner.memory.compute.graph import F32, HOST, Node
from tuner.memory.compute.ops import Op
from tuner.memory.compute.replica.builder import COLUMNS, STATE, GraphBuilder, Tensors


def mixer(b: GraphBuilder, t: Tensors, x: Node) -> Node | None:
    """The layer's mixer, or None where the layer has none that is known. x: normed, [n_embd,
    n_tokens] -> the same."""
    if b.has(t, "shortconv.in_proj"):
        return _short_conv(b, t, x)
    if b.has(t, "ssm_conv1d_q"):
        return _kimi_delta(b, t, x)
    if b.has(t, "ssm_beta") or b.has(t, "ssm_ba"):
        return _gated_delta(b, t, x)
    if b.has(t, "ssm_x"):
        return _mamba1(b, t, x)
    if b.has(t, "ssm_in"):
        return _mamba2(b, t, x)
    return None


def joined_columns(
    b: GraphBuilder,
    x: Node,
    channels: int,
    width: int,
    old: Node,
    *,
    times: int = 1,
    part: bool = False,
) -> Node:
    """x, [channels, n_tokens], behind the last columns of before; the new last columns are stored,
    several `times` where those of earlier tokens are kept (`build_conv_state`)
    -> [width - 1 + n_tokens, channels]. `part`: the state is one of several side by side."""
    g = b.g
    shape = (width - 1, channels)
    columns = g.view(old, *shape) if part else g.reshape(old, *shape)
    turned = g.view(x, b.n_tokens, channels, contiguous=False, op="TRANSPOSE")
    length = width - 1 + b.n_tokens
    joined = g.new(length, channels, of=(columns, turned), op="CONCAT")
    for _ in range(times):
        kept = g.view(joined, width - 1, channels, contiguous=False, stride=length)
        kept = g.cont(kept) if b.traits.copied_columns else kept
        b.keep(kept, old, *(shape if part else ()))
    return joined


def _convolved(b: GraphBuilder, t: Tensors, name: str, joined: Node, channels: int) -> Node:
    """What `joined_columns` has made through the weight `name`, plus its bias where it has one,
    through a function -> [channels, n_tokens]."""
    w = t[f"{name}.weight"]
    y = b.g.weighed((channels, b.n_tokens), joined, weight=w.n_bytes, op="SSM_CONV")
    y = b.g.reads(w, y)
    return b.g.over(b.by(t, f"{name}.bias", y) if f"{name}.bias" in t else y, op="SILU")


def _scan(b: GraphBuilder, t: Tensors, *of: Node) -> Node:
    """The recurrence: what it makes of the tokens, then the new state, which is stored
    (`ggml_ssm_scan`)."""
    g, s = b.g, b.hp.ssm
    size = s.inner * (b.n_tokens + s.state)
    decays = prod(t["ssm_a"].shape)  # one for a whole head, or one for each element of its state
    head = max(1, s.inner // decays)
    asked = Asked("SSM_SCAN", head, s.inner // head, state=s.state, one_decay=decays <= s.inner)

    def run(states: Node) -> Node:
        srcs = (g.reshape(states, s.state, *of[0].shape[:-1]), *of, b.ids)
        if b.lacks(asked):  # its weight is loaded to where there is one
            b.note_on_cpu(asked)
            return Node((size,), F32, srcs, "SSM_SCAN", device=HOST)
        return g.weighed((size,), *srcs, weight=t["ssm_a"].n_bytes, op="SSM_SCAN")

    scan = b.gather(b.hp.state_s, run, which=STATE)
    b.keep(g.view(scan, s.state * s.inner), scan)
    return scan


def _norm(t: Tensors, name: str) -> str:
    """The name of a norm's weight, which some architectures have without an ending."""
    return name if name in t else f"{name}.weight"


def _mamba1(b: GraphBuilder, t: Tensors, x: Node) -> Node:
    """`build_mamba_layer` (src/models/mamba-base.cpp), `build_plamo2_mamba_layer` (plamo2.cpp)."""
    g, n_tokens, s = b.g, b.n_tokens, b.hp.ssm
    conv = b.gather(b.hp.state_r, which=COLUMNS)
    xz = b.mm(t, "ssm_in", x)
    turned = b.traits.turned_input
    if turned:
        xz = g.cont(g.permute(xz, *xz.shape))
    z = g.part(xz, xz.shape[0], s.inner, n_tokens)
    x = g.view(xz, s.inner, n_tokens, contiguous=False)
    joined = joined_columns(b, g.cont(x) if turned else x, s.inner, s.conv, conv)
    x = _convolved(b, t, "ssm_conv1d", joined, s.inner)
    x_db = b.mm(t, "ssm_x", x)
    rank = t["ssm_dt.weight"].shape[0]
    dt = g.cont(g.view(x_db, rank, n_tokens, contiguous=False))
    row = x_db.shape[0]
    low = [g.view(x_db, s.state, n_tokens, contiguous=False, stride=row) for _ in range(2)]
    if b.has(t, "ssm_dt_norm"):
        dt = b.by(t, _norm(t, "ssm_dt_norm"), g.over(dt, op="RMS_NORM"))
        low = [
            b.by(t, _norm(t, name), g.over(v, op="RMS_NORM"))
            for name, v in zip(("ssm_b_norm", "ssm_c_norm"), low, strict=True)
        ]
    dt = b.mm(t, "ssm_dt", dt)
    scan = _scan(b, t, g.reshape(x, 1, s.inner, n_tokens), dt, *low)
    y = g.view(scan, s.inner, n_tokens, contiguous=False)
    skipped = g.over(g.view(x, s.inner, n_tokens), op="MUL") if turned else b.by(t, "ssm_d", x)
    y = g.add(y, skipped)
    y = g.new(s.inner, n_tokens, of=(g.cont(z), y), op="GLU")
    return g.reshape(b.mm(t, "ssm_out", y), b.hp.n_embd, n_tokens)


def _mamba2(b: GraphBuilder, t: Tensors, x: Node) -> Node:
    """`build_mamba2_layer` (src/models/mamba-base.cpp)."""
    g, n_tokens, s = b.g, b.n_tokens, b.hp.ssm
    heads = max(1, s.rank)
    head = s.inner // heads
    channels = s.inner + 2 * s.groups * s.state
    conv = b.gather(b.hp.state_r, which=COLUMNS)
    both = b.mm(t, "ssm_in", x)
    row = both.shape[0]
    both = g.reshape(both, row, n_tokens)
    z = g.view(both, head, heads, n_tokens, contiguous=False, stride=row)
    columns = g.view(both, channels, n_tokens, contiguous=False, stride=row)
    joined = joined_columns(b, columns, channels, s.conv, conv)
    mixed = _convolved(b, t, "ssm_conv1d", joined, channels)
    inner, *low = (
        g.view(mixed, of, groups, n_tokens, contiguous=False, stride=channels)
        for of, groups in ((head, heads), *[(s.state, s.groups)] * 2)
    )
    dt = g.cont(g.view(both, heads, n_tokens, contiguous=False, stride=row))
    dt = b.by(t, "ssm_dt.bias", dt)
    scan = _scan(b, t, inner, dt, *low)
    y = g.view(scan, head, heads, n_tokens, contiguous=False)
    y = g.add(y, g.weighed(inner.shape, inner, weight=t["ssm_d"].n_bytes, op="MUL"))
    y = g.new(head, heads, n_tokens, of=(g.cont(z), y), op="GLU")
    if b.has(t, "ssm_norm"):
        y = g.reshape(y, s.inner // max(1, s.groups), max(1, s.groups), n_tokens)
        y = b.by(t, "ssm_norm.weight", g.over(y, op="RMS_NORM"))
    return b.mm(t, "ssm_out", g.reshape(y, s.inner, n_tokens))


def _gated_delta(b: GraphBuilder, t: Tensors, x: Node) -> Node:
    """`build_layer_attn_linear` (src/models/qwen3next.cpp, qwen35.cpp, qwen4exp.cpp) around
    `build_delta_net` (delta-net-base.cpp)."""
    g, n_tokens, s = b.g, b.n_tokens, b.hp.ssm
    keys, values = max(1, s.groups), max(1, s.rank)
    dk, dv = s.state, s.inner // max(1, s.rank)
    channels = s.inner + 2 * keys * dk
    if b.has(t, "attn_qkv"):
        mixed = b.mm(t, "attn_qkv", x)
        mixed = g.reshape(mixed, *mixed.shape)
        z = b.mm(t, "attn_gate", x)
    else:
        raw = b.mm(t, "ssm_in", x)
        each = dv * values // keys
        raw = g.reshape(raw, 2 * (dk + each), keys, n_tokens)
        z = g.cont(g.view(raw, each, keys, n_tokens, contiguous=False))
        flat = [
            g.cont(g.view(raw, n, keys, n_tokens, contiguous=False), n * keys, n_tokens)
            for n in (dk, dk, each)
        ]
        mixed = g.new(2 * dk * keys, n_tokens, of=tuple(flat[:2]), op="CONCAT")
        mixed = g.new(channels, n_tokens, of=(mixed, flat[2]), op="CONCAT")
    if b.has(t, "ssm_ba"):
        each = values // keys
        ba = g.reshape(b.mm(t, "ssm_ba", x), 2 * each, keys, n_tokens)
        parts = [g.view(ba, each, keys, n_tokens, contiguous=False) for _ in range(2)]
        beta = g.over(g.cont(parts[0]), op="SIGMOID")
        beta = g.reshape(beta, 1, values, n_tokens)
        alpha = g.cont(parts[1], values, n_tokens)
    else:
        beta = g.over(g.reshape(b.mm(t, "ssm_beta", x), 1, values, n_tokens), op="SIGMOID")
        alpha = g.reshape(b.mm(t, "ssm_alpha", x), values, n_tokens)
    gate = b.by(t, "ssm_a", g.over(b.by(t, "ssm_dt.bias", alpha), op="SOFTPLUS"))
    gate = g.reshape(gate, 1, values, n_tokens)
    states = 1 + b.shape.n_rs_seq
    joined = joined_columns(
        b, mixed, channels, s.conv, b.gather(b.hp.state_r, which=COLUMNS), times=states
    )
    old = b.gather(b.hp.state_s, which=STATE)
    conv = _convolved(b, t, "ssm_conv1d", joined, channels)
    q, k, v = (
        g.view(conv, *heads, n_tokens, contiguous=False, stride=channels)
        for heads in ((dk, keys), (dk, keys), (dv, values))
    )
    q, k = (_unit_rows(b, n) for n in (q, k))
    if keys != values and b.traits.repeated_keys:
        q, k = (_repeated(b, n, values) for n in (q, k))
    y = _delta_net(b, (q, k, v, gate, beta), old, (dv, values))
    normed = b.by(t, "ssm_norm.weight", g.over(y, op="RMS_NORM"))
    bent: Op = "SIGMOID" if b.traits.sigmoid_gate else "SILU"
    y = g.mul(normed, g.over(g.reshape(z, dv, values, n_tokens), op=bent))
    return g.reshape(b.mm(t, "ssm_out", g.reshape(y, s.inner, n_tokens)), b.hp.n_embd, n_tokens)


def _unit_rows(b: GraphBuilder, x: Node) -> Node:
    """Rows of length 1 (`build_gdn_l2_norm`); the shape stays."""
    return b.g.over(b.g.over(x, op="RMS_NORM"), op="SCALE")


def _repeated(b: GraphBuilder, x: Node, values: int) -> Node:
    """Keys, [dk, keys, n_tokens], for each head of values -> [dk, values, n_tokens]."""
    g = b.g
    dk, keys, n_tokens = x.shape
    one = g.reshape(x, dk, 1, keys, n_tokens)
    many = g.new(dk, values // keys, keys, n_tokens, of=(one,), op="REPEAT")
    return g.reshape(many, dk, values, n_tokens)


def _delta_net(b: GraphBuilder, of: tuple[Node, ...], old: Node, heads: tuple[int, int]) -> Node:
    """The recurrence over queries, keys, values and gates (`build_recurrent_attn`); its new state
    is stored. `heads`: their size and number -> [head, heads, n_tokens]."""
    g, n_tokens, size = b.g, b.n_tokens, b.hp.state_s
    states = 1 + b.shape.n_rs_seq
    head, n = heads
    state = g.reshape(old, head, head, n)
    rows = n_tokens + states * size // (head * n)
    done = g.new(head * n, rows, of=(*of, state), op="GATED_DELTA_NET")
    new = (size, 1, states) if states > 1 else (head, head, n)
    b.keep(g.view(done, *new), old)
    return g.view(done, head, n, n_tokens)


def _kimi_delta(b: GraphBuilder, t: Tensors, x: Node) -> Node:
    """`build_kda_layer` (src/models/kimi-k3.cpp, glm5-next.cpp), the same as in kimi-linear.cpp and
    bailingmoe3.cpp."""
    g, n_tokens, s = b.g, b.n_tokens, b.hp.ssm
    head = s.kda_head
    heads = b.hp.n_head[0]
    inner = head * heads
    old = b.gather(b.hp.state_r, which=COLUMNS)
    joined = []
    for of in "qkv":
        y = g.reshape(b.bare_mm(t, f"attn_{of}", x), inner, n_tokens)
        times = 1 + b.shape.n_rs_seq
        joined.append(joined_columns(b, y, inner, s.conv, old, times=times, part=True))
    state = b.gather(b.hp.state_s, which=STATE)
    parts = []
    for of, columns in zip("qkv", joined, strict=True):
        seen = b.seen_as(t, f"ssm_conv1d_{of}.weight", s.conv, inner)
        conv = g.new(inner, n_tokens, of=(columns, seen), op="SSM_CONV")
        y = g.over(g.reshape(conv, inner, n_tokens), op="SILU")
        parts.append(g.reshape(y, head, heads, n_tokens))
    gate = g.reshape(_decay(b, t, x, (head, heads)), head, heads, n_tokens)
    beta = g.over(g.reshape(b.bare_mm(t, "ssm_beta", x), 1, heads, n_tokens), op="SIGMOID")
    q, k = (_unit_rows(b, n) for n in parts[:2])
    y = g.cont(_delta_net(b, (q, k, parts[2], gate, beta), state, (head, heads)))
    normed = b.by(t, "ssm_norm.weight", g.over(g.reshape(y, head, heads, n_tokens), op="RMS_NORM"))
    if b.traits.reshaped_gate:
        x = g.reshape(g.reshape(x, *x.shape), *x.shape)
    second = b.bare_mm(t, "ssm_g_a" if b.has(t, "ssm_g_a") else "ssm_g", x)
    if b.has(t, "ssm_g_b"):
        second = b.bare_mm(t, "ssm_g_b", second)
    shown = g.over(g.reshape(second, head, heads, n_tokens), op="SIGMOID")
    return b.bare_mm(t, "attn_output", g.cont(g.mul(normed, shown), inner, n_tokens))


def _decay(b: GraphBuilder, t: Tensors, x: Node, shape: tuple[int, int]) -> Node:
    """How fast each element of a state is forgotten: [n_embd, n_tokens] -> [*shape, n_tokens]."""
    g = b.g
    y = b.bare_mm(t, "ssm_f_a", x)
    y = b.by(t, "ssm_dt.bias", b.bare_mm(t, "ssm_f_b", y) if b.has(t, "ssm_f_b") else y)
    of_heads = b.seen_as(t, "ssm_a", 1, shape[1])
    if not b.hp.ssm.kda_bounded:
        return g.mul(g.reshape(g.over(y, op="SOFTPLUS"), *shape, b.n_tokens), of_heads)
    y = g.mul(g.reshape(y, *shape, b.n_tokens), of_heads)
    if not b.traits.signed_decay:
        y = g.over(y, op="SCALE")
    return g.over(g.over(y, op="SIGMOID"), op="SCALE")


def _short_conv(b: GraphBuilder, t: Tensors, x: Node) -> Node:
    """The gated convolution of src/models/lfm2.cpp."""
    g, n_tokens, hp = b.g, b.n_tokens, b.hp
    n = hp.n_embd
    width = hp.state_r // n + 1
    bcx = b.mm(t, "shortconv.in_proj", g.reshape(x, n, n_tokens))
    part, gate, value = (g.view(bcx, n, n_tokens, contiguous=False) for _ in range(3))
    product = g.mul(part, value)
    joined = joined_columns(b, product, n, width, b.gather(hp.state_r, which=COLUMNS))
    w = t["shortconv.conv.weight"]
    y = g.weighed((n, n_tokens), joined, weight=w.n_bytes, op="SSM_CONV")
    y = b.mm(t, "shortconv.out_proj", g.mul(gate, y))
    return g.reshape(y, n, n_tokens)
