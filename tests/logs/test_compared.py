"""Logged loads beside their predictions, on lines that the engine wrote itself: the demo model over
two RPC servers (llama-cpp-python 0.3.36)."""

from __future__ import annotations

import pytest

from tests.support.giants import GEMMA_27B, LLAMA_8B, QWEN_30B_A3B, giant
from tuner.demo import demo_model_path
from tuner.logs.compared import Compared, compared
from tuner.logs.loads import loads_in
from tuner.model.model import read_model
from tuner.wishes import Wishes

# 12 of 31 layers on GPUs, tensor_split 2,1
ENGINE = """\
llama_prepare_model_devices: using device RPC0 (10.0.0.1:5) (unknown id) - 24105 MiB free
llama_prepare_model_devices: using device RPC1 (10.0.0.2:5) (unknown id) - 24105 MiB free
llama_model_loader: loaded meta data with 34 key-value pairs and 272 tensors from m.gguf
print_info: arch                  = llama
print_info: n_layer               = 30
load_tensors: offloaded 12/31 layers to GPU
load_tensors:   CPU_Mapped model buffer size =    92.10 MiB
load_tensors: RPC0[10.0.0.1:5] model buffer size =    16.91 MiB
load_tensors: RPC0[10.0.0.2:5] model buffer size =    35.03 MiB
llama_context: n_seq_max             = 1
llama_context: n_ctx                 = 4096
llama_context: n_ubatch              = 512
llama_context: flash_attn            = disabled
llama_context: n_outputs_max         = 512
llama_kv_cache:        CPU KV buffer size =    57.00 MiB
llama_kv_cache: RPC0[10.0.0.1:5] KV buffer size =    24.00 MiB
llama_kv_cache: RPC0[10.0.0.2:5] KV buffer size =     9.00 MiB
llama_kv_cache: size =   90.00 MiB (  4096 cells,  30 layers,  1/1 seqs), K (f16):   45.00 MiB, \
V (f16):   45.00 MiB
sched_reserve: RPC0[10.0.0.1:5] compute buffer size =    85.26 MiB
sched_reserve: RPC0[10.0.0.2:5] compute buffer size =    98.25 MiB
sched_reserve:        CPU compute buffer size =    86.38 MiB
"""
BUFFERS = "".join(line for line in ENGINE.splitlines(keepends=True) if "buffer size" in line)


def _compared(text: str, wishes: Wishes | None = None, model: str = "") -> Compared:
    [load] = loads_in(text.splitlines())
    its = giant(model) if model else read_model(demo_model_path())
    return compared(its, load, wishes or Wishes())


def test_a_load_of_the_engine_is_what_is_predicted() -> None:
    """Every buffer of every device; how the layers were split, which no line says, follows from
    the sizes."""
    found = _compared(ENGINE)
    assert [(f.device, f.kind) for f in found.figures if not f.exact] == []
    assert {f.device for f in found.figures} == {"RPC0", "RPC1", "host"}
    assert len(found.figures) == 9
    assert found.settings is not None
    assert found.settings.tensor_split == (8, 4)
    assert found.assumed == ("layers split 8, 4, which comes closest",)


def test_what_a_log_lacks_follows_from_its_sizes_or_is_the_user_s_wish() -> None:
    """Buffers alone: layers, split and context are found; wishes say what no size does."""
    found = _compared(BUFFERS, Wishes(n_ubatch=512, flash_attn="off"))
    assert all(f.exact for f in found.figures)
    assert found.settings is not None
    assert (found.settings.n_ctx, found.settings.n_gpu_layers, found.n_outputs) == (4096, 12, 512)
    assert "12 of 31 layers on GPUs, which comes closest" in found.assumed
    assert "a context of 4,096 tokens, by the size of the cache" in found.assumed
    assert not any("n_ubatch" in words or "flash" in words for words in found.assumed)
    assumed = _compared(BUFFERS).assumed
    assert {"n_ubatch 512", "K f16, V f16", "flash attention on"} <= set(assumed)


def test_a_log_that_is_cut_is_compared_as_far_as_it_goes() -> None:
    """Behind the weights, or in the midst of them: a device of which no line is left has none."""
    weights = ENGINE.partition("llama_kv_cache")[0]
    found = _compared(weights)
    assert [f.exact for f in found.figures] == [True] * 3
    assert found.assumed == ("layers split 8, 4, which comes closest",)
    assert found.notes == ("The log ends, or is cut, before the compute buffers of this load.",)
    assigned = "".join(
        f"load_tensors: layer {il:3} assigned to device {'CPU' if il < 19 else 'RPC0'}\n"
        for il in range(27)
    ) + "".join(f"load_tensors: layer {il:3} assigned to device RPC1\n" for il in range(27, 31))
    lines = weights.replace("load_tensors: offloaded", f"{assigned}load_tensors: offloaded")
    rows = _compared("".join(x for x in lines.splitlines(True) if "10.0.0.2:5] m" not in x)).figures
    assert [(f.device, f.exact, f.logged is None) for f in rows] == [
        ("RPC0", True, False), ("RPC1", False, True), ("host", True, False)
    ]  # fmt: skip
    among = _compared(ENGINE.partition("sched_reserve:        CPU")[0])
    assert [(f.device, f.kind) for f in among.figures if f.logged is None] == [("host", "compute")]
    assert among.notes == (
        "The log ends, or is cut, before the host's compute buffer of this load.",
    )
    late = "sched_" + ENGINE.partition("sched_")[2]
    assert any("begins" in note for note in _compared(late, Wishes(n_ctx=4096)).notes)


