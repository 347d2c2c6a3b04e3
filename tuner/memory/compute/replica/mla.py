"""Latent attention (MLA) as graph nodes: src/models/deepseek2.cpp and its relatives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tuner.memory.compute.graph import Node
from tuner.memory.compute.replica.attention import attend
from tuner.memory.compute.replica.builder import GraphBuilder, Tensors
from tuner.memory.compute.replica.dsa import is_sparse, sparse_mask, top_tokens


def latent_attention(b: GraphBuilder, t: Tensors, il: int, x: Node) -> Node:
    """Queries and keys through low-rank projections; with `attn_k_b` the cache holds the latent row
    itself, else keys and values are expanded before they are cached (src/models/deepseek2.cpp;
    `build_mla_layer` in kimi-k3.cpp, `build_attention_dsa` in hy-v4.cpp). x: normed, [n_embd,
    n_tokens] -> the same."""
    g, hp, n_tokens = b.g, b.hp, b.n_tokens
    n = hp.n_head[il]
    mask_of: Callable[[], Node] | None = None
    if b.has(t, "attn_q_a"):
        low = b.norm(t, "attn_q_a_norm", b.mm(t, "attn_q_a", x))
        if is_sparse(hp, il):
            top = top_tokens(b, t, x, low)
            mask_of = partial(sparse_mask, b, top)
        q = b.mm(t, "attn_q_b", low)
    else:
        q = b.mm(t, "attn_q", x)
    dq = q.shape[0] // n
    both = b.mm(t, "attn_kv_a_mqa", x)
    lora = t["attn_kv_a_norm.weight"].shape[0] if b.has(t, "attn_kv_a_norm") else both.shape[0]
    rope = both.shape[0] - lora
    if not (hp.row.indexer or hp.ssm.kda_head):  # only deepseek2.cpp and its closest kin
        q = g.reshape(q, dq, n, n_tokens)
    q_nope = g.part(q, dq, dq - rope, n, n_tokens)
    q_rope = g.part(q, dq, rope, n, n_tokens)
    k_rope = g.part(both, lora + rope, rope, 1, n_tokens)
    if b.has(t, "attn_k_norm"):
        k_rope = b.norm(t, "attn_k_norm", k_rope)
    if b.traits.rope != "none":
        q_rope, k_rope = b.rotated(q_rope), b.rotated(k_rope)
    latent = b.norm(t, "attn_kv_a_norm", g.part(both, lora + rope, lora, n_tokens))
    if hp.mla and b.has(t, "attn_k_b"):
        w = t["attn_k_b.weight"]
        turned = g.permute(q_nope, dq - rope, n_tokens, n)
        absorbed = g.reads(w, g.product((lora, n_tokens, n), (turned,), g.held(w)))
        of = (g.permute(absorbed, lora, n, n_tokens), q_rope)
        q = g.new(lora + rope, n, n_tokens, of=of, op="CONCAT")
        latent = g.reshape(latent, lora, 1, n_tokens)
        k = g.new(lora + rope, 1, n_tokens, of=(latent, k_rope), op="CONCAT")
        v_b = t["attn_v_b.weight"]
        y = attend(
            b,
            il,
            q,
            k,
            latent,
            v_rows=v_b.shape[1],
            scale=g.held(v_b),
            mask_of=mask_of,
            sinks=t.get("attn_sinks.weight"),
        )
    else:
        kv = b.mm(t, "attn_kv_b", latent)
        dv = hp.head_v[il]
        k_nope = g.part(kv, dq - rope + dv, dq - rope, n, n_tokens)
        v = g.cont(g.part(kv, dq - rope + dv, dv, n, n_tokens))
        repeated = g.new(rope, n, n_tokens, of=(k_rope,), op="REPEAT")
        parts = (k_nope, repeated)
        if b.traits.whole_query:
            q = b.rotated(q)
        elif b.traits.rope == "none":
            q, parts = g.reshape(q, dq, n, n_tokens), (repeated, k_nope)
        else:
            q = g.new(dq, n, n_tokens, of=(q_nope, q_rope), op="CONCAT")
        k = g.new(dq, n, n_tokens, of=parts, op="CONCAT")
        y = attend(b, il, q, k, v)
    if b.has(t, "attn_gate"):
        y = _gated(b, t, x, y, n)
    return b.mm(t, "attn_output", y)


def _gated(b: GraphBuilder, t: Tensors, x: Node, y: Node, n_head: int) -> Node:
    """y, [n_head x head_v, n_tokens], times what a gate says, for each element or for each head as
    a whole."""
    g, n_tokens = b.g, b.n_tokens
    gate = b.bare_mm(t, "attn_gate", x)
    if gate.shape[0] != n_head:
        return g.mul(y, g.over(gate, op="SIGMOID"))
    rows = y.shape[0]
    y = g.reshape(y, rows // n_head, n_head, n_tokens)
    if b.traits.copied_gate:
        y = g.mul(y, g.over(g.reshape(gate, 1, n_head, n_tokens), op="SIGMOID"))
        return g.cont(y, rows, n_tokens)
    gate = g.reshape(g.over(gate, op="SIGMOID"), 1, n_head, n_tokens)
    return g.reshape(g.mul(y, gate), rows, n_tokens)
