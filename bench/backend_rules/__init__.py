"""A stand-in GPU that has the rules of one of llama.cpp's backends: CUDA's, Vulkan's, Metal's ...

An RPC device (`bench.oracle`) has none of a GPU's own rules: it takes nothing to itself from the
host, leaves graphs as they are, needs no scratch memory. `backend.cpp` is a backend without a
device whose rules are functions cut out of the backends' own sources, as vendored with the engine,
so that the engine's scheduler and allocator give the sizes that they would on such a card.

    library = built(sources)       # a folder with llama.cpp as llama-cpp-python vendors it
    pose_as(library, "Vulkan", 1)  # before a model is loaded, in a process of its own

Needs g++ and the sources (`pip download --no-deps --no-binary :all: llama-cpp-python`); x86-64
Linux. A backend has kernels for whatever its `supports_op` says, but for CANN, whose is not asked.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import subprocess
from pathlib import Path

from bench.backend_rules.kernels import kernels
from bench.cxx import cut, source
from tuner.engine.probe import engine_folder
from tuner.gguf.header import read_header

_HERE = Path(__file__).resolve().parent
NAMES = ("CUDA", "ROCm", "MUSA", "Vulkan", "Metal", "SYCL", "CANN")

_CUDA_SHIMS = """
#define FLASH_ATTN_AVAILABLE
#define FATTN_KQ_STRIDE 256
#define GGML_CUDA_CC_ADA_LOVELACE 890
struct device_rules { int cc; };
struct info_rules { device_rules devices[16]; };
static info_rules ggml_cuda_info() { info_rules r; for (auto & d : r.devices) { d.cc = cc; } return r; }
static bool turing_mma_available(int cc) { return cc >= 750; }
static bool volta_mma_available(int cc) { return cc == 700; }
static bool amd_mfma_available(int) { return false; }
static bool amd_wmma_available(int) { return false; }
static bool ggml_cuda_flash_attn_ext_mma_f16_may_use_sparse(int, int, int, int) { return false; }
static bool ggml_cuda_flash_attn_ext_mma_f16_shall_use_sparse(int, const ggml_tensor *, int, int) { return false; }
"""  # noqa: E501
_SYCL_SHIMS = """
#define GGML_SYCL_DNNL 1
#define GGML_SYCL_FA_ONEDNN_MIN_Q 32
typedef uint16_t half;
namespace sycl { typedef uint16_t half; }
static constexpr size_t SYCL_BUFFER_ALIGNMENT = 128;
static int g_ggml_sycl_fa_onednn = 1;
static int64_t g_ggml_sycl_fa_onednn_max_kv = 0;
enum class gpu_arch { other, intel_gpu_dg2_g10, intel_gpu_dg2_g11, intel_gpu_dg2_g12 };
struct hw_rules { gpu_arch arch; };
struct sycl_device_rules { hw_rules hw_info; };
struct sycl_info_rules { sycl_device_rules devices[1]; };
static sycl_info_rules ggml_sycl_info() { return { { { { gpu_arch::other } } } }; }
static int ggml_sycl_get_device() { return 0; }
"""
_CUDA_ATTENTION = """
static size_t attention_size(const ggml_tensor * t) {
    const bool copied = t->src[0]->ne[1] > 2; // the kernels of prompts read f16
    return ggml_cuda_flash_attn_ext_get_f16_extra_data(t, copied, copied).end - (uintptr_t) t->data;
}
"""


def _pieces(ggml: Path) -> dict[str, str]:
    """The file of each backend's rules."""
    cuda = source(ggml / "src/ggml-cuda/ggml-cuda.cu")
    attention = source(ggml / "src/ggml-cuda/fattn.cu")
    common = source(ggml / "src/ggml-cuda/fattn-common.cuh")
    optimize = cut(cuda, r"^static void ggml_backend_cuda_graph_optimize\(")
    # what follows is another order of the graph, which is off unless an environment variable asks
    optimize = optimize[: optimize.index("ggml_cuda_stream_context & stream_context")] + "}\n"
    topk = source(ggml / "src/ggml-cuda/topk-moe.cu")
    arguments = source(ggml / "src/ggml-cuda/topk-moe.cuh")
    vulkan = source(ggml / "src/ggml-vulkan/ggml-vulkan.cpp")
    vulkan_debug = source(ggml / "src/ggml-vulkan/ggml-vulkan-debug.cpp")
    patterns = source(ggml / "src/ggml-vulkan/ggml-vulkan-types.h")
    ops = source(ggml / "src/ggml-metal/ggml-metal-ops.cpp")
    sycl = source(ggml / "src/ggml-sycl/fattn.cpp")
    onednn = source(ggml / "src/ggml-sycl/fattn-onednn.cpp")
    sycl_types = source(ggml / "src/ggml-sycl/fattn.hpp")
    metal = source(ggml / "src/ggml-metal/ggml-metal.cpp")
    return {
        "kernels.inc": kernels(ggml),
        "cuda.inc": _CUDA_SHIMS
        + cut(arguments, r"^struct ggml_cuda_topk_moe_args \{")
        + cut(topk, r"^bool ggml_cuda_should_use_topk_moe\(")
        + cut(cuda, r"^static bool ggml_cuda_topk_moe_fusion\(")
        + "static constexpr int MOE_WEIGHTED_REDUCTION_MAX_EXPERTS = "
        + re.findall(r"MOE_WEIGHTED_REDUCTION_MAX_EXPERTS = (\d+;)", cuda)[0]
        + cut(cuda, r"^struct ggml_cuda_moe_weighted_reduction_match \{")
        + cut(cuda, r"^static bool ggml_cuda_match_moe_weighted_reduction\(")
        + optimize
        + cut(cuda, r"^static int64_t get_op_batch_size\(")
        + cut(attention, r"^enum best_fattn_kernel \{")
        + cut(attention, r"^static bool ggml_cuda_fattn_kv_type_supported\(")
        + cut(attention, r"^static best_fattn_kernel ggml_cuda_get_best_fattn_kernel\(")
        + cut(common, r"^struct ggml_cuda_flash_attn_ext_f16_extra_data \{")
        + cut(common, r"^static inline \w+ ggml_cuda_flash_attn_ext_get_f16_extra_data\(")
        + _CUDA_ATTENTION,
        "vulkan.inc": "".join(
            cut(patterns, rf"^static constexpr std::initializer_list<ggml_op> {name}\s*\{{")
            for name in re.findall(r"initializer_list<ggml_op> (\w+)", patterns)
        )
        + cut(vulkan, r"^int ggml_vk_unary_mul_op_index\(")
        + cut(vulkan, r"^static bool ggml_vk_can_fuse_unary_mul\(")
        + cut(vulkan_debug, r"^int64_t ggml_vk_get_op_batch_size\(")
        + cut(vulkan, r"^void ggml_vk_graph_optimize\("),
        "sycl.inc": _SYCL_SHIMS
        + cut(sycl_types, r"^struct ggml_sycl_fattn_extra \{")
        + cut(onednn, r"^bool ggml_sycl_fattn_onednn_binds_kv\(")
        + cut(onednn, r"^bool ggml_sycl_flash_attn_ext_onednn_supported\(")
        + cut(sycl, r"^static uintptr_t ggml_sycl_fattn_reserve_halves\(")
        + cut(sycl, r"^ggml_sycl_fattn_extra ggml_sycl_fattn_get_extra\(")
        + cut(sycl, r"^size_t ggml_sycl_flash_attn_ext_get_alloc_size\("),
        "metal.inc": "".join(
            cut(ops, rf"^(static )?(bool|int|size_t|int32_t) {name}\(")
            for name in dict.fromkeys(
                re.findall(
                    r"^(?:static )?(?:bool|int|size_t|int32_t) "
                    r"(ggml_metal_op_(?:mul_mat_id_extra_|flash_attn_ext_)\w+)\(const",
                    ops,
                    re.MULTILINE,
                )
            )
        )
        + cut(metal, r"^static size_t ggml_backend_metal_buffer_type_get_alloc_size\(")
        + cut(metal, r"^static int64_t get_op_batch_size\("),
    }


