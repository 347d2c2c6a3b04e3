"""What is read out of logs, in the wordings of llama.cpp's versions and of programs around it."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from tuner.logs.files import read_loads
from tuner.logs.loads import LoggedLoad, loads_in
from tuner.units import GIB, MIB

NEW = """\
0.00.600.001 I build_info: b10809-abcdef12
0.00.612.100 I llama_prepare_model_devices: using device CUDA0 (NVIDIA GeForce RTX 3090) \
(0000:01:00.0) - 23860 MiB free
0.00.613.000 I llama_model_loader: loaded meta data with 55 key-value pairs and 753 tensors from m
0.00.613.001 I print_info: arch                  = qwen3
0.00.613.002 I print_info: n_layer               = 36
\x1b[34m0.00.620\x1b[0m load_tensors: offloaded 37/37 layers to GPU
load_tensors:   CPU_Mapped model buffer size =   304.28 MiB
load_tensors:        CUDA0 model buffer size =  2375.91 MiB
llama_context: constructing llama_context
llama_context: n_seq_max             = 4
llama_context: n_ctx                 = 8192
llama_context: n_ctx_seq             = 2048
llama_context: n_ubatch              = 512
llama_context: flash_attn            = auto
llama_context: n_outputs_max         = 4
llama_context:  CUDA_Host  output buffer size =     2.32 MiB
llama_kv_cache:      CUDA0 KV buffer size =   612.00 MiB
llama_kv_cache: size =  612.00 MiB (  2048 cells,  36 layers,  4/4 seqs), K (q8_0):  306.00 MiB, \
V (q8_0):  306.00 MiB
llama_memory_recurrent:      CUDA0 RS buffer size =   149.62 MiB
llama_memory_recurrent: size =  149.62 MiB (     4 cells,  64 layers,  4 seqs  2 rs_seq), R (f32)
llama_context: Flash Attention was auto, set to enabled
sched_reserve:      CUDA0 compute buffer size =    85.01 MiB
sched_reserve:      CUDA0 compute buffer size =    90.01 MiB
sched_reserve:  CUDA_Host compute buffer size =    28.02 MiB
sched_reserve: reserve took 31.16 ms, sched copies = 1
alloc_compute_meta:      CUDA0 compute buffer size =   667.00 MiB
"""

OLD = """\
[llama Info]: build: 4701 (be3bbd62) with MSVC 19.41.34120.0 for x64
[llama Info]: llm_load_tensors: offloaded 41/41 layers to GPU
[llama Info]: llm_load_tensors:        CPU buffer size =  1640.62 MiB
[llama Info]: llm_load_tensors:      CUDA0 buffer size =  5434.38 MiB
[llama Info]: llama_new_context_with_model: n_ctx      = 4096
[llama Info]: llama_new_context_with_model: n_ubatch   = 512
[llama Info]: llama_new_context_with_model: flash_attn = 0
[llama Info]: llama_kv_cache_init:      CUDA0 KV buffer size =  1536.00 MiB
[llama Info]: llama_new_context_with_model: KV self size  = 5120.00 MiB, K (f16): 2560.00 MiB, \
V (f16): 2560.00 MiB
[llama Info]: llama_new_context_with_model:      CUDA0 compute buffer size =   672.01 MiB
"""

SLOG = """\
time=2026-05-09T15:53:08Z level=INFO source=runner.go:1 msg=load request="{Operation:fit \
LoraPath:[] Parallel:1 BatchSize:512 FlashAttention:Enabled KvSize:8192 KvCacheType:q8_0 \
NumThreads:8 GPULayers:33[ID:GPU-1 Layers:33(0..32)] MultiUserCache:false}"
time=2026-05-09T15:53:09Z level=INFO source=device.go:240 msg="model weights" device=CUDA0 \
size="9.9 GiB"
time=2026-05-09T15:53:09Z level=INFO source=device.go:272 msg="total memory" size="9.9 GiB"
time=2026-05-09T15:53:10Z level=INFO source=ggml.go:852 msg="compute graph" nodes=2463 splits=2
time=2026-05-09T15:53:10Z level=INFO source=device.go:240 msg="model weights" device=CUDA0 \
size="5.6 GiB"
time=2026-05-09T15:53:10Z level=INFO source=device.go:251 msg="kv cache" device=CUDA0 \
size="936.0 MiB"
time=2026-05-09T15:53:10Z level=INFO source=device.go:262 msg="compute graph" device=CPU \
size="8 KiB"
time=2026-05-09T15:53:10Z level=INFO source=device.go:272 msg="total memory" size="6.5 GiB"
"""

TABLE = """\
llama_memory_breakdown_print: | memory breakdown [MiB]  | total   free     self   model   context \
  compute       unaccounted |
llama_memory_breakdown_print: |   - CUDA0 (GTX 1080 Ti) | 11165 = 8702 + (10001 =  9814 +     134 \
+      51) + 17592186036877 |
llama_memory_breakdown_print: |   - Host                |                   197 =   166 +       0 \
+      30                   |
"""


def _only(text: str) -> LoggedLoad:
    [load] = loads_in(text.splitlines())
    return load


def _mib(load: LoggedLoad) -> dict[tuple[str, str], float]:
    return {(s.device, s.kind): round(s.size / MIB, 2) for s in load.sizes}


def test_lines_of_today(tmp_path: Path) -> None:
    """As a file with colours and times in front of the lines: buffers, a projector's left out, and
    all that says how the model was loaded."""
    path = tmp_path / "server.log"
    path.write_text(NEW)
    [load] = read_loads(path)
    assert _mib(load) == {
        ("CPU_Mapped", "weights"): 304.28, ("CUDA0", "weights"): 2375.91,
        ("CUDA0", "kv_cache"): 612, ("CUDA0", "recurrent_state"): 149.62,
        ("CUDA0", "compute"): 90.01, ("CUDA_Host", "compute"): 28.02,
    }  # fmt: skip
    stated = load.stated
    assert (stated.build, stated.architecture, stated.n_layer) == (10809, "qwen3", 36)
    assert stated.gpus == {"CUDA0": "NVIDIA GeForce RTX 3090"}
    assert stated.free == {"CUDA0": 23860 * MIB}
    assert (stated.offloaded, stated.n_items, stated.copies) == (37, 37, 1)
    assert (stated.n_ctx, stated.n_ctx_seq, stated.n_ubatch) == (8192, 2048, 512)
    assert (stated.n_seq_max, stated.n_stream, stated.n_outputs_max) == (4, 4, 4)
    assert (stated.type_k, stated.type_v, stated.flash_attn) == ("q8_0", "q8_0", "on")
    assert stated.n_states == 4 * 3


def test_lines_of_old() -> None:
    load = _only(OLD)
    assert _mib(load) == {
        ("CPU", "weights"): 1640.62, ("CUDA0", "weights"): 5434.38,
        ("CUDA0", "kv_cache"): 1536, ("CUDA0", "compute"): 672.01,
    }  # fmt: skip
    stated = load.stated
    assert (stated.build, stated.offloaded, stated.n_ctx) == (4701, 41, 4096)
    assert (stated.type_k, stated.flash_attn, stated.n_outputs_max) == ("f16", "off", None)


def test_ollama_s_own_lines() -> None:
    """Each try of its fit begins anew; sizes have one digit, so that they are less exact."""
    load = _only(SLOG)
    assert _mib(load) == {
        ("CUDA0", "weights"): round(5.6 * 1024, 2), ("CUDA0", "kv_cache"): 936,
        ("CPU", "compute"): 0.01,
    }  # fmt: skip
    assert load.sizes[0].step == GIB // 10
    assert (load.stated.n_ctx, load.stated.n_ubatch, load.stated.offloaded) == (8192, 512, 33)
    assert (load.stated.type_k, load.stated.flash_attn) == ("q8_0", "on")


def test_the_table_counts_where_nothing_else_does() -> None:
    assert _mib(_only(TABLE)) == {
        ("CUDA0", "weights"): 9814, ("CUDA0", "context"): 134, ("CUDA0", "compute"): 51,
        ("Host", "weights"): 166, ("Host", "context"): 0, ("Host", "compute"): 30,
    }  # fmt: skip
    assert _mib(_only(NEW + TABLE)) == _mib(_only(NEW))


def test_loads_contexts_and_tries_are_told_apart() -> None:
    """A second model is a second load; a further context of one model, as a draft's, is not
    compared; what llama.cpp only tried, without weights, is left out."""
    draft = NEW.partition("llama_context: constructing")[2]
    tried = NEW.replace("304.28", "0.00").replace("2375.91", "0.00")
    loads = loads_in((tried + NEW + "constructing llama_context" + draft + OLD).splitlines())
    assert [load.further_contexts for load in loads] == [True, False]
    assert _mib(loads[0]) == _mib(_only(NEW))
    assert [load.stated.build for load in loads] == [10809, 4701]
    assert _only(tried).dry


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_a_log_that_powershell_redirected(mark: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    name = "utf-16-le" if mark == codecs.BOM_UTF16_LE else "utf-16-be"
    path.write_bytes(mark + NEW.replace("\n", "\r\n").encode(name))
    assert _mib(read_loads(path)[0]) == _mib(_only(NEW))


def test_numbers_that_no_engine_writes_are_passed_over() -> None:
    text = NEW.replace("= 8192", "= 99999999999999999999").replace("2375.91", "1.2.3.4")
    load = _only(text.replace("n_ubatch              = 512", "n_ubatch              = 0"))
    assert (load.stated.n_ctx, load.stated.n_ubatch) == (None, None)
    assert ("CUDA0", "weights") not in _mib(load)


def test_a_long_log_is_read_piece_by_piece(tmp_path: Path) -> None:
    """Lines that lie over two pieces count, one without an end does not fill the memory."""
    path = tmp_path / "long.log"
    chat = "slot update_slots: id 0 | task 1 | prompt done\n" * 50_000
    path.write_text("x" * (3 << 20) + "\n" + NEW[:-200] + chat + NEW)
    told: list[int] = []
    first, second = read_loads(path, told.append)
    assert second.line == 1 + NEW[:-200].count("\n") + 50_000 + 2
    assert (first.line, told[-1]) == (3, path.stat().st_size)


def test_a_build_in_colour_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = ("build: 9849 (abc)", "load_tensors:        CUDA0 model buffer size =  4155.99 MiB")
    path.write_text("".join(f"\x1b[32m{line}\x1b[0m\n" for line in lines))
    (load,) = read_loads(path)
    assert load.stated.build == 9849
