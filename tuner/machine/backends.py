"""What is known of each GPU backend of the engine: one row per backend.

A new backend is a new row. Sources are files of ggml/src as vendored in the engine, the backend's
own where nothing else is said (`ggml-cuda/ggml-cuda.cu`, `ggml-vulkan/ggml-vulkan.cpp`, ...). What
a row leaves out is what a backend of which nothing is known is taken for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from tuner.gguf.types import GGML_TYPES
from tuner.machine import kernels, overheads
from tuner.machine.attention import (
    CacheRead,
    Rule,
    any_group,
    cpu_slows_prompts,
    cuda_copies,
    cuda_fits_group,
    never,
    opencl_copies,
    sycl_copies,
)
from tuner.machine.overheads import Card, CardClass, CardClasses


class BufferLayout(NamedTuple):
    """How tensors lie in a buffer. A tuple, since sizes are looked up by it all the time."""

    alignment: int = 32  # bytes: each tensor begins at a multiple (`get_alignment`)
    row_multiple: int = 1  # elements: quantized rows are read in such steps (`get_alloc_size`)


# Operations with a weight: all of 32 rows and more, matrix products alone, those of whose result
# the second dimension is 32 and more, or none.
Offload = Literal["all", "products", "by_second", ""]

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
    # For which operations with weights that lie in RAM it takes these to itself in large batches
    # (`offload_op`).
    borrows_weights: Offload = ""
    # Whose way it has of arranging a graph before memory is found for it (`graph_optimize`;
    # `memory/compute/optimize`): "CUDA", "Metal", "Vulkan"; "" leaves it as it is.
    optimizer: str = ""
    # Whose scratch memory fused attention takes inside the compute buffer: "CUDA" an f16 copy of
    # a cache of another type, "SYCL" of Q and the result too, "Metal" of any cache; "" none.
    attention_scratch: str = ""
    # What a load costs beside its buffers, by the card.
    cards: CardClasses = overheads.LITTLE

    # Speed (`planning/rates.py`): the part of a data sheet's bandwidth that decoding reaches, what
    # each weight tensor costs beside its bytes in seconds, and its prompts against CUDA's.
    bandwidth_share: float = 0.83
    seconds_per_tensor: float = 5.5e-6
    prompt_share: float = 1.0

    # Its devices draw from the host's memory, though the engine lists them as GPUs with their own;
    # of other backends it tells the integrated GPUs apart itself.
    unified: bool = False

    # Fused attention. Where a kernel is missing, the CPU computes attention instead.
    head_sizes: frozenset[int] | None = None  # of K and V with a kernel; None: all
    unequal_heads: frozenset[tuple[int, int]] | None = None  # (K, V) with one; None: as K alone
    fits_group: Callable[[int, int], bool] = any_group  # size of K, heads of Q for each of K
    types_without_kernel: frozenset[str] = frozenset()
    equal_types_only: bool = False
    types_alone: frozenset[str] = frozenset()  # with a kernel where K and V both have it
    # Other operations, of which it has no kernel for some (`kernels.py`).
    lacks: kernels.KernelRule = kernels.none_lacking
    # Where there is a kernel: whether decoding copies the whole cache to f16 at every step, and
    # whether prompts are slower than with f16.
    copies_cache: Rule = never
    slows_prompts: Rule = never

    def card_class(self, card: Card) -> CardClass:
        """What a load costs beside its buffers on a card."""
        return next(row for row in self.cards if row.has(card))

    def has_kernel_for_heads(self, k: int, v: int, group: int) -> bool:
        """Whether attention over heads of these sizes, `group` of Q for each of K, runs fused on
        it."""
        if not self.fits_group(k, group):
            return False
        if k != v and self.unequal_heads is not None:
            return (k, v) in self.unequal_heads
        return self.head_sizes is None or k in self.head_sizes

    def converts_cache(
        self,
        type_k: str,
        type_v: str,
        capability: tuple[int, int] | None = None,
        *,
        head: int = 128,
        group: int = 1,
    ) -> bool:
        """Whether each decoded token copies the whole cache to f16 before it is read; heads of
        `head` elements, `group` of Q for each of K (`CacheRead`)."""
        return self.copies_cache(CacheRead(type_k, type_v, capability, head, group))

    def slow_prompts(
        self, type_k: str, type_v: str, capability: tuple[int, int] | None = None
    ) -> bool:
        """Whether attention over a prompt is slower with such a cache than with f16."""
        return self.slows_prompts(CacheRead(type_k, type_v, capability))


# ggml-cuda/fattn.cu: `ggml_cuda_get_best_fattn_kernel`, `ggml_cuda_flash_attn_ext_get_alloc_size`.
_CUDA = Backend(
    name="CUDA",
    library="cuda",
    cmake="-DGGML_CUDA=on",
    layout=BufferLayout(128, _ROW_MULTIPLE),
    pipeline=True,
    borrows_weights="all",
    optimizer="CUDA",
    attention_scratch="CUDA",
    cards=overheads.CUDA,
    head_sizes=frozenset({40, 64, 72, 80, 96, 112, 128, 256, 512}),
    unequal_heads=frozenset({(192, 128), (320, 256), (576, 512)}),
    fits_group=cuda_fits_group,
    types_without_kernel=frozenset({"iq4_nl"}),
    lacks=kernels.cuda_lacks,
    copies_cache=cuda_copies,
    seconds_per_tensor=5e-6,
)

# ggml-metal/ggml-metal-device.m (`ggml_metal_device_supports_op`), ggml-metal-ops.cpp: batches of
# 32 tokens and more read an f16 copy, fewer unpack what they read (`..._ext_use_kv_f16`)
_METAL = Backend(
    name="Metal",
    engine_name="MTL",
    library="metal",
    cmake="-DGGML_METAL=on",
    pipeline=True,
    borrows_weights="products",
    optimizer="Metal",
    attention_scratch="Metal",
    cards=overheads.METAL,
    unified=True,
    head_sizes=frozenset({32, 40, 48, 64, 72, 80, 96, 112, 128, 192, 256, 320, 512, 576}),
    types_without_kernel=frozenset({"iq4_nl"}),
    equal_types_only=True,
    lacks=kernels.metal_lacks,
    seconds_per_tensor=10.5e-6,
    prompt_share=0.77,
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
            cards=overheads.ROCM,
            seconds_per_tensor=5.5e-6,
        ),
        replace(_CUDA, name="MUSA", library="musa", cmake="-DGGML_MUSA=on", cards=overheads.ROCM),
        _METAL,
        # `ggml_backend_vk_device_supports_op`, `ggml_vk_flash_attn`: kernels unpack what they read,
        # or copy it for batches of 64 tokens and more
        Backend(
            "Vulkan",
            library="vulkan",
            cmake="-DGGML_VULKAN=on",
            pipeline=True,
            borrows_weights="all",
            cards=overheads.VULKAN,
            optimizer="Vulkan",
            types_alone=frozenset({"bf16"}),
            lacks=kernels.vulkan_lacks,
            bandwidth_share=0.85,
            seconds_per_tensor=4e-6,
            prompt_share=0.75,
        ),
        # ggml-sycl/fattn.cpp; a default build has every pair of types (GGML_SYCL_FA_ALL_QUANTS)
        Backend(
            "SYCL",
            library="sycl",
            cmake="-DGGML_SYCL=on",
            pipeline=True,
            borrows_weights="all",
            attention_scratch="SYCL",
            cards=overheads.SYCL,
            layout=BufferLayout(128, _ROW_MULTIPLE),
            head_sizes=frozenset({40, 64, 72, 80, 96, 112, 128, 256, 512}),
            unequal_heads=frozenset({(576, 512)}),
            types_without_kernel=frozenset({"iq4_nl"}),
            lacks=kernels.sycl_lacks,
            copies_cache=sycl_copies,
        ),
        # made for Adreno, which has no memory of its own
        Backend(
            "OpenCL",
            library="opencl",
            cmake="-DGGML_OPENCL=on",
            unified=True,
            head_sizes=frozenset({40, 64, 80, 96, 112, 128, 192, 256, 512}),
            unequal_heads=frozenset({(192, 128)}),
            types_without_kernel=frozenset({"bf16", "q5_1", "q5_0", "q4_1", "iq4_nl"}),
            lacks=kernels.opencl_lacks,
            copies_cache=opencl_copies,
            slows_prompts=opencl_copies,
        ),
        Backend(
            "CANN",
            library="cann",
            cmake="-DGGML_CANN=on",
            borrows_weights="by_second",
            layout=BufferLayout(128, _ROW_MULTIPLE),
            unequal_heads=frozenset(),
            types_without_kernel=frozenset(
                {"f32", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "iq4_nl", "q4_0"}
            ),
            lacks=kernels.cann_lacks,
        ),
        # The server's free memory already has its context deducted.
        Backend(
            "RPC", library="rpc", cmake="-DGGML_RPC=on", pipeline=True, cards=overheads.NOTHING
        ),
        Backend(
            "CPU", layout=HOST_LAYOUT, cards=overheads.NOTHING, slows_prompts=cpu_slows_prompts
        ),
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
