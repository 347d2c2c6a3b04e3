"""What GPUs take for some operations beside their results (`get_alloc_size` of their buffers)."""

from __future__ import annotations

from math import prod

from tuner.memory.compute.graph import F16, F32, I32, Node
from tuner.memory.compute.replica.builder import GraphBuilder
from tuner.memory.kv_cache import Cells

_SCALE = 128  # a number, by itself between two blocks (SYCL_BUFFER_ALIGNMENT)
_PARTS = 256  # N_MM_NPART_AMAX (ggml-metal-impl.h)
_GROUPS = 32  # nwg, of `ggml_metal_op_flash_attn_ext_extra_tmp` (ggml-metal-ops.cpp)
_WIDTH = 64  # cells (OP_FLASH_ATTN_EXT_NCPSG)


def of_attention(
    b: GraphBuilder,
    kinds: tuple[Cells, ...],
    heads: tuple[int, int],
    n_head_kv: int,
    n_head: int,
    *,
    within: bool = False,
    copied: bool = False,
    sinks: bool = False,
    listed: bool = False,
    masks: int = 1,
) -> int:
    """Bytes for fused attention over caches of these kinds: mostly one layer's cache as f16.
    `heads`: sizes of K's and V's; `within`: V is a view of K, unless both are `copied` from another
    device; `listed`: each token attends to few cells, which Metal lists;
    `masks`: one for each group of heads, or one for all.

    `ggml_cuda_flash_attn_ext_get_alloc_size` (ggml-cuda/fattn.cu) copies what is not f16 already,
    `ggml_sycl_flash_attn_ext_get_alloc_size` (ggml-sycl/fattn.cpp) Q and the result as well;
    `ggml_metal_op_flash_attn_ext_extra_*` (ggml-metal-ops.cpp) has room for a copy always.
    """
    shape = b.shape
    cells = sum(b.cells[kind] for kind in kinds)
    k, v = heads
    k_row, v_row = k * n_head_kv, 0 if within and not copied else v * n_head_kv
    if shape.scratch in ("CUDA", "SYCL"):
        k_size, v_size = F16 * cells * k_row, F16 * cells * v_row
        staged = shape.staged and k == v and not (sinks or b.traits.softcap or b.traits.alibi)
        if shape.scratch == "SYCL" and staged:
            copies = 0 if shape.f16_k and shape.f16_v else 2 * k_size  # V's too, were it a view
            return copies + 2 * F16 * n_head * b.n_tokens * v + _SCALE
        return (0 if shape.f16_k else k_size) + (0 if shape.f16_v else v_size)
    if shape.scratch != "Metal":
        return 0
    if shape.k_stride:  # rows as they are in the cache, all heads side by side
        strides = int(shape.k_stride * n_head_kv * (k + (k if within else v)))
    else:  # heads of the copy
        strides = F16 * (k + (v if v_row else k))
    pad = _WIDTH * (strides * n_head_kv + F16 * b.n_tokens * masks)
    partial = F32 * b.counts["vectors"] * n_head * _GROUPS * (v + 2)
    tiles = sum(b.counts[f"tiles of {masks} x {kind}"] for kind in kinds)
    lists = I32 * b.counts.get("listed", 0) * b.n_tokens if listed else 0
    return pad + tiles + partial + F16 * cells * (k_row + v_row) + lists


def of_experts(b: GraphBuilder, n_expert: int, n_tokens: int) -> int:
    """Bytes for the product of chosen experts' weights (`ggml_metal_op_mul_mat_id_extra_*`)."""
    if b.shape.scratch != "Metal":
        return 0
    return I32 * n_expert * (1 + n_tokens) + 8 + F32 * _PARTS


def of_top(b: GraphBuilder, top: Node, scores: Node) -> int:
    """Bytes for picking the best of each row (likewise): two places for every score."""
    return 2 * I32 * prod(scores.shape) - top.size if b.shape.scratch == "Metal" else 0


def of_order(b: GraphBuilder, order: Node) -> int:
    """Bytes for sorting rows (`ggml_backend_metal_buffer_type_get_alloc_size`): as much again."""
    return order.size if b.shape.scratch == "Metal" else 0
