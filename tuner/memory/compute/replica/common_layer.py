"""The layer that most architectures have: what mixes tokens, then a feed-forward part.

Which parts a layer has is read from its tensors; how they are put together, from the traits of
its architecture. Mirrors the loops over layers in src/models/*.cpp.
"""

from __future__ import annotations

from tuner.memory.compute.graph import Node
from tuner.memory.compute.replica.attention import attention
from tuner.memory.compute.replica.builder import GraphBuilder, Tensors
from tuner.memory.compute.replica.feed_forward import feed_forward, ffn, moe
from tuner.memory.compute.replica.gemma import PER_LAYER, gemma4_experts, per_layer_part
from tuner.memory.compute.replica.minimax_m3 import block_attention, in_blocks
from tuner.memory.compute.replica.mla import latent_attention
from tuner.memory.compute.replica.rwkv import rwkv_in_common_layer, rwkv_layer
from tuner.memory.compute.replica.state_space import mixer
from tuner.model.architecture import Order

# norms behind attention; where no other stands before the feed-forward part, one of them does
_AFTER_ATTENTION = ("post_attention_norm", "attn_output_norm")
EMBEDDINGS = "embeddings"  # carried to layers that add them again


def common_layer(b: GraphBuilder, t: Tensors, il: int, x: Node, last: bool) -> Node:
    """x: [n_embd, n_tokens] -> the same, or [n_embd, n_outputs] where the `last` layer picks the
    rows that become logits."""
    if b.has(t, "channel_mix_key"):
        return rwkv_layer(b, t, x, last)
    if b.has(t, "time_mix_key"):
        return rwkv_in_common_layer(b, t, x, last)
    g, traits = b.g, b.traits
    router = b.mm(t, "ffn_gate_inp", x) if traits.early_router else None
    # olmo2, exaone4 and grok's kin have no norm before attention
    pre_norm = b.has(t, "attn_norm") or traits.bare_norms
    normed = b.norm(t, "attn_norm", x) if pre_norm else x
    if traits.norm_first:
        g.expand(normed)
    y = _mixed(b, t, il, normed, x)
    if y is not None and (traits.norm_before_rows or not last):
        y = _after_attention(b, t, y)
    if y is None:
        read = b.norm(t, "attn_norm", x) if pre_norm else _before_ffn(b, t, x)
        return _with_ffn(b, t, x, x, read, router, last)
    order = _parallel(b, t)
    if order or (traits.parallel_without_norm and not b.has(t, "ffn_norm")):
        return _side_by_side(b, t, order, y, x, normed, last)
    residual = x
    if last:
        y, residual = b.output_rows(y), b.output_rows(residual)
        if not traits.norm_before_rows:
            y = _after_attention(b, t, y)
        router = b.output_rows(router) if router is not None else None
    if b.hp.scaled_residual:
        y = g.over(y, op="SCALE")
    x = g.add(residual, y) if "attention" in traits.residual_first else g.add(y, residual)
    return _with_ffn(b, t, x, residual, _before_ffn(b, t, x), router, last)


# ------------------------------------------------------------ what mixes tokens


def _mixed(b: GraphBuilder, t: Tensors, il: int, normed: Node, x: Node) -> Node | None:
    """What attention or a state makes of the normed x; None where the layer has neither.
    [n_embd, n_tokens] -> the same."""
    own_norm = b.traits.parallel is not None and b.has(t, "attn_norm_2")
    return _mixer(b, il, t, b.norm(t, "attn_norm_2", x) if own_norm else normed, x)


def _after_attention(b: GraphBuilder, t: Tensors, y: Node) -> Node:
    """y with the norm behind attention, if there is one."""
    for name in _AFTER_ATTENTION:
        if b.has(t, name) and not _is_ffn_norm(t, name):
            y = b.norm(t, name, y)
    return y


