"""Operations of a graph for which a backend has no kernel, so that the engine computes them on the
CPU, with copies of what they read.

A rule is a function of one `Asked`, a column of the table in `backends.py`; attention has columns
of its own. Sources are `supports_op` of ggml/src/ggml-*, as vendored in the engine; what no model's
graph asks of any of them is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

_INDEX_KEY = 128  # elements of an index key with a kernel
_TILE = 16  # elements of a head that kernels of Mamba-2 take at once
_MAMBA_1_STATE = 16
_STREAMS = 4  # that hyper-connections have
_POWERS = frozenset(1 << n for n in range(9))  # up to 256
_GLA_HEAD = 64  # elements of a head of gated linear attention, on Vulkan


class Asked(NamedTuple):
    """One operation, as far as some backend goes by it."""

    op: Literal["DSV4_HC_PRE", "GATED_LINEAR_ATTN", "LIGHTNING_INDEXER", "MUL_MAT_ID", "SSM_SCAN"]
    head: int = 0  # elements of a head
    heads: int = 0
    type_k: str = "f16"  # of index keys
    state: int = 0  # elements of a head's state, for each of its own
    one_decay: bool = False  # for a whole head: Mamba-2
    precise: bool = False  # with f32 for what is multiplied (`ggml_prec_set_src`)
    streams: int = _STREAMS


KernelRule = Callable[[Asked], bool]


def none_lacking(_: Asked) -> bool:
    """There is a kernel for everything."""
    return False


def _fits_mamba_2(asked: Asked, *states: int) -> bool:
    """Whether kernels for such states take it."""
    return asked.state in states and asked.head % _TILE == 0


def cuda_lacks(asked: Asked) -> bool:
    """`ggml_backend_cuda_device_supports_op`, `ggml_cuda_lightning_indexer_supported`."""
    match asked.op:
        case "LIGHTNING_INDEXER":
            known = asked.head == _INDEX_KEY and asked.heads in (32, 64)
            return not known or asked.type_k == "iq4_nl"
        case "SSM_SCAN" if asked.one_decay:
            return not _fits_mamba_2(asked, 96, 128, 256)
        case "SSM_SCAN":
            return asked.state != _MAMBA_1_STATE or asked.heads % 128 != 0
    return asked.precise


def vulkan_lacks(asked: Asked) -> bool:
    """`ggml_backend_vk_device_supports_op`."""
    match asked.op:
        case "LIGHTNING_INDEXER":
            return asked.head != _INDEX_KEY
        case "SSM_SCAN":
            return not asked.one_decay or not _fits_mamba_2(asked, 128, 256)
        case "DSV4_HC_PRE":
            return asked.streams != _STREAMS
        case "GATED_LINEAR_ATTN":
            return asked.head != _GLA_HEAD
    return asked.precise


def metal_lacks(asked: Asked) -> bool:
    """`ggml_metal_device_supports_op`."""
    if asked.op == "LIGHTNING_INDEXER":
        return (asked.head, asked.heads) != (_INDEX_KEY, 64) or asked.type_k == "iq4_nl"
    return asked.op == "GATED_LINEAR_ATTN"


def sycl_lacks(asked: Asked) -> bool:
    """`do_ggml_backend_sycl_device_supports_op`."""
    match asked.op:
        case "LIGHTNING_INDEXER":
            return asked.head != _INDEX_KEY
        case "SSM_SCAN":
            return not asked.one_decay or not _fits_mamba_2(asked, 128, 256)
    return False


def opencl_lacks(asked: Asked) -> bool:
    """`ggml_opencl_supports_op`."""
    if asked.op == "SSM_SCAN":
        return asked.state not in _POWERS
    return asked.op != "MUL_MAT_ID"


def cann_lacks(asked: Asked) -> bool:
    """`ggml_backend_cann_supports_op`."""
    return asked.op not in ("GATED_LINEAR_ATTN", "MUL_MAT_ID")
