"""What gemma has beside a plain transformer: src/models/gemma3n.cpp, gemma4.cpp.

Both embed each token a second time, in a few elements for every layer. gemma3n carries four
versions of the residual side by side (AltUp): each layer predicts all of them, works on the first
and corrects the others by what came of it; a low-rank path (LAuReL) runs beside attention.
"""

from __future__ import annotations

from collections.abc import Sequence

from tuner.memory.compute.graph import F32, HOST, Graph, Node
from tuner.memory.compute.replica.attention import attention
from tuner.memory.compute.replica.builder import GraphBuilder, Tensors
from tuner.memory.compute.replica.feed_forward import ffn, moe

_VERSIONS = 4  # n_altup
_SPARSE_LAYERS = 10  # n_layer_sparsity: the first layers keep their strongest activations only


PER_LAYER = "embeddings of each layer"  # carried to all layers


def embed_per_layer(b: GraphBuilder, t: Tensors, x: Node) -> None:
    """Makes the second embeddings (`build_inp_per_layer`, `project_per_layer_inputs`). t: the
    first layer's tensors, x: the first embeddings, [n_embd, n_tokens]."""
    g, n_tokens = b.g, b.n_tokens
    projection = t["per_layer_model_proj.weight"]
    rows = projection.shape[1]
    n = t["per_layer_proj_norm.weight"].shape[0]
    shape = (n, rows // n, n_tokens)
    looked_up = Node((rows, n_tokens), F32, (g.input(n_tokens),), "GET_ROWS", device=HOST)
    looked_up = g.over(g.reshape(looked_up, *shape), op="SCALE")
    g.expand(looked_up)
    flat = g.reshape(g.over(g.mm(rows, x, g.held(projection)), op="SCALE"), *shape)
    made = b.by(t, "per_layer_proj_norm.weight", g.over(flat, op="RMS_NORM"))
    made = g.over(g.add(made, looked_up), op="SCALE")
    b.carried[PER_LAYER] = g.cont(g.permute(made, n, n_tokens, rows // n))


def per_layer_part(b: GraphBuilder, t: Tensors, x: Node) -> Node:
    """What a layer's second embeddings add, where x lets them. [n_embd, n_tokens] -> the same."""
    g = b.g
    gate = g.over(b.mm(t, "inp_gate", x), op="GELU")
    part = g.view(b.carried[PER_LAYER], *gate.shape)
    return b.norm(t, "post_norm", b.mm(t, "proj", g.mul(gate, part)))


def expert_logits(b: GraphBuilder, t: Tensors, x: Node) -> Node:
    """The router of gemma4 norms and scales the residual x, [n_embd, n_tokens], for itself
    -> [n_expert, n_tokens]."""
    normed = b.g.over(b.g.over(x, op="RMS_NORM"), op="SCALE")
    scaled = b.by(t, "ffn_gate_inp.scale", normed)
    return b.mm(t, "ffn_gate_inp", scaled)


def gemma4_experts(b: GraphBuilder, t: Tensors, x: Node) -> Node:
    """A dense part and experts side by side, each between norms of its own.
    [n_embd, n_tokens] -> the same."""
    dense = b.norm(t, "post_ffw_norm_1", ffn(b, t, b.norm(t, "ffn_norm", x)))
    normed = b.norm(t, "pre_ffw_norm_2", x)
    experts = b.norm(t, "post_ffw_norm_2", moe(b, t, normed, expert_logits(b, t, x)))
    return b.g.add(dense, experts)


def altup_widened(b: GraphBuilder, tensors: Sequence[Tensors], output: Tensors, x: Node) -> Node:
    """All versions of the embeddings: [n_embd, n_tokens] -> [n_embd, n_tokens, versions]."""
    g = b.g
    n, n_tokens = x.shape
    target = _magnitude(g, x)
    repeated = g.new(n, n_tokens, _VERSIONS - 1, of=(x,), op="REPEAT")
    w = output["altup_proj.weight"]
    added = g.product(repeated.shape, (repeated,), g.held(w), device=b.output_device)
    added = _to_magnitude(g, added, target)
    return g.new(n, n_tokens, _VERSIONS, of=(x, added), op="CONCAT")


def altup_layer(b: GraphBuilder, t: Tensors, il: int, x: Node, last: bool) -> Node:
    """One layer (`llama_model_gemma3n::graph`). x: all versions, [n_embd, n_tokens, versions]
    -> the same; rows are picked behind the `last` one."""
    g = b.g
    n, n_tokens, versions = x.shape
    predictions = _predicted(b, t, x)
    active = g.view(predictions, n, n_tokens)
    normed = b.norm(t, "attn_norm", active)
    low = b.norm(t, "laurel_post_norm", b.mm(t, "laurel_r", b.mm(t, "laurel_l", normed)))
    low = g.add(low, normed)
    y = b.norm(t, "post_attention_norm", attention(b, t, il, normed))
    y = g.over(g.add(g.add(y, active), low), op="SCALE")
    out = b.norm(t, "post_ffw_norm", _feed_forward(b, t, b.norm(t, "ffn_norm", y), il))
    corrected = _corrected(b, t, predictions, g.add(out, y))
    first = b.by(t, "altup_correct_scale.weight", g.view(corrected, n, n_tokens))
    first = per_layer_part(b, t, first)
    rest = g.add(g.view(corrected, n, n_tokens, versions - 1), first)
    of = (g.view(corrected, n, n_tokens), rest)
    return g.new(n, n_tokens, versions, of=of, op="CONCAT")


def altup_head(b: GraphBuilder, output: Tensors, x: Node) -> Node:
    """All versions as one, its rows to output, normed: [n_embd, n_tokens, versions]
    -> [n_embd, n_outputs]."""
    return b.norm(output, "output_norm", b.output_rows(_narrowed(b, output, x)))


def _narrowed(b: GraphBuilder, t: Tensors, x: Node) -> Node:
    """All versions averaged into one: [n_embd, n_tokens, versions] -> [n_embd, n_tokens]."""
    g = b.g
    n, n_tokens, versions = x.shape
    target = _magnitude(g, g.view(x, n, n_tokens))
    w = t["altup_unembd_proj.weight"]
    rest = g.view(x, n, n_tokens, versions - 1)
    unembedded = _to_magnitude(g, g.product(rest.shape, (rest,), g.held(w)), target)
    y = g.view(x, n, n_tokens)
    for _ in range(versions - 1):
        y = g.add(y, g.view(unembedded, n, n_tokens))
    return g.over(y, op="SCALE")


def is_sparse_layer(il: int) -> bool:
    """Whether a layer of gemma3n keeps its strongest activations only."""
    return il < _SPARSE_LAYERS


def _magnitude(g: Graph, x: Node) -> Node:
    """The length of each row: [n, ...] -> [1, ...] (`calc_magnitude`)."""
    squared = g.over(x, op="SQR")
    return g.over(g.new(1, *x.shape[1:], of=(squared,), op="SUM_ROWS"), op="SQRT")


def _to_magnitude(g: Graph, x: Node, target: Node) -> Node:
    """x with rows as long as `target` says, [1, n_tokens]; the shape stays."""
    scaled = g.mul(x, target)
    return g.over(scaled, _magnitude(g, x), op="DIV")


def _modalities(b: GraphBuilder, t: Tensors, x: Node) -> Node:
    """The router of the versions: [n_embd, n_tokens] -> [versions, n_tokens]
    (`altup_compute_router_modalities`)."""
    g = b.g
    scaled = g.over(b.norm(t, "altup_router_norm", x), op="SCALE")
    return g.over(b.mm(t, "altup_router", scaled), op="TANH")


def _predicted(b: GraphBuilder, t: Tensors, x: Node) -> Node:
    """All versions out of all versions: [n_embd, n_tokens, versions] -> the same
    (`altup_predict`)."""
    g = b.g
    n, n_tokens, versions = x.shape
    modalities = _modalities(b, t, g.view(x, n, n_tokens))
    weights = g.reshape(b.mm(t, "altup_predict_coef", modalities), versions, versions, n_tokens)
    turned = g.cont(g.permute(x, versions, n, n_tokens))
    mixed = g.new(n, versions, n_tokens, of=(turned, weights), op="MUL_MAT")
    return g.add(g.cont(g.permute(mixed, n, n_tokens, versions)), x)


def _corrected(b: GraphBuilder, t: Tensors, predictions: Node, activated: Node) -> Node:
    """All versions of `predictions` by what came of the first, [n_embd, n_tokens]
    (`altup_correct`)."""
    g = b.g
    n, n_tokens, versions = predictions.shape
    modalities = _modalities(b, t, activated)
    innovation = g.over(activated, g.view(predictions, n, n_tokens), op="SUB")
    weights = g.over(b.mm(t, "altup_correct_coef", modalities), op="SCALE")
    turned = g.view(weights, n_tokens, versions, contiguous=False, op="TRANSPOSE")
    weights = g.cont(turned, 1, n_tokens, versions)
    repeated = g.new(n, n_tokens, versions, of=(innovation,), op="REPEAT")
    return g.add(g.mul(repeated, weights), predictions)


def _feed_forward(b: GraphBuilder, t: Tensors, x: Node, il: int) -> Node:
    """A gated feed-forward part, of the first layers a sparse one: [n_embd, n_tokens] -> the
    same."""
    g = b.g
    up, gate = b.mm(t, "ffn_up", x), b.mm(t, "ffn_gate", x)
    if is_sparse_layer(il):
        gate = _strongest(g, gate)
    return b.mm(t, "ffn_down", g.mul(up, g.over(gate, op="GELU")))


def _strongest(g: Graph, x: Node) -> Node:
    """x less a cutoff made of its mean and deviation (`gaussian_topk`)."""
    mean = g.new(1, x.shape[1], of=(x,), op="MEAN")
    squared = g.over(g.over(x, mean, op="SUB"), op="SQR")
    total = g.new(1, x.shape[1], of=(squared,), op="SUM_ROWS")
    deviation = g.over(g.over(g.over(total, op="SCALE"), op="SQRT"), op="SCALE")
    return g.over(g.over(x, g.add(mean, deviation), op="SUB"), op="RELU")