def _mixer(b: GraphBuilder, il: int, t: Tensors, x: Node, raw: Node) -> Node | None:
    """Attention, a recurrent state, both or neither. x is `raw` with its norm."""
    hp = b.hp
    if hp.recurrent[il]:
        if not hp.row.side_by_side:
            return mixer(b, t, x)
        attended = attention(b, t, il, x)
        state = mixer(b, t, b.norm(t, "attn_norm", raw))  # the same norm, computed again
        return b.g.add(attended, state) if state else attended
    if hp.mla or "attn_kv_a_mqa.weight" in t:
        return latent_attention(b, t, il, x)
    if in_blocks(b, t):
        return block_attention(b, t, il, x)
    if "attn_q.weight" in t or "attn_qkv.weight" in t:
        return attention(b, t, il, x)
    return None


# --------------------------------------------------------- feed-forward and sums


def _parallel(b: GraphBuilder, t: Tensors) -> Order | None:
    """The order of the sum where attention and feed-forward read the same input."""
    traits = b.traits
    stated = b.hp.parallel_residual or not traits.parallel_if_stated
    return traits.parallel if stated else None


def _side_by_side(
    b: GraphBuilder, t: Tensors, order: Order | None, y: Node, x: Node, normed: Node, last: bool
) -> Node:
    """The sum of attention `y`, a feed-forward part of the same `normed` input, and that input."""
    g = b.g
    if last:
        y, x, normed = (b.output_rows(v) for v in (y, x, normed))
    if b.traits.parallel_if_stated:  # gptneox has a norm for each
        normed = b.norm(t, "ffn_norm", x)
    out = feed_forward(b, t, normed)
    if out is None:
        return g.add(y, x)
    if order is None:
        return g.add(out, g.add(y, x))
    parts = {"ffn": out, "attention": y, "input": x}
    first, second, third = (parts[p] for p in order)
    return g.add(g.add(first, second), third)


def _before_ffn(b: GraphBuilder, t: Tensors, x: Node) -> Node:
    """x with the norm before the feed-forward part, by whichever name."""
    for name in ("ffn_norm", *_AFTER_ATTENTION):
        if b.has(t, name) and (name == "ffn_norm" or _is_ffn_norm(t, name)):
            return b.norm(t, name, x)
    return b.norm(t, "ffn_norm", x) if b.traits.bare_norms else x


def _is_ffn_norm(t: Tensors, name: str) -> bool:
    """Some architectures name the norm before the feed-forward part after attention."""
    return (
        name in _AFTER_ATTENTION and "ffn_norm.weight" not in t and "post_ffw_norm.weight" not in t
    )


def _with_ffn(
    b: GraphBuilder,
    t: Tensors,
    x: Node,
    residual: Node,
    read: Node,
    router: Node | None,
    last: bool,
) -> Node:
    """x and what the layer's feed-forward part makes of `read`, which is x with its norm, and
    whatever is added behind it. `residual`: the layer's input."""
    g, traits = b.g, b.traits
    if b.has(t, "ffn_norm_exps"):  # arctic: the experts read the layer's input
        dense = g.add(ffn(b, t, read), x)
        return g.add(moe(b, t, b.norm(t, "ffn_norm_exps", residual)), dense)
    if b.has(t, "post_ffw_norm_1"):
        out: Node | None = gemma4_experts(b, t, x)
    else:
        out = feed_forward(b, t, read, router)
    if out is None:
        return x
    if b.has(t, "post_ffw_norm"):
        out = b.norm(t, "post_ffw_norm", out)
    if b.hp.scaled_residual:
        out = g.over(out, op="SCALE")
    x = g.add(x, out) if "ffn" in traits.residual_first else g.add(out, x)
    if PER_LAYER in b.carried and b.has(t, "inp_gate"):
        x = g.add(x, per_layer_part(b, t, x))
    if traits.embedding_skip:
        embeddings = b.carried[EMBEDDINGS]
        skipped = b.output_rows(embeddings) if last else embeddings
        x = g.add(x, b.by(t, "layer_output_scale.weight", skipped))
    elif b.has(t, "layer_output_scale"):
        x = b.by(t, "layer_output_scale.weight", x)
    return x
