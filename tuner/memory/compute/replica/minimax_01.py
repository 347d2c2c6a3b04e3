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
    x = b.norm(t, "ffn_norm", g.add(y, g.over(x, op="SCALE")))
    return g.add(moe(b, t, x), g.over(x, op="SCALE"))


def _lightning(b: GraphBuilder, t: Tensors, x: Node) -> Node:
    """Lightning attention of the normed x: [n_embd, n_tokens] -> the same."""
    g, n_tokens, n = b.g, b.n_tokens, b.hp.n_head[0]
    d = b.hp.head_k[0]
    b.gather(b.hp.state_r)  # of no elements
    x = g.reshape(x, *x.shape)
    qkv = g.over(b.bare_mm(t, "attn_qkv", x), op="SILU")
    qkv = g.reshape(qkv, 3 * d, n, n_tokens)
    q, k, v = (g.view(qkv, d, n, n_tokens, contiguous=False) for _ in range(3))
    state = b.gather(b.hp.state_s)
    old = g.reshape(state, d, d, n)
    before = g.permute(g.mul(q, _decay(b, "queries", 1, n, n_tokens)), d, n_tokens, n)
    before = g.new(d, n_tokens, n, of=(old, before), op="MUL_MAT")
    turned = (g.permute(y, d, n_tokens, n) for y in (k, q))
    scores = g.new(n_tokens, n_tokens, n, of=tuple(turned), op="MUL_MAT")
    scores = g.mul(scores, _decay(b, "pairs", n_tokens, n_tokens, n))
    values = g.cont(g.permute(v, n_tokens, d, n))
    y = g.add(before, g.new(d, n_tokens, n, of=(values, scores), op="MUL_MAT"))
    g.expand(y)
    slopes = g.over(b.input(ALL, "slopes", n, element=F32), op="SCALE")
    faded = g.over(g.over(slopes, op="SCALE"), op="EXP")
    faded = g.mul(old, g.reshape(faded, 1, 1, n))
    keys = g.mul(k, _decay(b, "keys", 1, n, n_tokens))
    keys = g.cont(g.permute(keys, n_tokens, d, n))
    b.keep(g.add(faded, g.new(d, d, n, of=(keys, values), op="MUL_MAT")), state)
    y = g.reshape(g.cont(g.permute(y, d, n, n_tokens)), d * n, n_tokens)
    y = b.norm(t, "attn_norm_2", y)
    y = g.mul(g.over(b.bare_mm(t, "attn_gate", x), op="SIGMOID"), y)
    y = b.bare_mm(t, "attn_output", y)
    return g.reshape(y, *y.shape)


def _decay(b: GraphBuilder, of: str, *shape: int) -> Node:
    """By how much tokens fade in this layer: of queries, of keys or between all pairs of tokens."""
    g = b.g
    exponents = b.input(ALL, f"decay of {of}", *shape, element=F32)
    return g.over(g.over(exponents, op="SCALE"), op="EXP")