def built(sources: Path, into: Path) -> Path:
    """The library, built in the folder `into` unless it is there already. `sources`: llama.cpp's
    folder. Raises OSError without sources or compiler, CalledProcessError where they do not fit."""
    ggml = sources / "ggml"
    frame = (_HERE / "backend.cpp").read_text()
    pieces = _pieces(ggml)
    key = hashlib.sha256("".join([frame, *pieces.values()]).encode()).hexdigest()[:16]
    target = into / f"backend-rules-{key}.so"
    if target.exists():
        return target
    into.mkdir(parents=True, exist_ok=True)
    for name, text in pieces.items():
        (into / name).write_text(text)
    metal = ggml / "src/ggml-metal"
    libraries = engine_folder()
    subprocess.run(
        [
            "g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-w", "-o", str(target),
            str(_HERE / "backend.cpp"),
            str(metal / "ggml-metal-common.cpp"), str(metal / "ggml-metal-fusion.cpp"),
            f"-I{into}", f"-I{ggml / 'include'}", f"-I{ggml / 'src'}", f"-I{metal}",
            f"-L{libraries}", "-lggml-base", "-lggml", "-lggml-cpu", f"-Wl,-rpath,{libraries}",
        ],
        check=True,
    )  # fmt: skip
    return target


def _opened(library: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def place_weights(library: Path, model: Path) -> None:
    """Weights count as lying where they do in the file `model`, which is what a load of it maps."""
    place = _opened(library).place
    place.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t]
    place(None, 0, 0)
    for tensor in read_header(model).tensors:
        place(tensor.name.encode(), tensor.part, tensor.offset)


def pose_as(
    library: Path,
    name: str,
    count: int,
    *,
    capability: int = 860,
    integrated: bool = False,
    optimizes: bool = True,
    nodes: Path | None = None,
) -> None:
    """Makes `count` devices with the rules of a backend (of `NAMES`) known to the engine of this
    process. `capability`: CUDA's, times 100; `optimizes`: whether `graph_optimize` runs; `nodes`:
    a file that gets every split of a graph as the backend receives it, what it asks to be kept
    until when, and the order that it leaves."""
    handle = _opened(library)
    path = str(nodes).encode() if nodes else None
    if handle.pose_as(name.encode(), count, capability, integrated, not optimizes, path):
        raise ValueError(f"no rules of {name}")
