"""What gemma has beside a plain transformer: src/models/gemma3n.cpp, gemma4.cpp.

Both embed each token a second time, in a few elements for every layer. gemma3n carries four
versions of the residual side by side (AltUp): each layer predicts all of them, works on the first
and corrects the others by what came of it; a low-rank path (LAuReL) runs beside attention.
"""

from __future__ import annotations

from tuner.memory.compute.graph import HOST, Graph, Node
from tuner.memory.compute.replica.attention import LayerBuilder, Tensors

_VERSIONS = 4  # n_altup
_SPARSE_LAYERS = 10  # n_layer_sparsity: the first layers keep their strongest activations only


def per_layer_rows(b: LayerBuilder, t: Tensors, x: Node) -> Node:
    """The second embeddings. t: the first layer's tensors, x: the first embeddings."""
    g, u = b.g, b.u
    projection = t["per_layer_model_proj.weight"]
    rows = projection.shape[1]
    looked_up = Node((rows, u), 4, (g.input(u),), device=HOST)
    looked_up = g.over(g.view(looked_up, rows, u))
    g.expand(looked_up)
    flat = g.view(g.over(g.mm(rows, x, projection.n_bytes)), rows, u)
    made = g.over(g.over(flat), weighted=True)
    made = g.over(g.over(made, looked_up))
    return g.new(rows, u, of=(g.view(made, rows, u, contiguous=False),))


def per_layer_part(b: LayerBuilder, t: Tensors, x: Node) -> Node:
    """What a layer's second embeddings add, where x lets them."""
    g = b.g
    assert b.per_layer is not None
    gate = g.over(b.mm(t, "inp_gate", x))
    part = g.view(b.per_layer, *gate.shape)
    return b.norm(t, "post_norm", b.mm(t, "proj", g.over(gate, part)))


def expert_logits(b: LayerBuilder, t: Tensors, x: Node) -> Node:
    """The router of gemma4 norms and scales the residual for itself."""
    return b.mm(t, "ffn_gate_inp", b.g.over(b.g.over(b.g.over(x)), weighted=True))


def gemma4_experts(b: LayerBuilder, t: Tensors, x: Node) -> Node:
    """A dense part and experts side by side, each between norms of its own."""
    dense = b.norm(t, "post_ffw_norm_1", b.ffn(t, b.norm(t, "ffn_norm", x)))
    normed = b.norm(t, "pre_ffw_norm_2", x)
    experts = b.norm(t, "post_ffw_norm_2", b.moe(t, normed, expert_logits(b, t, x)))
    return b.g.over(dense, experts)


def altup_widened(b: LayerBuilder, t: Tensors, x: Node, device: int) -> Node:
    """All versions of the embeddings. t: the output's tensors, which lie on `device`."""
    g = b.g
    n, u = x.shape
    target = _magnitude(g, x)
    repeated = g.new(n, u, _VERSIONS - 1, of=(x,))
    w = t["altup_proj.weight"]
    added = g.weighted(repeated.shape, (repeated,), w.n_bytes, device)
    added = _to_magnitude(g, added, target)
    return g.new(n, u, _VERSIONS, of=(x, added))


def altup_layer(b: LayerBuilder, t: Tensors, il: int, x: Node) -> Node:
    """One layer. x: all versions, [n_embd, tokens, versions]."""
    g = b.g
    n, u, versions = x.shape
    predictions = _predicted(b, t, x)
    active = g.view(predictions, n, u)
    normed = b.norm(t, "attn_norm", active)
    low = b.norm(t, "laurel_post_norm", b.mm(t, "laurel_r", b.mm(t, "laurel_l", normed)))
    low = g.over(low, normed)
    y = b.norm(t, "post_attention_norm", b.attention(t, il, normed))
    y = g.over(g.over(g.over(y, active), low))
    out = b.norm(t, "post_ffw_norm", _feed_forward(b, t, b.norm(t, "ffn_norm", y), il))
    corrected = _corrected(b, t, predictions, g.over(out, y))
    first = g.over(g.view(corrected, n, u), weighted=True)
    first = per_layer_part(b, t, first)
    rest = g.over(g.view(corrected, n, u, versions - 1), first)
    return g.new(n, u, versions, of=(g.view(corrected, n, u), rest))


def altup_narrowed(b: LayerBuilder, t: Tensors, x: Node) -> Node:
    """All versions averaged into one. t: the output's tensors."""
    g = b.g
    n, u, versions = x.shape
    target = _magnitude(g, g.view(x, n, u))
    w = t["altup_unembd_proj.weight"]
    rest = g.view(x, n, u, versions - 1)
    unembedded = _to_magnitude(g, g.weighted(rest.shape, (rest,), w.n_bytes), target)
    y = g.view(x, n, u)
    for _ in range(versions - 1):
        y = Node((n, u), 4, (y, g.view(unembedded, n, u)), inplace=True)
    return g.over(y)


def is_sparse_layer(il: int) -> bool:
    return il < _SPARSE_LAYERS


def _magnitude(g: Graph, x: Node) -> Node:
    return g.over(g.new(1, *x.shape[1:], of=(g.over(x),)))


def _to_magnitude(g: Graph, x: Node, target: Node) -> Node:
    scaled = g.over(x, target)
    return g.over(scaled, _magnitude(g, x))


def _modalities(b: LayerBuilder, t: Tensors, x: Node) -> Node:
    g = b.g
    return g.over(b.mm(t, "altup_router", g.over(b.norm(t, "altup_router_norm", x))))


def _predicted(b: LayerBuilder, t: Tensors, x: Node) -> Node:
    g = b.g
    n, u, versions = x.shape
    modalities = _modalities(b, t, g.view(x, n, u))
    weights = g.view(b.mm(t, "altup_predict_coef", modalities), versions, versions, u)
    turned = g.new(versions, n, u, of=(g.view(x, versions, n, u, contiguous=False),))
    mixed = g.new(n, versions, u, of=(turned, weights))
    back = g.new(n, u, versions, of=(g.view(mixed, n, u, versions, contiguous=False),))
    return g.over(back, x)


def _corrected(b: LayerBuilder, t: Tensors, predictions: Node, activated: Node) -> Node:
    g = b.g
    n, u, versions = predictions.shape
    modalities = _modalities(b, t, activated)
    innovation = g.over(activated, g.view(predictions, n, u))
    weights = g.over(b.mm(t, "altup_correct_coef", modalities))
    weights = g.new(1, u, versions, of=(g.view(weights, u, versions, contiguous=False),))
    repeated = g.new(n, u, versions, of=(innovation,))
    return g.over(g.over(repeated, weights), predictions)


def _feed_forward(b: LayerBuilder, t: Tensors, x: Node, il: int) -> Node:
    g = b.g
    up, gate = b.mm(t, "ffn_up", x), b.mm(t, "ffn_gate", x)
    if is_sparse_layer(il):
        gate = _strongest(g, gate)
    return b.mm(t, "ffn_down", g.over(up, g.over(gate)))


def _strongest(g: Graph, x: Node) -> Node:
    """x less a cutoff made of its mean and deviation (`gaussian_topk`)."""
    mean = g.new(1, x.shape[1], of=(x,))
    squared = g.over(g.over(x, mean))
    deviation = g.over(g.over(g.new(1, x.shape[1], of=(squared,))))
    return g.over(g.over(x, g.over(mean, g.over(deviation))))
