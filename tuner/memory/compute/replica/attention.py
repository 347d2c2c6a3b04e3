"""Attention as graph nodes, and which layers rotate by position.

Mirrors `build_qkv`, `build_attn` and `build_attn_mha` (src/llama-graph.cpp) and what the
architectures in src/models/*.cpp put around them; which parts a layer has is read from its tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from tuner.gguf.header import TensorInfo
from tuner.memory.compute.graph import F16, F32, HOST, LEFT_TO_HOST, Node
from tuner.memory.compute.replica.builder import GraphBuilder, Tensors
from tuner.memory.compute.replica.extras import of_attention
from tuner.memory.kv_cache import ALL, WINDOW, Cells
from tuner.model.hparams import HParams

_NO_ROPE_STEP = 4  # n_no_rope_layer_step (src/llama-hparams.h)


def rotates(hp: HParams, il: int) -> bool:
    """Whether a layer rotates queries and keys by position."""
    its = hp.row.graph
    if its.rope_n_layer is not None:
        return hp.n_layer == its.rope_n_layer
    match its.rope:
        case "window" if hp.n_swa > 0:
            return hp.swa[il] or (its.rope_in_lead and il < hp.n_layer_dense_lead)
        case "most_or_but_last" if not hp.n_swa:
            return il + 1 != hp.n_layer
        case "most" | "most_or_but_last":
            return (il + 1) % _NO_ROPE_STEP != 0
        case "stated":
            return hp.rope_finetuned
    return its.rope != "none"


def attention(b: GraphBuilder, t: Tensors, il: int, x: Node) -> Node:
    """Self-attention over a cache of K and V. x: normed, [n_embd, n_tokens] -> the same."""
    g, n_tokens = b.g, b.n_tokens
    n, dk = b.hp.n_head[il], b.hp.head_k[il]
    q, k, v, gate = _projected(b, t, il, x)
    if b.has(t, "attn_q_norm") and t["attn_q_norm.weight"].shape[0] == dk:
        q = b.norm(t, "attn_q_norm", q)
    if k is not None and b.has(t, "attn_k_norm") and t["attn_k_norm.weight"].shape[0] == dk:
        k = b.norm(t, "attn_k_norm", k)
    if v is not None and b.traits.norm_v:
        v = g.over(v, op="RMS_NORM")
    if rotates(b.hp, il):
        q = b.rotated(q)
        k = b.rotated(k) if k is not None else None
    elif b.traits.scaled_q:
        q = g.mul(q, b.input(ALL, "temperature", 1, 1, n_tokens, element=F32))
    if b.traits.scale_of_q:
        q = g.over(q, op="SCALE")
    if gate is not None:
        gate = g.cont(gate, dk * n, n_tokens)
    y = attend(b, il, q, k, v, sinks=t.get("attn_sinks.weight"))
    if gate is not None:
        y = g.mul(y, g.over(gate, op="SIGMOID"))
    elif b.has(t, "attn_gate"):
        y = _gated(b, y, g.over(b.mm(t, "attn_gate", x), op="SIGMOID"), n)
    if b.has(t, "attn_sub_norm"):
        y = b.norm(t, "attn_sub_norm", y)
    return b.mm(t, "attn_output", y) if b.has(t, "attn_output") else y


def _projected(
    b: GraphBuilder, t: Tensors, il: int, x: Node
) -> tuple[Node, Node | None, Node | None, Node | None]:
    """Queries, keys, values and a gate, [head, heads, n_tokens] each (`build_qkv`). No keys and
    values where a layer reads an earlier layer's cache, and seldom a gate."""
    g, hp, n_tokens = b.g, b.hp, b.n_tokens
    n, n_kv = hp.n_head[il], hp.n_head_kv[il]
    dk, dv = hp.head_k[il], hp.head_v[il]
    if b.has(t, "attn_qkv"):
        qkv = b.mm(t, "attn_qkv", x)
        row = qkv.shape[0]
        q, k, v = (
            g.view(qkv, head, heads, n_tokens, contiguous=False, stride=row)
            for head, heads in ((dk, n), (dk, n_kv), (dv, n_kv))
        )
        return q, k, v, None
    gate: Node | None = None
    raw = b.mm(t, "attn_q", x)
    if raw.shape[0] == 2 * n * dk:  # each head's query and gate side by side
        gate = g.view(raw, dk, n, n_tokens, contiguous=False)
        q = g.view(raw, dk, n, n_tokens, contiguous=False)
    else:
        if _wide(b, t, "attn_q_norm", raw):
            raw = b.norm(t, "attn_q_norm", raw)
        q = g.reshape(raw, dk, n, n_tokens)
    if il >= hp.n_layer_kv:
        return q, None, None, gate
    k = b.mm(t, "attn_k", x)
    v = g.reshape(b.mm(t, "attn_v", x) if b.has(t, "attn_v") else k, dv, n_kv, n_tokens)
    if _wide(b, t, "attn_k_norm", k):
        k = b.norm(t, "attn_k_norm", k)
    return q, g.reshape(k, dk, n_kv, n_tokens), v, gate


