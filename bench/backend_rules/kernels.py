"""Which operations backends have kernels for: their `supports_op`, as code to be compiled.

What it asks of a device is answered for a usual one: a CUDA build with CUB, a Vulkan card with 48
KiB of shared memory, Apple's M1 and later, an Intel card. CUDA's and SYCL's fused attention is not
asked about here.
"""

from __future__ import annotations

import re
from pathlib import Path

from bench.cxx import cut, source

_CUDA = """
#define GGML_CUDA_USE_CUB
struct ggml_backend_cuda_device_context { int device; };
struct ggml_backend_cuda_buffer_type_context { int device; };
static bool ggml_backend_buft_is_cuda(ggml_backend_buffer_type_t) { return false; }
static bool ggml_cuda_flash_attn_ext_supported(int, const ggml_tensor *) { return true; }
"""
_VULKAN = """
struct limit_rules {
    uint32_t maxStorageBufferRange = UINT32_MAX, maxComputeSharedMemorySize = 49152, minStorageBufferOffsetAlignment = 16;
};
struct property_rules { limit_rules limits; };
struct for_any { bool operator[](int) const { return true; } };
struct device_rules {
    bool shader_int64 = true, buffer_device_address = true, shader_64b_indexing = false, coopmat2 = false, fp16 = true,
         subgroup_shuffle = true, subgroup_vote = true, subgroup_arithmetic = true, subgroup_basic = true,
         subgroup_require_full_support = true, vulkan_memory_model = true;
    size_t max_buffer_size = (size_t) 4 << 30;
    uint32_t max_workgroup_size_log2 = 10, subgroup_size_log2 = 5;
    property_rules properties;
    for_any mul_mat_id_s, mul_mat_id_m, mul_mat_id_l, pipeline_topk_f32;
    const char * pipeline_topk_radix_f32 = "", * pipeline_dsv4_hc_comb_f32 = "";
};
typedef device_rules * vk_device;
static device_rules usual;
static vk_device the_device = &usual;
static const vk_device & ggml_vk_get_device(int) { return the_device; }
struct ggml_backend_vk_device_context { int device; };
static uint64_t vk_tensor_offset(const ggml_tensor *) { return 0; }
static constexpr uint32_t num_argsort_pipelines = 11, num_topk_pipelines = 11;
"""  # noqa: E501
_SYCL = """
#define WARP_SIZE 16
#define SYCL_SOLVE_TRI_MAX_N 64
#define SYCL_SOLVE_TRI_MAX_K 64
struct ggml_backend_sycl_device_context { int device; };
static bool ggml_sycl_flash_attn_ext_supported(int, const ggml_tensor *) { return true; }
"""
_METAL = """
struct property_rules {
    bool has_simdgroup_mm = true, has_simdgroup_reduction = true, has_bfloat = true;
    size_t max_theadgroup_memory_size = 32768;
};
struct device_rules { property_rules props; };
"""


def _asked(function: str, context: str) -> str:
    """A function that asks `function` about an operation on the usual device."""
    return f"""
static bool has_kernel(const ggml_tensor * op) {{
    {context} context = {{}};
    return {function}(&context, op);
}}
"""


def kernels(ggml: Path) -> str:
    """The functions `cuda_kernels::has_kernel` and so on, of operations (`const ggml_tensor *`)."""
    src = ggml / "src"
    index = source(src / "ggml-cuda/lightning-indexer.cu")
    cuda = source(src / "ggml-cuda/ggml-cuda.cu")
    vulkan = source(src / "ggml-vulkan/ggml-vulkan.cpp")
    types = source(src / "ggml-vulkan/ggml-vulkan-types.h")
    sycl = source(src / "ggml-sycl/ggml-sycl.cpp")
    metal = source(src / "ggml-metal/ggml-metal-device.m")
    indexed = re.search(
        r"static constexpr std::array<ggml_type, \d+> lightning_indexer_k_types.*?;",
        types,
        re.DOTALL,
    )
    if indexed is None:
        raise LookupError("lightning_indexer_k_types")
    parts = {
        "cuda": _CUDA
        + cut(source(src / "ggml-cuda/fwht.cu"), r"^bool ggml_cuda_op_mul_mat_use_fwht\(")
        + cut(index, r"^bool ggml_cuda_lightning_indexer_supported\(")
        + _of_context(cut(cuda, r"^static bool ggml_backend_cuda_device_supports_op\("))
        + _asked("ggml_backend_cuda_device_supports_op", "ggml_backend_cuda_device_context"),
        "vulkan": _VULKAN
        + indexed[0]
        + cut(vulkan, r"^bool ggml_vk_lightning_indexer_k_type_supported\(")
        + cut(vulkan, r"^bool ggml_vk_concat_supported\(")
        + cut(vulkan, r"^(static )?bool ggml_vk_dim01_contiguous\(")
        + _of_context(cut(vulkan, r"^static bool ggml_backend_vk_device_supports_op\("))
        + _asked("ggml_backend_vk_device_supports_op", "ggml_backend_vk_device_context"),
        "sycl": _SYCL
        + _of_context(cut(sycl, r"^static bool do_ggml_backend_sycl_device_supports_op\("))
        + _asked("do_ggml_backend_sycl_device_supports_op", "ggml_backend_sycl_device_context"),
        "metal": _METAL
        + cut(metal, r"^static bool ggml_metal_supports_mul_mat_op\(")
        + cut(metal, r"^bool ggml_metal_device_supports_op\(")
        .replace("ggml_metal_device_t dev", "device_rules * dev")
        .replace("bool ggml_metal_device", "static bool ggml_metal_device", 1)
        + _asked("ggml_metal_device_supports_op", "device_rules"),
    }  # fmt: skip
    return "".join(f"namespace {name}_kernels {{{text}}}\n" for name, text in parts.items())


def _of_context(function: str) -> str:
    """The function with its device's context in place of the device."""
    function = re.sub(r"ggml_backend_dev_t dev\b", "void * dev", function)
    return re.sub(r"\bdev->context", "dev", re.sub(r"(GGML_)?UNUSED\(dev\);", "", function))
