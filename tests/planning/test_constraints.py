"""What the engine refuses or does badly is said first, with the reason."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import inf
from pathlib import Path
from typing import Any

import pytest

from tests.support import giants
from tests.support.giants import GEMMA_27B, LLAMA_8B, giant
from tests.support.headers import machine, made_up, real_model
from tuner.machine.backends import BACKENDS
from tuner.machine.machine import Pace
from tuner.memory.cache_types import CACHE_TYPES
from tuner.planning.constraints import converts_cache, notes, refusal
from tuner.planning.planner import make_plan
from tuner.planning.solver import Solver
from tuner.settings import Settings
from tuner.wishes import Wishes


def _refusal(model: Any, backend: str = "RPC", **kw: Any) -> str | None:
    return refusal(model, Settings(4096, n_gpu_layers=99, **kw), machine(1, backend))


def test_quantized_v_needs_flash_attention(tmp_path: Path) -> None:
    model = made_up(tmp_path / "m.gguf")
    assert "flash attention" in (_refusal(model, type_v="q8_0", flash_attn="off") or "")
    assert _refusal(model, type_k="q8_0", flash_attn="off") is None
    assert _refusal(model, type_v="q8_0", flash_attn="auto") is None


def test_grok_never_has_flash_attention(tmp_path: Path) -> None:
    model = made_up(tmp_path / "m.gguf", "grok")
    assert "grok" in (_refusal(model, type_v="q4_0") or "")
    assert _refusal(model) is None
    assert any("without flash attention" in n for n in notes(model, Settings(512), machine()))


@pytest.mark.parametrize("flash_attn", ["on", "off"])
def test_heads_must_fill_whole_blocks(tmp_path: Path, flash_attn: str) -> None:
    """Also without flash attention, where the engine checks nothing and reads wrong data."""
    model = made_up(tmp_path / "m.gguf", head=40)
    assert "blocks of 32" in (_refusal(model, type_k="q8_0", flash_attn=flash_attn) or "")
    assert _refusal(model, flash_attn=flash_attn) is None


def test_latent_attention_has_one_type() -> None:
    model = real_model("deepseek2-moe.gguf")
    assert "same type" in (_refusal(model, type_k="q8_0", type_v="q4_0") or "")
    assert _refusal(model, type_k="q8_0", type_v="q8_0") is None


def test_cuda_has_no_kernel_for_iq4_nl(tmp_path: Path) -> None:
    model = made_up(tmp_path / "m.gguf")
    assert "CPU" in (_refusal(model, "CUDA", type_k="iq4_nl", type_v="iq4_nl") or "")
    assert _refusal(model, "Vulkan", type_k="iq4_nl", type_v="iq4_nl") is None


def test_metal_wants_equal_types(tmp_path: Path) -> None:
    model = made_up(tmp_path / "m.gguf")
    assert "equal types" in (_refusal(model, "Metal", type_k="q8_0", type_v="q4_0") or "")


def test_what_runs_on_the_cpu_is_refused_with_what_does_not(tmp_path: Path) -> None:
    """CANN has kernels for f16 alone, Vulkan none for bf16 beside another type; what the sentence
    names instead is not refused."""
    model = made_up(tmp_path / "m.gguf", head=64)
    assert "choose f16" in (_refusal(model, "CANN", type_k="q8_0", type_v="q8_0") or "")
    said = _refusal(model, "Vulkan", type_k="bf16", type_v="q8_0") or ""
    assert said.endswith("choose bf16 for both.")
    assert _refusal(model, "Vulkan", type_k="bf16", type_v="bf16") is None
    for name in GPU_BACKENDS:
        for kind in BACKENDS[name].types_without_kernel:
            other = (_refusal(model, name, type_k=kind, type_v=kind) or "").split("choose ")[1]
            instead = other.rstrip(".")
            assert _refusal(model, name, type_k=instead, type_v=instead) is None


def test_unknown_types_are_named(tmp_path: Path) -> None:
    assert "q3_k is no type" in (_refusal(made_up(tmp_path / "m.gguf"), type_k="q3_k") or "")


def test_states_take_any_type() -> None:
    """A model without a cache is not bothered by cache types."""
    assert _refusal(real_model("mamba-dense.gguf"), type_v="q4_0", flash_attn="off") is None


SLOW = "copies the whole cache to f16"


def test_what_cuda_copies_to_f16_is_noted(tmp_path: Path) -> None:
    """Every pair but the equal ones that default builds have kernels for; bf16 has one where each
    head has a cache of its own."""
    model = made_up(tmp_path / "m.gguf", n_head=4, n_head_kv=4)
    slow = {
        (k, v)
        for k in CACHE_TYPES
        for v in CACHE_TYPES
        if any(
            SLOW in note
            for note in notes(
                model, Settings(512, type_k=k, type_v=v, n_gpu_layers=9), machine(1, "CUDA")
            )
        )
    }
    fast = {(t, t) for t in ("f16", "bf16", "q8_0", "q4_0")}
    assert slow == {(k, v) for k in CACHE_TYPES for v in CACHE_TYPES} - fast


@pytest.mark.parametrize(("head", "copied"), [(64, False), (128, False), (96, True), (80, True)])
def test_heads_without_a_kernel_for_one_token_are_copied_whatever_the_pair(
    tmp_path: Path, head: int, copied: bool
) -> None:
    """phi-3's of 96 for one: q8_0 saves memory there, and costs speed in long conversations."""
    model = made_up(tmp_path / "m.gguf", head=head)
    said = notes(model, Settings(512, "q8_0", "q8_0", 9), machine(1, "CUDA"))
    assert any(SLOW in note for note in said) == copied
    assert notes(model, Settings(512, n_gpu_layers=9), machine(1, "CUDA")) == ()
    if copied:
        assert any(note.endswith("f16 for both has no such cost.") for note in said)


