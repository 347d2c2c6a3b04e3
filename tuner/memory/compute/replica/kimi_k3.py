"""Layers that look back at what earlier ones banked: src/models/kimi-k3.cpp.

Every so many layers the residual is banked and begins anew; each part of a layer reads a blend
of the bank and the residual. The experts work in a narrower space, and a gated unit of its own
kind ("situ") keeps more of its inputs than others do.
"""

from __future__ import annotations

from tuner.memory.compute.graph import F32, Node
from tuner.memory.compute.replica.builder import GraphBuilder, Tensors
from tuner.memory.compute.replica.feed_forward import ffn, moe
from tuner.memory.compute.replica.mla import latent_attention
from tuner.memory.compute.replica.state_space import mixer

_BANK = "bank"  # carried from layer to layer: [n_embd, banked, n_tokens]


def layer(b: GraphBuilder, t: Tensors, il: int, x: Node, last: bool) -> Node:
    """One layer: [n_embd, n_tokens] -> the same; rows are picked behind the `last` one."""
    g, hp = b.g, b.hp
    y = _blended(b, x)
    n, n_tokens = x.shape
    banked = hp.residual_block > 0 and il % hp.residual_block == 0
    if banked:
        row = g.view(x, n, 1, n_tokens)
        bank = b.carried.get(_BANK)
        b.carried[_BANK] = (
            g.new(n, bank.shape[1] + 1, n_tokens, of=(bank, row)) if bank is not None else row
        )
    y = b.norm(t, "attn_norm", y)
    g.expand(y)
    mixed = mixer(b, t, y) if hp.recurrent[il] else latent_attention(b, t, il, y)
    assert mixed is not None
    x = mixed if banked else g.over(x, mixed)
    return g.over(x, _feed_forward(b, t, b.norm(t, "ffn_norm", _blended(b, x))))


def head(b: GraphBuilder, output: Tensors, x: Node) -> Node:
    """The last blend, its rows to output, normed: [n_embd, n_tokens] -> [n_embd, n_outputs]."""
    return b.norm(output, "output_norm", b.output_rows(_blended(b, x)))


def _blended(b: GraphBuilder, x: Node) -> Node:
    """x, [n_embd, n_tokens], and the bank, each weighed by its score -> the same shape."""
    g, bank = b.g, b.carried.get(_BANK)
    if bank is None:
        return x
    n, banked, n_tokens = bank.shape
    of_bank = g.new(1, banked, n_tokens, of=(g.over(g.over(bank), weight=F32 * n),))
    of_x = g.new(1, n_tokens, of=(g.over(g.over(x), weight=F32 * n),))
    shares = g.over(g.new(banked + 1, n_tokens, of=(g.view(of_bank, banked, n_tokens), of_x)))
    first = g.new(banked, n_tokens, of=(g.view(shares, banked, n_tokens, contiguous=False),))
    second = g.new(1, n_tokens, of=(g.view(shares, 1, n_tokens, contiguous=False),))
    out = g.new(n, n_tokens, of=(bank, first))
    return g.over(out, g.over(x, second))


def _feed_forward(b: GraphBuilder, t: Tensors, x: Node) -> Node:
    """Dense, or experts in a narrower space beside a shared one. [n_embd, n_tokens] -> the same."""
    if not b.has(t, "ffn_gate_inp"):
        return ffn(b, t, x)
    narrow = b.mm(t, "ffn_routed_down", x) if b.has(t, "ffn_routed_down") else x
    y = moe(b, t, narrow, b.mm(t, "ffn_gate_inp", x))
    if b.has(t, "ffn_routed_norm"):
        y = b.norm(t, "ffn_routed_norm", y)
    if b.has(t, "ffn_routed_up"):
        y = b.mm(t, "ffn_routed_up", y)
    return b.g.over(y, ffn(b, t, x, "_shexp")) if b.has(t, "ffn_gate_shexp") else y
