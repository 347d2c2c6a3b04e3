"""Which caches a backend's fused attention reads as they are, and which it copies to f16 first.

A kernel for one token at a time (decoding) is compiled for certain pairs of types and sizes of
heads; where it is missing, the whole cache is copied to f16 at every step, however long it is. A
kernel for many tokens (a prompt) copies it once per batch, which is little beside what the batch
computes.

A rule is a function of one `CacheRead`, a column of the table in `backends.py`. Sources are files
of ggml/src as vendored in the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

_TURING, _ADA = (7, 5), (8, 9)  # CUDA's compute capabilities
_VOLTA = (7, 0)


class CacheRead(NamedTuple):
    """A cache as one step's attention meets it. Types go by their names in
    `memory/cache_types.py`."""

    type_k: str
    type_v: str
    capability: tuple[int, int] | None = None  # CUDA's, where the card says
    head: int = 128  # elements of a key head
    group: int = 1  # heads of Q for each head of K

    @property
    def pair(self) -> tuple[str, str]:
        return self.type_k, self.type_v


Rule = Callable[[CacheRead], bool]


def never(_: CacheRead) -> bool:
    """Of any cache: kernels unpack what they read."""
    return False


# The kernels of one token that a default build has: GGML_CUDA_FA_QUANTS (ggml/CMakeLists.txt).
CUDA_PAIRS = frozenset((name, name) for name in ("f16", "bf16", "q8_0", "q4_0"))
_CUDA_HEADS = frozenset({64, 128, 256})  # FATTN_VEC_CASES_ALL_D
_VOLTA_GROUP, _ADA_GROUP = 2, 4  # heads of Q per head of K that the kernel of one token takes there


def any_group(_head: int, _group: int) -> bool:
    """Of any number of heads of Q for each head of K."""
    return True


def cuda_fits_group(head: int, group: int) -> bool:
    """Whether a kernel for key heads of this size takes so many heads of Q for each of K
    (`ggml_cuda_get_best_fattn_kernel`, ggml-cuda/fattn.cu)."""
    match head:
        case 192:
            return group % 8 == 0
        case 320:
            return group % 32 == 0
        case 512 | 576:
            return group > 1
    return True


def cuda_copies(read: CacheRead) -> bool:
    """`ggml_cuda_get_best_fattn_kernel` for one token, and `ggml_cuda_flash_attn_ext_vec`
    (ggml-cuda/fattn.cu). The kernels of many tokens (MMA, tile) read f16 alone, whatever the
    card; a card of unknown capability counts as Turing."""
    if read.pair == ("f16", "f16"):
        return False
    if read.pair not in CUDA_PAIRS or read.head not in _CUDA_HEADS:
        return True
    capability = read.capability or _TURING
    if _VOLTA <= capability < _TURING:
        return (read.group & -read.group) > _VOLTA_GROUP  # its largest power of two
    if read.type_k == "bf16":  # heads that share a cache go through a kernel of many tokens
        return read.group > (_ADA_GROUP if capability >= _ADA else 1)
    return False


_SYCL_HEADS = frozenset({64, 128, 256, 512})  # FATTN_VEC_CASES_ALL_D


def sycl_copies(read: CacheRead) -> bool:
    """`ggml_sycl_get_best_fattn_kernel` (ggml-sycl/fattn.cpp): all pairs of types are compiled, but
    for bf16. Battlemage, which cannot be told here, copies every quantized cache."""
    return read.pair != ("f16", "f16") and ("bf16" in read.pair or read.head not in _SYCL_HEADS)


def opencl_copies(read: CacheRead) -> bool:
    """`is_f32_asym` (ggml-opencl/ggml-opencl.cpp): a cache of two types is unpacked by the host,
    for prompts too."""
    return read.type_k != read.type_v


def cpu_slows_prompts(read: CacheRead) -> bool:
    """`use_tiled` (ggml-cpu/ops.cpp): the kernel of many tokens takes a cache of f16 or f32;
    any other is unpacked anew for each token of the batch."""
    return read.pair not in (("f16", "f16"), ("f32", "f32"))
