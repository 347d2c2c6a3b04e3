"""Layers that look back at what earlier ones banked: src/models/kimi-k3.cpp.

Every so many layers the residual is banked and begins anew; each part of a layer reads a blend
of the bank and the residual. The experts work in a narrower space, and a gated unit of its own
kind ("situ") keeps more of its inputs than others do.
"""

from __future__ import annotations

from tuner.memory.compute.graph import Node
from tuner.memory.compute.replica.attention import LayerBuilder, Tensors
from tuner.memory.compute.replica.mla import latent_attention
from tuner.memory.compute.replica.state_space import mixer


def banking_layer(b: LayerBuilder, t: Tensors, il: int, x: Node) -> Node:
    """One layer; what it banks is kept in the builder."""
    g, hp = b.g, b.hp
    y = blended(b, x)
    n, u = x.shape
    banked = hp.residual_block > 0 and il % hp.residual_block == 0
    if banked:
        row = g.view(x, n, 1, u)
        bank = b.bank
        b.bank = g.new(n, bank.shape[1] + 1, u, of=(bank, row)) if bank is not None else row
    y = b.norm(t, "attn_norm", y)
    g.expand(y)
    mixed = mixer(b, t, y) if hp.recurrent[il] else latent_attention(b, t, il, y)
    assert mixed is not None
    x = mixed if banked else g.over(x, mixed)
    return g.over(x, _feed_forward(b, t, b.norm(t, "ffn_norm", blended(b, x))))


def blended(b: LayerBuilder, x: Node) -> Node:
    """x and the bank, each weighed by its score."""
    g, bank = b.g, b.bank
    if bank is None:
        return x
    n, banked, u = bank.shape
    of_bank = g.new(1, banked, u, of=(g.over(g.over(bank), weighted=True),))
    of_x = g.new(1, u, of=(g.over(g.over(x), weighted=True),))
    shares = g.over(g.new(banked + 1, u, of=(g.view(of_bank, banked, u), of_x)))
    first = g.new(banked, u, of=(g.view(shares, banked, u, contiguous=False),))
    second = g.new(1, u, of=(g.view(shares, 1, u, contiguous=False),))
    out = g.new(n, u, of=(bank, first))
    return g.over(out, g.over(x, second))


def _feed_forward(b: LayerBuilder, t: Tensors, x: Node) -> Node:
    if not b.has(t, "ffn_gate_inp"):
        return b.ffn(t, x)
    narrow = b.mm(t, "ffn_routed_down", x) if b.has(t, "ffn_routed_down") else x
    y = b.moe(t, narrow, b.mm(t, "ffn_gate_inp", x))
    if b.has(t, "ffn_routed_norm"):
        y = b.norm(t, "ffn_routed_norm", y)
    if b.has(t, "ffn_routed_up"):
        y = b.mm(t, "ffn_routed_up", y)
    return b.g.over(y, b.ffn(t, x, "_shexp")) if b.has(t, "ffn_gate_shexp") else y
