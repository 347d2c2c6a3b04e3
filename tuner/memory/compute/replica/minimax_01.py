"""Layers of minimax-01 as graph nodes: src/models/minimax-01.cpp.

Lightning attention: within a batch every token attends to every other one through a matrix of
decays, and what came before is a state. Each part of a layer is added to its normed input.
"""

from __future__ import annotations

from tuner.memory.compute.graph import F32, Node
from tuner.memory.compute.replica.attention import attention
from tuner.memory.compute.replica.builder import GraphBuilder, Tensors
from tuner.memory.compute.replica.feed_forward import moe
from tuner.memory.kv_cache import ALL


def layer(b: GraphBuilder, t: Tensors, il: int, x: Node, last: bool) -> Node:
    """One layer, with a state or with a cache: [n_embd, n_tokens] -> the same, or [n_embd,
    n_outputs] where the `last` layer picks the rows that become logits."""
    g = b.g
    x = b.norm(t, "attn_norm", x)
    y = _lightning(b, t, x) if b.hp.recurrent[il] else attention(b, t, il, x)
    if last:
        y, x = b.output_rows(y), b.output_rows(x)
    x = b.norm(t, "ffn_norm", g.over(y, g.over(x)))
    return g.over(moe(b, t, x), g.over(x))


def _lightning(b: GraphBuilder, t: Tensors, x: Node) -> Node:
    """Lightning attention of the normed x: [n_embd, n_tokens] -> the same."""
    g, n_tokens, n = b.g, b.n_tokens, b.hp.n_head[0]
    d = b.hp.head_k[0]
    # decays of queries, of keys and between all pairs of tokens
    shapes = {
        "queries": (1, n, n_tokens),
        "keys": (1, n, n_tokens),
        "pairs": (n_tokens, n_tokens, n),
    }
    decays = [b.input(ALL, f"decay of {of}", *s, element=F32) for of, s in shapes.items()]
    slope = g.over(b.input(ALL, "slopes", n, element=F32))
    qkv = g.over(b.mm(t, "attn_qkv", x))
    q, k, v = (g.view(qkv, d, n, n_tokens, contiguous=False) for _ in range(3))
    old = g.view(b.gather(b.hp.state_s), d, d, n)
    q_decay, k_decay, pair_decay = (g.over(g.over(y)) for y in decays)
    before = g.new(
        d, n_tokens, n, of=(old, g.view(g.over(q, q_decay), d, n_tokens, n, contiguous=False))
    )
    turned = (g.view(y, d, n_tokens, n, contiguous=False) for y in (k, q))
    scores = g.over(g.new(n_tokens, n_tokens, n, of=tuple(turned)), pair_decay)
    values = g.new(n_tokens, d, n, of=(g.view(v, n_tokens, d, n, contiguous=False),))
    y = g.over(before, g.new(d, n_tokens, n, of=(values, scores)))
    g.expand(y)
    faded = g.over(old, g.view(g.over(g.over(slope)), 1, 1, n))
    keys = g.over(k, k_decay)
    keys = g.new(n_tokens, d, n, of=(g.view(keys, n_tokens, d, n, contiguous=False),))
    g.expand(g.store(g.over(faded, g.new(d, d, n, of=(keys, values)))))
    y = g.new(d * n, n_tokens, of=(g.view(y, d, n, n_tokens, contiguous=False),))
    y = b.norm(t, "attn_norm_2", g.view(y, d * n, n_tokens))
    y = b.mm(t, "attn_output", g.over(g.over(b.mm(t, "attn_gate", x)), y))
    return g.view(y, *y.shape)