def test_a_latent_cache_is_copied_unless_it_is_f16() -> None:
    """DeepSeek's rows of 576 have no kernel for one token, so q8_0 is slow there."""
    model = real_model("deepseek2-moe.gguf")
    assert converts_cache(model, "q8_0", "q8_0", machine(2, "CUDA")) == (True, True)
    assert converts_cache(model, "f16", "f16", machine(1, "CUDA")) == (False,)
    assert converts_cache(model, "q8_0", "q8_0", machine(1, "Metal")) == (False,)


def test_the_types_that_a_note_names_have_no_note(tmp_path: Path) -> None:
    """Over backends and pairs: what is offered instead is read as it is, and not refused."""
    model = made_up(tmp_path / "m.gguf", head=64)
    offered = 0
    for name, k, v in product(GPU_BACKENDS, CACHE_TYPES, CACHE_TYPES):
        for note in notes(model, Settings(512, k, v, 9), machine(1, name)):
            if SLOW not in note:
                continue
            named = note.rsplit(". ", 1)[-1].split(" for both")[0].replace(" or ", ", ").split(", ")
            for other in named:
                offered += 1
                instead = Settings(512, other, other, 9)
                assert refusal(model, instead, machine(1, name)) is None
                assert notes(model, instead, machine(1, name)) == ()
    assert offered


GPU_BACKENDS = [name for name in BACKENDS if name != "CPU"]


@pytest.mark.parametrize("architecture", ["llama", "grok"])
@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_what_is_warned_of_as_slow_is_priced_and_nothing_else(
    tmp_path: Path, backend: str, architecture: str
) -> None:
    """In the seconds of a token, against a cache of f16, for every pair of types; but for the
    host, whose attention has its own price for each."""
    model = made_up(tmp_path / "m.gguf", architecture)
    speeds = {"bandwidth": 1e12, "flops": 1e13, "pcie_bandwidth": 1e10}
    where = machine(1, backend, **speeds)
    no_time = Pace(attention=inf)
    where = replace(where, host=replace(where.host, bandwidth=4e10, pace=no_time))
    solver = Solver(model, where)
    for k, v, layers, flash in product(CACHE_TYPES, CACHE_TYPES, (0, 2, 99), ("on", "off")):
        settings = Settings(4096, k, v, layers, flash_attn=flash)
        f16 = replace(settings, type_k="f16", type_v="f16")
        ours, plain = (solver.decode_seconds(s, 2048, len(where.gpus)) for s in (settings, f16))
        warned = any(SLOW in note for note in notes(model, settings, where))
        assert warned == (ours > plain), settings


@pytest.mark.parametrize("backend", ["CUDA", "ROCm", "MUSA"])
def test_all_that_is_built_from_cuda_is_slow_with_the_same_pairs(
    tmp_path: Path, backend: str
) -> None:
    model = made_up(tmp_path / "m.gguf")
    settings = Settings(4096, "q8_0", "q4_0", 99)
    assert any(
        f"A default {backend} build" in n for n in notes(model, settings, machine(1, backend))
    )
    assert f"{backend} has no" in (_refusal(model, backend, type_k="iq4_nl", type_v="iq4_nl") or "")


def test_odd_heads_and_long_contexts_are_noted(tmp_path: Path) -> None:
    model = made_up(tmp_path / "m.gguf", head=48)
    found = " ".join(notes(model, Settings(16384, n_gpu_layers=9), machine(1, "CUDA")))
    assert "heads of 48" in found
    assert "trained for" in found


@pytest.mark.parametrize("n_gpus", [0, 1])
def test_one_fact_is_told_once(tmp_path: Path, n_gpus: int) -> None:
    """Whoever chose the settings and whoever notes what is odd about them."""
    model = made_up(tmp_path / "m.gguf", head=48)
    wishes = Wishes(n_ctx=16384, type_k="f16", type_v="f16", n_gpu_layers=2, n_cpu_moe=1)
    said = make_plan(model, giants.machine(*[giants.gpu(8)] * n_gpus), wishes).warnings
    assert sum("trained for" in warning for warning in said) == 1
    assert sum("16,384" in warning or "16384" in warning for warning in said) == 1
    for fact in ("heads of 48", "--gpu-layers", "--n-cpu-moe"):
        assert sum(fact in warning for warning in said) <= 1
    assert len(said) > 2


def test_ordinary_settings_have_no_notes(tmp_path: Path) -> None:
    model = made_up(tmp_path / "m.gguf")
    assert notes(model, Settings(4096, n_gpu_layers=99), machine(1, "CUDA")) == ()


def test_an_architecture_that_is_not_known_is_noted(tmp_path: Path) -> None:
    """Its memory goes by the general rule."""
    model = made_up(tmp_path / "m.gguf", "brand-new")
    (note,) = notes(model, Settings(512), machine())
    assert "brand-new is not an architecture of llama.cpp" in note
    assert "general rule" in note


def test_a_full_window_cache_is_noted() -> None:
    """Only of a model that has windows."""
    windowed = giant(GEMMA_27B)
    assert any("swa_full" in n for n in notes(windowed, Settings(512, swa_full=True), machine()))
    assert notes(giant(LLAMA_8B), Settings(512, swa_full=True), machine()) == ()
