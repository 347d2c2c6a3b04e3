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
        v = g.over(v)
    if rotates(b.hp, il):
        q = b.rotated(q)
        k = b.rotated(k) if k is not None else None
    elif b.traits.scaled_q:
        q = g.over(q, b.input(ALL, "temperature", 1, 1, n_tokens, element=F32))
    if gate is not None:
        gate = g.new(dk * n, n_tokens, of=(gate,))
    y = attend(b, il, q, k, v, sinks=t.get("attn_sinks.weight"))
    if gate is not None:
        y = g.over(y, g.over(gate))
    elif b.has(t, "attn_gate"):
        y = _gated(b, y, g.over(b.mm(t, "attn_gate", x)), n)
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
        q = g.view(raw, dk, n, n_tokens)
    if il >= hp.n_layer_kv:
        return q, None, None, gate
    k = b.mm(t, "attn_k", x)
    v = g.view(b.mm(t, "attn_v", x) if b.has(t, "attn_v") else k, dv, n_kv, n_tokens)
    if _wide(b, t, "attn_k_norm", k):
        k = b.norm(t, "attn_k_norm", k)
    return q, g.view(k, dk, n_kv, n_tokens), v, gate


def _gated(b: GraphBuilder, y: Node, gate: Node, n_head: int) -> Node:
    """y, [n_head x head_v, n_tokens], times what a gate says, for each element or each head."""
    g, n_tokens = b.g, b.n_tokens
    rows = y.shape[0]
    if gate.shape[0] != n_head or rows == n_head:
        return g.over(y, gate)
    y = g.over(g.view(y, rows // n_head, n_head, n_tokens), g.view(gate, 1, n_head, n_tokens))
    return g.view(y, rows, n_tokens)


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
    stores = [(k, b.k_idxs[kind])] if k is not None else []
    if v is not None and not hp.mla:
        stores.append((v, b.v_idxs[kind]))
    for x, rows in stores:
        b.owners[kind] = home
        flat = g.view(x, prod(x.shape) // n_tokens, n_tokens)
        flat.size = x.size
        g.expand(Node((0,), 0, (flat, rows), external=True, device=home))

    mask = mask_of() if mask_of else b.masks[kind]
    cells = b.cells[kind]
    home = b.owners.get(kind, home)  # a layer may read an earlier layer's cache
    size = int(cells * dk * n_kv * b.shape.k_bytes)
    cached = [cached_rows(b, size, home)]
    if not hp.mla:
        cached.append(cached_rows(b, int(cells * dv * n_kv * b.shape.v_bytes), home))
    elif b.shape.flash:  # the same rows, but for the end of the last
        cached.append(cached_rows(b, size - int((dk - dv) * b.shape.k_bytes), home))
    heads = g.view(g.view(q, dk, n, n_tokens), dk, n_tokens, n, contiguous=False)
    if b.shape.flash:
        beside = g.beside(sinks.n_bytes) if sinks else ()
        y = g.new(dv, n, n_tokens, of=(heads, *cached, mask, *beside))
        if (dk, dv) in b.shape.kernelless:
            y.device = LEFT_TO_HOST
        else:
            y.size += scratch(b, (kind,), dk * n_kv, 0 if hp.mla else dv * n_kv, n, dv)
        if v_rows:
            y = g.mm(v_rows, g.view(y, dv, n_tokens, n, contiguous=False), scale)
            y = g.new(v_rows, n, n_tokens, of=(g.view(y, v_rows, n, n_tokens, contiguous=False),))
            dv = v_rows
        y = g.view(y, dv * n, n_tokens)
    else:
        kq = g.new(cells, n_tokens, n, of=(cached[0], heads))
        if b.traits.softcap:
            kq = g.over(g.over(g.over(kq)))
        kq = g.over(kq, mask, weight=sinks.n_bytes if sinks else 0)
        values = cached[-1]
        if hp.mla:  # the latent rows serve as values, once turned
            values = g.new(cells, dv, of=(values,), element=F16)
        y = g.new(dv, n_tokens, n, of=(values, kq))
        if v_rows:
            y = g.mm(v_rows, y, scale)
            dv = v_rows
        y = g.new(dv * n, n_tokens, of=(g.view(y, dv, n, n_tokens, contiguous=False),))
    g.expand(y)
    if b.shape.rotate_v:
        y = b.hadamard(y, kind, "v", dv)
    return y


def scratch(
    b: GraphBuilder, kinds: tuple[Cells, ...], k_row: int, v_row: int, n_head: int, dv: int
) -> int:
    """What a GPU's fused attention over caches of these kinds needs beside its result: one
    layer's cache as f16.

    `ggml_cuda_flash_attn_ext_get_alloc_size` (ggml-cuda/fattn.cu) where it is not f16
    already, `ggml_metal_op_flash_attn_ext_extra_*` (ggml-metal-ops.cpp) always.
    """
    shape = b.shape
    if b.g.device == HOST and b.g.offload.device <= HOST:
        return 0
    cells = sum(b.cells[kind] for kind in kinds)
    if shape.scratch == "Metal":
        partial = F32 * b.counts["vectors"] * n_head * 32 * (dv + 2)
        tiles = sum(b.counts[f"tiles of {kind}"] for kind in kinds)
        return 2 * cells * (k_row + v_row) + partial + tiles + 64
    if shape.scratch == "CUDA":
        k = 0 if shape.f16_k else 2 * cells * k_row + 128
        return k + (0 if shape.f16_v or not v_row else 2 * cells * v_row + 128)
    return 0


def cached_rows(b: GraphBuilder, size: int, device: int) -> Node:
    """A layer's view of `size` bytes of a cache. Unlike a weight, a cache elsewhere begins no new
    split."""
    node = b.g.view(b.g.external(size, device), size)
    node.size = size
    return node