@pytest.mark.parametrize(
    ("slots", "kv"),
    [("1/1", 2560 + 52 * 16), ("4/1", 2560 + 52 * 40), ("4/4", 4 * (640 + 52 * 16))],
)
def test_windows_of_slots_lie_side_by_side(slots: str, kv: int) -> None:
    """gemma3 27B with 32,768 tokens, of which 52 layers see 1,024 and cost 8 KiB per cell: in one
    cache the windows of all slots and a batch (llama-kv-cache-iswa.cpp), in caches of their own
    one window each, for a quarter of the context."""
    n_slots, streams = (int(n) for n in slots.split("/"))
    n_ctx_seq = 32768 // streams
    text = f"""\
load_tensors: offloaded 63/63 layers to GPU
load_tensors:        CUDA0 model buffer size = 15000.00 MiB
llama_context: n_seq_max             = {n_slots}
llama_context: n_ctx                 = 32768
llama_context: n_ctx_seq             = {n_ctx_seq}
llama_context: n_ubatch              = 1024
llama_context: n_outputs_max         = 1
llama_kv_cache:      CUDA0 KV buffer size =  2560.00 MiB
llama_kv_cache: size = 2560.00 MiB ({n_ctx_seq:6} cells,  10 layers,  {slots} seqs), \
K (f16): 1280.00 MiB, V (f16): 1280.00 MiB
sched_reserve:      CUDA0 compute buffer size =   500.00 MiB
"""
    figures = {f.kind: f for f in _compared(text, model=GEMMA_27B).figures if f.device == "CUDA0"}
    assert figures["kv_cache"].predicted == kv << 20


def test_experts_in_ram_are_seen_by_the_weights() -> None:
    """As an -ot or --n-cpu-moe of which the log has no line."""
    text = """\
load_tensors: offloaded 49/49 layers to GPU
load_tensors:          CPU model buffer size =  8700.00 MiB
load_tensors:        CUDA0 model buffer size =  9000.00 MiB
"""
    found = _compared(text, model=QWEN_30B_A3B)
    gpu = next(f for f in found.figures if f.device == "CUDA0")
    assert abs(gpu.predicted / (9000 << 20) - 1) < 0.02
    assert any(words.startswith("experts of ") for words in found.assumed)
    assert "The log ends, or is cut, before the compute buffers of this load." in found.notes


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("print_info: arch                  = qwen3", "another model: qwen3, not llama"),
        ("print_info: n_layer               = 48", "with 48 layers instead of 32"),
        ("load_tensors: offloaded 29/29 layers to GPU", "with 28 layers instead of 32"),
        ("print_info: n_vocab               = 151936", "151,936 tokens in its vocabulary"),
    ],
)
def test_a_log_of_another_model_is_not_compared(line: str, said: str) -> None:
    text = f"{line}\nload_tensors:        CUDA0 model buffer size =  4155.99 MiB\n"
    found = _compared(text, model=LLAMA_8B)
    assert said in found.problem
    assert not found.figures


def test_weights_of_another_quantization_are_said_to_be() -> None:
    text = ENGINE.replace("92.10", "192.10").replace("35.03", "75.03")
    assert any("another quantization" in note for note in _compared(text).notes)


def test_an_older_engine_is_said_to_be() -> None:
    without = "".join(x for x in ENGINE.splitlines(keepends=True) if "n_outputs_max" not in x)
    assert any("older" in note for note in _compared(without).notes)
    assert any("Build 4202" in note for note in _compared("build: 4202 (9)\n" + ENGINE).notes)
    assert not _compared("build: 11300 (9)\n" + without).notes


def test_a_log_cut_amid_the_weights_is_not_of_another_model() -> None:
    """What is there may be a part of them; without a GPU's name there is nothing to compare."""
    one = "load_tensors: offloaded 12/31 layers to GPU\n"
    host = "load_tensors:   CPU_Mapped model buffer size =    28.00 MiB\n"
    gpu = "load_tensors:        CUDA0 model buffer size =    20.00 MiB\n"
    assert "before the GPUs' buffers" in _compared(one + host).problem
    assert not any("another" in note for note in _compared(one + host + gpu).notes)
