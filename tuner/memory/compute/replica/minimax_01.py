"""Layers of minimax-01 as graph nodes: src/models/minimax-01.cpp.

Lightning attention: within a batch every token attends to every other one through a matrix of
decays, and what came before is a state. Each part of a layer is added to its normed input.
"""

from __future__ import annotations

from tuner.memory.compute.graph import Node
from tuner.memory.compute.replica.attention import LayerBuilder, Tensors


def lightning_layer(b: LayerBuilder, t: Tensors, il: int, x: Node, last: bool) -> Node:
    """One layer, with a state or with a cache."""
    g = b.g
    x = b.norm(t, "attn_norm", x)
    y = _lightning(b, t, x) if b.hp.recurrent[il] else b.attention(t, il, x)
    if last:
        y, x = (g.new(v.shape[0], 1, of=(v, b.out_ids)) for v in (y, x))
    x = b.norm(t, "ffn_norm", g.over(y, g.over(x)))
    return g.over(b.moe(t, x), g.over(x))


def _decays(b: LayerBuilder) -> tuple[Node, Node, Node, Node]:
    """Slopes per head, decays of queries, of keys and between all pairs of tokens."""
    if not b.decays:
        n, u = b.hp.n_head[0], b.u
        b.decays = tuple(b.g.input(*shape) for shape in ((n,), (1, n, u), (1, n, u), (u, u, n)))
    slopes, queries, keys, pairs = b.decays
    return slopes, queries, keys, pairs


def _lightning(b: LayerBuilder, t: Tensors, x: Node) -> Node:
    g, u, n = b.g, b.u, b.hp.n_head[0]
    d = b.hp.head_k[0]
    slopes, q_decay, k_decay, pair_decay = _decays(b)
    slope = g.over(slopes)
    qkv = g.over(b.mm(t, "attn_qkv", x))
    q, k, v = (g.view(qkv, d, n, u, contiguous=False) for _ in range(3))
    old = g.view(b.gather(b.hp.state_s), d, d, n)
    q_decay, k_decay, pair_decay = (g.over(g.over(y)) for y in (q_decay, k_decay, pair_decay))
    before = g.new(d, u, n, of=(old, g.view(g.over(q, q_decay), d, u, n, contiguous=False)))
    turned = (g.view(y, d, u, n, contiguous=False) for y in (k, q))
    scores = g.over(g.new(u, u, n, of=tuple(turned)), pair_decay)
    values = g.new(u, d, n, of=(g.view(v, u, d, n, contiguous=False),))
    y = g.over(before, g.new(d, u, n, of=(values, scores)))
    g.expand(y)
    faded = g.over(old, g.view(g.over(g.over(slope)), 1, 1, n))
    keys = g.over(k, k_decay)
    keys = g.new(u, d, n, of=(g.view(keys, u, d, n, contiguous=False),))
    g.expand(g.store(g.over(faded, g.new(d, d, n, of=(keys, values)))))
    y = g.new(d * n, u, of=(g.view(y, d, n, u, contiguous=False),))
    y = b.norm(t, "attn_norm_2", g.view(y, d * n, u))
    y = b.mm(t, "attn_output", g.over(g.over(b.mm(t, "attn_gate", x)), y))
    return g.view(y, *y.shape)