def _gated(b: GraphBuilder, y: Node, gate: Node, n_head: int) -> Node:
    """y, [n_head x head_v, n_tokens], times what a gate says, for each element or each head."""
    g, n_tokens = b.g, b.n_tokens
    rows = y.shape[0]
    if gate.shape[0] != n_head or rows == n_head:
        return g.mul(y, gate)
    y = g.mul(g.reshape(y, rows // n_head, n_head, n_tokens), g.reshape(gate, 1, n_head, n_tokens))
    return g.reshape(y, rows, n_tokens)


def _wide(b: GraphBuilder, t: Tensors, name: str, x: Node) -> bool:
    """Whether a norm runs over all heads at once instead of over each."""
    return b.has(t, name) and t[f"{name}.weight"].shape[0] == x.shape[0] != b.hp.head_k[0]


def attend(
    b: GraphBuilder,
    il: int,
    q: Node,
    k: Node | None,
    v: Node | None,
    *,
    v_rows: int = 0,
    scale: int = 0,
    mask_of: Callable[[], Node] | None = None,
    sinks: TensorInfo | None = None,
) -> Node:
    """Stores k and v, then q against the cache (`build_attn`, `build_attn_mha`). q: [head_k,
    n_head, n_tokens], k and v: [head, n_head_kv, n_tokens], None where another layer has stored
    them -> [n_head x head_v, n_tokens]. `v_rows`: the head size after the latent values are
    expanded, `scale` the bytes of the weight that expands them; `mask_of` makes the mask where it
    is not the common one; `sinks`: a weight that each head's softmax includes."""
    g, hp, n_tokens = b.g, b.hp, b.n_tokens
    kind = WINDOW if hp.swa[il] else ALL
    n, n_kv = hp.n_head[il], max(1, hp.n_head_kv[il])
    dk, dv = q.shape[0], v.shape[0] if v is not None and hp.mla else hp.head_v[il]
    if b.shape.rotate_k:
        q = b.hadamard(q, kind, "k", dk)
        k = b.hadamard(k, kind, "k", dk) if k is not None else None
    if b.shape.rotate_v and v is not None:
        v = b.hadamard(v, kind, "v", dv)
    g.expand(q)
    kv = [x for x in ((k, v) if hp.n_swa else (v, k)) if x is not None]
    g.expand(*kv)
    home = b.cache_device if b.cache_device >= 0 else g.device
    if k is not None:
        b.owners[kind] = home
        b.caches[kind, "k"] = b.cache(str(kind), 0, home)
        flat = g.view(k, prod(k.shape) // n_tokens, n_tokens)
        flat.size = k.size
        g.expand(g.stored(flat, b.k_idxs[kind], b.caches[kind, "k"]))
    if v is not None and not hp.mla:
        b.caches[kind, "v"] = b.cache(str(kind), 1, home)
        g.expand(_stored_values(b, v, kind))

    mask = mask_of() if mask_of else b.masks[kind]
    cells = b.cells[kind]
    home = b.owners.get(kind, home)  # a layer may read an earlier layer's cache
    keys = cached_rows(b, (kind, "k"), (dk, n_kv, cells), b.shape.k_bytes, home)
    if hp.mla:  # the same rows, but for the end of the last
        values = g.view(keys, dv, n_kv, cells, contiguous=False)
        values.size = keys.size - int((dk - dv) * b.shape.k_bytes)
    else:
        shape = (dv, n_kv, cells) if b.shape.flash else (cells, n_kv, dv)
        values = cached_rows(b, (kind, "v"), shape, b.shape.v_bytes, home)
    heads = g.permute(g.view(q, dk, n, n_tokens), dk, n_tokens, n)
    heads.size = q.size  # with what lies between, should it be a view still
    keys, values = (_by_head(b, rows) for rows in (keys, values))
    if b.shape.flash:
        scratch = of_attention(
            b,
            (kind,),
            (dk, dv),
            n_kv,
            n,
            within=bool(hp.mla),
            copied=home == HOST,  # a GPU's layers attend where their cache is
            sinks=bool(sinks),
            listed=mask_of is not None,
        )
        y = fused(b, (heads, keys, values, mask), (dk, dv), n, sinks, scratch)
        if v_rows:
            y = g.mm(v_rows, g.permute(y, dv, n_tokens, n), scale)
            y = g.cont(g.permute(y, v_rows, n, n_tokens))
            dv = v_rows
        y = g.reshape(y, dv * n, n_tokens)
    else:
        kq = g.new(cells, n_tokens, n, of=(keys, heads), op="MUL_MAT")
        if b.traits.softcap:
            kq = g.over(g.over(g.over(kq, op="SCALE"), op="TANH"), op="SCALE")
        kq = g.over(kq, mask, op="SOFT_MAX", weight=sinks.n_bytes if sinks else 0)
        if hp.mla:  # the latent rows serve as values, once turned
            turned = g.view(values, cells, dv, contiguous=False, op="TRANSPOSE")
            turned.size = values.size
            values = g.new(cells, dv, of=(turned,), op="CONT", element=F16)
        y = g.new(dv, n_tokens, n, of=(values, kq), op="MUL_MAT")
        if v_rows:
            y = g.mm(v_rows, y, scale)
            dv = v_rows
        y = g.cont(g.permute(y, dv, n, n_tokens), dv * n, n_tokens)
    g.expand(y)
    if b.shape.rotate_v:
        y = b.hadamard(y, kind, "v", dv)
    return y


def fused(
    b: GraphBuilder,
    of: tuple[Node, ...],
    heads: tuple[int, int],
    n_head: int,
    sinks: TensorInfo | None,
    scratch: int,
) -> Node:
    """Attention as one operation (`ggml_flash_attn_ext`), the host's where GPUs have no kernel for
    such heads of K and V; `scratch`: bytes that a GPU takes beside it. [head_v, n_head,
    n_tokens]."""
    g, left_to_host = b.g, heads in b.shape.kernelless
    beside: tuple[Node, ...] = ()
    if sinks and left_to_host:
        beside = (g.external(sinks.n_bytes, g.device),)
    elif sinks:
        beside = g.beside(sinks.n_bytes)
    y = g.new(heads[1], n_head, b.n_tokens, of=(*of, *beside), op="FLASH_ATTN_EXT")
    if left_to_host:
        y.device = LEFT_TO_HOST
    else:
        y.extra = scratch
    return y


def cached_rows(
    b: GraphBuilder,
    cache: tuple[Cells, str],
    shape: tuple[int, ...],
    bytes_per_element: float,
    device: int,
) -> Node:
    """What a layer reads of a cache. Unlike a weight, a cache elsewhere begins no new split."""
    home = b.caches.get(cache) or b.g.external(0, device)
    node = b.g.view(home, *shape, contiguous=False)
    node.size = int(prod(shape) * bytes_per_element)
    return node


def _by_head(b: GraphBuilder, rows: Node) -> Node:
    """What is read of a cache with heads last; a copy of it for another device is as large."""
    first, heads, *rest = rows.shape
    node = b.g.permute(rows, first, *rest, heads)
    node.size = rows.size
    return node


def _stored_values(b: GraphBuilder, v: Node, kind: Cells) -> Node:
    """Writes values into the cache (`llama_kv_cache::cpy_v`): rows where attention is fused, else
    every element on its own."""
    g, n_tokens = b.g, b.n_tokens
    n = prod(v.shape) // n_tokens
    home = b.caches[kind, "v"]
    if b.shape.flash:
        flat = g.view(v, n, n_tokens)
        flat.size = v.size
        return g.stored(flat, b.v_idxs[kind], home)
    flat = g.reshape(v, n, n_tokens) if v.contiguous else g.cont(v, n, n_tokens)
    wide = max(b.hp.v_row)
    if n < wide:  # the widest layer's rows
        flat = g.new(wide, n_tokens, of=(flat,), op="PAD")
    flat = g.reshape(flat, 1, wide * n_tokens)
    return g.stored(flat, b.v_idxs[kind], home, g.reshape(home, 1, b.cells[kind] * wide))
