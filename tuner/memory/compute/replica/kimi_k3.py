"""Layers that look back at what earlier ones banked: src/models/kimi-k3.cpp.

Every so many layers the residual is banked and begins anew; each part of a layer reads a blend
of the bank and the residual. The experts work in a narrower space, and a gated unit of its own
kind ("situ") keeps more of its inputs than others do.
"""

from __future__ import annotations

from tuner.machine.kernels import Asked
from tuner.memory.compute.graph import Node
from tuner.memory.compute.replica.builder import GraphBuilder, Tensors
from tuner.memory.compute.replica.feed_forward import ffn, moe
from tuner.memory.compute.replica.hyper_connections import stacked
from tuner.memory.compute.replica.mla import latent_attention
from tuner.memory.compute.replica.state_space import mixer

_BANK = "bank"  # carried from layer to layer: [n_embd, banked, n_tokens]


def layer(b: GraphBuilder, t: Tensors, il: int, x: Node, last: bool) -> Node:
    """One layer: [n_embd, n_tokens] -> the same; rows are picked behind the `last` one."""
    g, hp = b.g, b.hp
    y = _blended(b, t, "attn_res_score", x)
    banked = hp.residual_block > 0 and il % hp.residual_block == 0
    if banked:
        _bank(b, x)
    y = b.norm(t, "attn_norm", y)
    g.expand(y)
    mixed = mixer(b, t, y) if hp.recurrent[il] else latent_attention(b, t, il, y)
    assert mixed is not None
    x = mixed if banked else g.add(x, mixed)
    y = b.norm(t, "ffn_norm", _blended(b, t, "ffn_res_score", x))
    return g.add(x, _feed_forward(b, t, y))


def head(b: GraphBuilder, output: Tensors, x: Node) -> Node:
    """The last blend, its rows to output, normed: [n_embd, n_tokens] -> [n_embd, n_outputs]."""
    x = b.output_rows(_blended(b, output, "output_res_score", x))
    return b.norm(output, "output_norm", x)


def _bank(b: GraphBuilder, x: Node) -> None:
    """Puts x, [n_embd, n_tokens], into the bank (`res_push`)."""
    b.carried[_BANK] = stacked(b, b.carried.get(_BANK), x)


def _blended(b: GraphBuilder, t: Tensors, by: str, x: Node) -> Node:
    """x, [n_embd, n_tokens], and the bank, each weighed by its score -> the same shape
    (`res_mix`). `by`: the weight that scores."""
    g, bank = b.g, b.carried.get(_BANK)
    if bank is None:
        return x
    n, banked, n_tokens = bank.shape
    of_bank, of_x = (
        g.new(1, *of.shape[1:], of=(b.by(t, f"{by}.weight", g.over(of, op="RMS_NORM")),),
              op="SUM_ROWS")
        for of in (bank, x)
    )  # fmt: skip
    scores = (g.reshape(of_bank, banked, n_tokens), of_x)
    shares = g.over(g.new(banked + 1, n_tokens, of=scores, op="CONCAT"), op="SOFT_MAX")
    first, second = (
        g.cont(g.view(shares, rows, n_tokens, contiguous=False)) for rows in (banked, 1)
    )
    out = g.new(n, n_tokens, of=(bank, first), op="DSV4_HC_PRE")
    b.unless_lacking(out, Asked("DSV4_HC_PRE", streams=banked))
    return g.add(out, g.mul(x, second))


def _feed_forward(b: GraphBuilder, t: Tensors, x: Node) -> Node:
    """Dense, or experts in a narrower space beside a shared one (`build_latent_moe`). [n_embd,
    n_tokens] -> the same."""
    if not b.has(t, "ffn_gate_inp"):
        return ffn(b, t, x)
    narrow = b.mm(t, "ffn_routed_down", x) if b.has(t, "ffn_routed_down") else x
    y = moe(b, t, narrow, b.mm(t, "ffn_gate_inp", x))
    if b.has(t, "ffn_routed_norm"):
        y = b.norm(t, "ffn_routed_norm", y)
    if b.has(t, "ffn_routed_up"):
        y = b.mm(t, "ffn_routed_up", y)
    return b.g.add(y, ffn(b, t, x, "_shexp")) if b.has(t, "ffn_gate_shexp") else y
