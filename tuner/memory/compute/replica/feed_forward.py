"""Feed-forward parts as graph nodes: dense ones and experts.

Mirrors `build_ffn` and `build_moe_ffn` (src/llama-graph.cpp).
"""

from __future__ import annotations

from math import prod

from tuner.gguf.header import TensorInfo
from tuner.machine.kernels import Asked
from tuner.memory.compute.graph import F32, HOST, I32, LEFT_TO_HOST, Node
from tuner.memory.compute.replica.builder import GraphBuilder, Tensors
from tuner.memory.compute.replica.extras import of_experts, of_order

_PRECISE = Asked("MUL_MAT_ID", precise=True)


def ffn(b: GraphBuilder, t: Tensors, x: Node, suffix: str = "") -> Node:
    """The dense feed-forward part (`build_ffn`). x: [n_embd, n_tokens] -> the same. `suffix`:
    "_shexp" for shared experts."""
    g = b.g
    up_name, gate_name, down_name = (f"ffn_{p}{suffix}" for p in ("up", "gate", "down"))
    up = b.mm(t, up_name, x)
    if b.has(t, gate_name):
        y = _gated(b, b.mm(t, gate_name, x), up, b.hp.clamped_shared)
    elif b.has(t, down_name) and up.shape[0] == 2 * t[f"{down_name}.weight"].shape[0]:
        y = g.new(up.shape[0] // 2, *up.shape[1:], of=(up,), op="GLU")
    else:
        y = g.over(up, op="UNARY")
    if b.has(t, "ffn_sub_norm"):
        y = b.norm(t, "ffn_sub_norm", y)
    return b.mm(t, down_name, y)


def _gated(b: GraphBuilder, gate: Node, up: Node, clamped: tuple[bool, ...]) -> Node:
    """A gated unit of two nodes of one shape: one operation, but for "situ" and limited ones,
    made of several."""
    g = b.g
    if any(clamped[b.layer : b.layer + 1]):
        gate = g.over(g.over(gate, op="SILU"), op="CLAMP")
        return g.mul(gate, g.over(up, op="CLAMP"))
    if b.traits.situ_gate:
        bent = g.over(g.over(g.over(gate, op="SCALE"), op="TANH"), op="SCALE")
        shown = g.mul(bent, g.over(gate, op="SIGMOID"))
        return g.mul(shown, g.over(g.over(g.over(up, op="SCALE"), op="TANH"), op="SCALE"))
    return g.new(*up.shape, of=(gate, up), op="GLU")


def moe(
    b: GraphBuilder,
    t: Tensors,
    x: Node,
    logits: Node | None = None,
    *,
    picked: Node | None = None,
    kind: str = "exps",
) -> Node:
    """The routed experts (`build_moe_ffn`). x: [n_embd, n_tokens] -> the same. `logits`: the
    router's word, [n_expert, n_tokens], where it does not judge by x; `picked`: the experts,
    [n_expert_used, n_tokens], where no router picks them. `kind`: "chexps" for grovemoe's second,
    smaller experts, one for a group."""
    g, hp = b.g, b.hp
    n_expert, n_tokens = hp.n_expert, x.shape[-1]
    chunks = t[f"ffn_up_{kind}.weight"].shape[-1] if kind == "chexps" else n_expert
    used = min(hp.n_expert_used, chunks)
    if logits is None:
        logits = b.mm(t, "ffn_gate_inp", x)
    probs = _shares(b, logits)
    top = picked or _best(b, _choice(b, t, logits, probs), used)
    if chunks != n_expert:  # from experts to groups, by way of a division in F32
        divided = g.over(g.new(used, n_tokens, of=(top,), op="CPY"), op="SCALE")
        top = g.new(used, n_tokens, of=(divided,), op="CPY", element=I32)
    weights = _weights(b, probs, top)
    g.expand(weights)
    n_embd = x.shape[0]
    x = g.reshape(x, n_embd, 1, n_tokens)
    if b.traits.weighted_input:
        x = g.mul(g.new(n_embd, used, n_tokens, of=(x,), op="REPEAT"), weights)
    results = _results(b, t, x, top, kind)
    if not b.traits.weighted_input:
        results = g.mul(results, weights)
    g.expand(results)
    return _sum(b, results)


def _shares(b: GraphBuilder, logits: Node) -> Node:
    """What becomes of the router's word, [n_expert, n_tokens] -> the same."""
    g = b.g
    if b.traits.expert_weights == "softmax":
        return logits
    match b.hp.expert_gate or b.traits.expert_gate:
        case "softmax":
            return g.over(logits, op="SOFT_MAX")
        case "sigmoid":
            return g.over(logits, op="SIGMOID")
        case "sqrt_softplus":
            return g.over(g.over(logits, op="SOFTPLUS"), op="SQRT")
    return logits


def _best(b: GraphBuilder, scores: Node, n: int) -> Node:
    """The places of the n best in each row (`ggml_argsort_top_k`): [n_row, ...] -> [n, ...]."""
    g = b.g
    order = g.new(*scores.shape, of=(scores,), op="ARGSORT", element=I32)
    order.extra = of_order(b, order)
    return g.view(order, n, *scores.shape[1:], contiguous=False, stride=scores.shape[0])


def _choice(b: GraphBuilder, t: Tensors, logits: Node, probs: Node) -> Node:
    """What experts are chosen by, [n_expert, n_tokens]."""
    g = b.g
    chosen = logits if b.traits.expert_choice == "logits" else probs
    if "exp_probs_b.bias" in t or "exp_probs_b" in t:
        bias = "exp_probs_b.bias" if "exp_probs_b.bias" in t else "exp_probs_b"
        chosen = b.by(t, bias, probs, "ADD")
    if b.traits.expert_choice == "sigmoid":
        chosen = g.over(logits, op="SIGMOID")
    return _of_best_groups(b, chosen) if b.hp.n_expert_groups > 1 else chosen


def _weights(b: GraphBuilder, probs: Node, top: Node) -> Node:
    """The shares of the chosen experts, [1, n_expert_used, n_tokens]."""
    g = b.g
    used, n_tokens = top.shape
    of = (g.reshape(probs, 1, b.hp.n_expert, n_tokens), top)
    weights = g.new(1, used, n_tokens, of=of, op="GET_ROWS")
    sums_up = b.traits.expert_weights
    if sums_up == "softmax":
        flat = g.reshape(weights, used, n_tokens)
        weights = g.reshape(g.over(flat, op="SOFT_MAX"), 1, used, n_tokens)
    if sums_up == "sum" or (sums_up == "stated" and b.hp.expert_weights_norm):
        flat = g.reshape(weights, used, n_tokens)
        total = g.over(g.new(1, n_tokens, of=(flat,), op="SUM_ROWS"), op="CLAMP")
        weights = g.reshape(g.over(flat, total, op="DIV"), 1, used, n_tokens)
    return g.over(weights, op="SCALE") if b.hp.expert_weights_scaled else weights


def _results(b: GraphBuilder, t: Tensors, x: Node, top: Node, kind: str) -> Node:
    """What each chosen expert makes of x: [n_embd, 1 or n_expert_used, n_tokens]
    -> [n_embd, n_expert_used, n_tokens]."""
    g = b.g
    used, n_tokens = top.shape
    if b.has(t, "ffn_gate_up_exps"):
        both = _experts(b, t, "ffn_gate_up_exps", x, top)
        f = both.shape[0] // 2
        gate = g.view(both, f, used, n_tokens, contiguous=False)
        up = g.view(both, f, used, n_tokens, contiguous=False)
        y = g.new(f, used, n_tokens, of=(gate, up), op="GLU")
    else:
        up = _experts(b, t, f"ffn_up_{kind}", x, top)
        if b.has(t, f"ffn_gate_{kind}"):
            gate = _experts(b, t, f"ffn_gate_{kind}", x, top)
            y = _gated(b, gate, up, b.hp.clamped)
        else:
            y = g.over(up, op="UNARY")
    return _experts(b, t, f"ffn_down_{kind}", y, top)


def _sum(b: GraphBuilder, results: Node) -> Node:
    """The chosen experts' results, added one by one: [n_embd, n_expert_used, n_tokens]
    -> [n_embd, n_tokens]."""
    g, count = b.g, b.hp.n_expert_used
    n_embd, used, n_tokens = results.shape
    parts = [
        g.view(results, n_embd, n_tokens, contiguous=used == 1, stride=used * n_embd)
        for _ in range(count)
    ]
    g.expand(*parts)
    total = parts[0]
    for part in parts[1:]:
        total = g.add(total, part)
        g.expand(total)
    return g.cont(total) if count == 1 else total


def _of_best_groups(b: GraphBuilder, scores: Node) -> Node:
    """The scores of experts, [n_expert, n_tokens], all hidden but those of the groups with the
    best two."""
    g, n_groups, used = b.g, b.hp.n_expert_groups, b.hp.n_groups_used
    n_expert, n_tokens = scores.shape
    n = n_expert // n_groups
    grouped = g.reshape(scores, n, n_groups, n_tokens)
    of = (g.reshape(grouped, 1, n, n_groups, n_tokens), _best(b, grouped, 2))
    best = g.new(1, 2, n_groups, n_tokens, of=of, op="GET_ROWS")
    flat = g.reshape(best, 2, n_groups, n_tokens)
    total = g.new(1, n_groups, n_tokens, of=(flat,), op="SUM_ROWS")
    chosen = _best(b, g.reshape(total, n_groups, n_tokens), used)
    shown = g.new(n, used, n_tokens, of=(grouped, chosen), op="GET_ROWS")
    hidden = g.over(grouped, op="FILL")
    rows = Node((n, n_groups, n_tokens), F32, (shown, chosen, hidden), "SET_ROWS", root=hidden)
    return g.reshape(rows, n_expert, n_tokens)


def _left_to_host(
    b: GraphBuilder, w: TensorInfo, shape: tuple[int, ...], of: tuple[Node, ...]
) -> Node:
    """A product that no GPU has a kernel for, even where the weight is on one."""
    at = HOST if b.experts_on_host else b.g.device
    if at == HOST:
        return Node(shape, F32, of, "MUL_MAT_ID", device=HOST)
    b.note_on_cpu(_PRECISE)
    return Node(shape, F32, (b.g.external(w.n_bytes, at), *of), "MUL_MAT_ID", device=LEFT_TO_HOST)


def _experts(b: GraphBuilder, t: Tensors, name: str, x: Node, top: Node) -> Node:
    """The weights of the chosen experts times x (`build_lora_mm_id`): [n_in, 1 or n_expert_used,
    n_tokens] -> [n_out, n_expert_used, n_tokens]."""
    w = t[f"{name}.weight"]
    device = HOST if b.experts_on_host else None
    shape = (w.shape[1], top.shape[0], x.shape[-1])
    g = b.g
    if name.startswith("ffn_down") and b.traits.precise_down and b.lacks(_PRECISE):
        y = _left_to_host(b, w, shape, (x, top))
    else:
        y = g.reads(w, g.product(shape, (x, top), g.held(w), device=device, routed=True), device)
    y.extra = of_experts(b, prod(w.shape[2:]), x.shape[-1])
    if f"{name}.scale" in t and b.hp.row.scaled_experts:
        factors = b.seen(t[f"{name}.scale"], device)
        flat = g.reshape(factors, 1, b.hp.n_expert, 1)
        flat.size = factors.size
        scales = g.new(1, b.hp.n_expert, x.shape[-1], of=(flat,), op="REPEAT")
        y = g.mul(y, g.new(1, *shape[1:], of=(scales, top), op="GET_ROWS"))
    bias = t.get(f"{name}.bias")
    if bias is not None:
        y = g.over(y, top, op="ADD_ID", weight=bias.n_bytes, device=device)
    return y


def feed_forward(
    b: GraphBuilder,
    t: Tensors,
    x: Node,
    logits: Node | None = None,
    *,
    picked: Node | None = None,
) -> Node | None:
    """Whatever feed-forward part a layer has: dense, experts, shared experts, both; None where it
    has none. x: normed, [n_embd, n_tokens] -> the same. `logits`, `picked`: see `moe`."""
    g = b.g
    routed = b.has(t, "ffn_gate_inp") and any(
        b.has(t, n) for n in ("ffn_up_exps", "ffn_gate_up_exps")
    )
    if routed and not b.traits.experts:
        return g.over(x, op="UNARY")  # nothing but the activation
    y: Node | None
    if routed and b.has(t, "ffn_up_chexps"):
        logits = b.mm(t, "ffn_gate_inp", x)
        y = moe(b, t, x, logits)
        return g.add(y, g.over(moe(b, t, y, logits, kind="chexps"), op="SCALE"))
    y = None
    if routed:
        y = moe(b, t, x, logits, picked=picked)
        if b.has(t, "ffn_up_shexp"):
            shared = ffn(b, t, x, "_shexp")
            if b.has(t, "ffn_gate_inp_shexp"):
                gate = g.over(b.mm(t, "ffn_gate_inp_shexp", x), op="SIGMOID")
                shared = g.mul(shared, gate)
            y = g.add(y, shared)
    if b.has(t, "ffn_up") and (y is None or b.traits.dense_beside_experts):
        dense = ffn(b, t, x)
        y = dense if y is None else g.add(dense, y)
    return y
