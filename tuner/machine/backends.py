"""What is known of each GPU backend of the engine: one row per backend.

A new backend is a new row. Sources are files of ggml/src as vendored in the engine, the backend's
own where nothing else is said (`ggml-cuda/ggml-cuda.cu`, `ggml-vulkan/ggml-vulkan.cpp`, ...). What
a row leaves out is what a backend of which nothing is known is taken for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from tuner.gguf.types import GGML_TYPES
from tuner.units import MIB


class BufferLayout(NamedTuple):
    """How tensors lie in a buffer. A tuple, since sizes are looked up by it all the time."""

    alignment: int = 32  # bytes: each tensor begins at a multiple (`get_alignment`)
    row_multiple: int = 1  # elements: quantized rows are read in such steps (`get_alloc_size`)


# What a load costs beside its buffers, by the least compute capability: bytes.
Overheads = tuple[tuple[tuple[int, int], int], ...]
_NOTHING: Overheads = (((0, 0), 0),)
_LITTLE: Overheads = (((0, 0), 128 * MIB),)  # no such context as CUDA's

HOST_LAYOUT = BufferLayout()  # CPU, CUDA_Host and REPACK buffers (GGML_MEM_ALIGN)
_ROW_MULTIPLE = 512  # MATRIX_ROW_PADDING (ggml-cuda/common.cuh)


def row_padding(ggml_type: int, ne0: int, layout: BufferLayout) -> int:
    """Bytes that a buffer adds to a quantized tensor with rows of `ne0` elements, so that its last
    row may be read in whole steps (`ggml_backend_cuda_buffer_type_get_alloc_size`)."""
    kind = GGML_TYPES.get(ggml_type)
    missing = -ne0 % layout.row_multiple
    if not missing or kind is None or kind.block == 1:
        return 0
    return missing // kind.block * kind.block_bytes


@dataclass(frozen=True, slots=True)
class Backend:
    """One backend. Types of the KV cache go by their names in `memory/cache_types.py`."""

    name: str  # as the tuner and `--explain` say it
    engine_name: str = ""  # of its registry in the engine, where that is another
    library: str = ""  # its library's file is libggml-LIBRARY
    cmake: str = ""  # what builds the engine with it

    layout: BufferLayout = HOST_LAYOUT
    # Async copies and events: layers on several such devices are computed as a pipeline, with
    # copies of what passes between them (`llama_context`, src/llama-context.cpp).
    pipeline: bool = False
    # Takes weights that lie in RAM to itself for large batches (`offload_op`).
    borrows_weights: bool = False
    # Whose scratch memory fused attention takes inside the compute buffer: "CUDA" an f16 copy of
    # a cache of another type, "Metal" one of any cache; "" none.
    attention_scratch: str = ""
    overheads: Overheads = _LITTLE
    # Its devices draw from the host's memory, though the engine lists them as GPUs with their own;
    # of other backends it tells the integrated GPUs apart itself.
    unified: bool = False

    # Fused attention. Where a kernel is missing, the CPU computes attention instead.
    head_sizes: frozenset[int] | None = None  # of K and V with a kernel; None: all
    unequal_heads: frozenset[tuple[int, int]] | None = None  # (K, V) with one; None: as K alone
    types_without_kernel: frozenset[str] = frozenset()
    equal_types_only: bool = False
    # Types that a default build is fast with, K and V being equal; None: with any. Others it
    # converts to f16 at every step.
    fast_types: frozenset[str] | None = None

    def overhead(self, capability: tuple[int, int] | None) -> int:
        """Bytes of driver context on a card; one of unknown capability counts as 7.0."""
        known = capability or (7, 0)
        return next(size for least, size in self.overheads if known >= least)

    def has_kernel_for_heads(self, k: int, v: int) -> bool:
        """Whether attention over heads of these sizes runs fused on it."""
        if self.head_sizes is None:
            return True
        if k == v or self.unequal_heads is None:
            return k in self.head_sizes
        return (k, v) in self.unequal_heads

    def slow_with(self, type_k: str, type_v: str) -> bool:
        """Whether a default build has only slow attention for such a cache."""
        if self.fast_types is None:
            return False
        return type_k != type_v or type_k not in self.fast_types


# ggml-cuda/fattn.cu: `ggml_cuda_get_best_fattn_kernel`, `ggml_cuda_flash_attn_ext_get_alloc_size`;
# the fast types are the vector kernels of a default build (GGML_CUDA_FA_QUANTS).
# Overhead: the driver's context, its kernels and cuBLAS. Users of llama.cpp see 107 to 680 MiB per
# card; newer cards carry more kernels. The first load on a machine measures it.
_CUDA = Backend(
    name="CUDA",
    library="cuda",
    cmake="-DGGML_CUDA=on",
    layout=BufferLayout(128, _ROW_MULTIPLE),
    pipeline=True,
    borrows_weights=True,
    attention_scratch="CUDA",
    overheads=(((9, 0), 600 * MIB), ((7, 0), 400 * MIB), ((0, 0), 200 * MIB)),
    head_sizes=frozenset({40, 64, 72, 80, 96, 112, 128, 256, 512}),
    unequal_heads=frozenset({(192, 128), (320, 256), (576, 512)}),
    types_without_kernel=frozenset({"iq4_nl"}),
    fast_types=frozenset({"f16", "bf16", "q8_0", "q4_0"}),
)

# ggml-metal/ggml-metal-device.m (`ggml_metal_device_supports_op`), ggml-metal-ops.cpp
_METAL = Backend(
    name="Metal",
    engine_name="MTL",
    library="metal",
    cmake="-DGGML_METAL=on",
    pipeline=True,
    borrows_weights=True,
    attention_scratch="Metal",
    unified=True,
    head_sizes=frozenset({32, 40, 48, 64, 72, 80, 96, 112, 128, 192, 256, 320, 512, 576}),
    types_without_kernel=frozenset({"iq4_nl"}),
    equal_types_only=True,
)

BACKENDS: dict[str, Backend] = {
    row.name: row
    for row in (
        _CUDA,
        # CUDA's source, compiled for other cards (ggml-hip, ggml-musa)
        replace(
            _CUDA,
            name="ROCm",
            engine_name="HIP",
            library="hip",
            cmake="-DGGML_HIP=on",
            overheads=_LITTLE,
        ),
        replace(_CUDA, name="MUSA", library="musa", cmake="-DGGML_MUSA=on", overheads=_LITTLE),
        _METAL,
        Backend(
            "Vulkan",
            library="vulkan",
            cmake="-DGGML_VULKAN=on",
            pipeline=True,
            borrows_weights=True,
        ),
        Backend(
            "SYCL",
            library="sycl",
            cmake="-DGGML_SYCL=on",
            pipeline=True,
            borrows_weights=True,
            layout=BufferLayout(128, _ROW_MULTIPLE),
        ),
        # made for Adreno, which has no memory of its own
        Backend("OpenCL", library="opencl", cmake="-DGGML_OPENCL=on", unified=True),
        Backend(
            "CANN",
            library="cann",
            cmake="-DGGML_CANN=on",
            borrows_weights=True,
            layout=BufferLayout(128, _ROW_MULTIPLE),
        ),
        # The server's free memory already has its context deducted.
        Backend("RPC", library="rpc", cmake="-DGGML_RPC=on", pipeline=True, overheads=_NOTHING),
        Backend("CPU", layout=HOST_LAYOUT, overheads=_NOTHING),
    )
}
_BY_ENGINE_NAME = {row.engine_name or row.name: row for row in BACKENDS.values()}


def backend(name: str) -> Backend:
    """The row of a backend; one of which nothing is known gets a row without any particulars."""
    return BACKENDS.get(name) or Backend(name)


def backends(names: Iterable[str]) -> tuple[Backend, ...]:
    """The rows of several devices' backends, each once, in their order."""
    return tuple(backend(name) for name in dict.fromkeys(names))


def of_engine(name: str) -> Backend:
    """The row of what the engine's registry calls `name`; RPC names its server too."""
    if name.startswith("RPC"):
        return BACKENDS["RPC"]
    return _BY_ENGINE_NAME.get(name) or backend(name)
