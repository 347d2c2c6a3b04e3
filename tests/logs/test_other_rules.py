"""Of which engines it is known that their compute buffers followed other rules."""

from __future__ import annotations

from datetime import date

import pytest

from tests.support.giants import LLAMA_8B, QWEN_30B_A3B, giant
from tuner.logs.other_rules import built_on, other_rule
from tuner.machine.machine import Device
from tuner.settings import Settings


@pytest.mark.parametrize(
    ("build", "day"),
    [
        (9453, date(2026, 6, 1)),
        (9849, date(2026, 7, 2)),  # llama.cpp of 07-05 gives its sizes
        (11258, date(2026, 10, 2)),  # past the last that is known
        (999_999, date(2183, 2, 20)),
    ],
)
def test_the_day_of_a_build_lies_between_known_ones(build: int, day: date) -> None:
    assert built_on(build) == day


@pytest.mark.parametrize(
    ("backend", "card", "model", "cache", "built", "words"),
    [
        ("CUDA", "", LLAMA_8B, "f16", date(2026, 6, 1), "masks"),
        ("CUDA", "", LLAMA_8B, "f16", date(2026, 7, 1), ""),
        ("CUDA", "", QWEN_30B_A3B, "f16", date(2026, 9, 1), "experts"),
        ("CUDA", "", QWEN_30B_A3B, "f16", date(2026, 9, 2), ""),
        ("Vulkan", "", LLAMA_8B, "f16", date(2026, 7, 1), "ordered"),
        ("Vulkan", "", LLAMA_8B, "f16", date(2026, 10, 1), ""),
        ("ROCm", "AMD Radeon 8060S Graphics", LLAMA_8B, "f16", date(2026, 9, 2), "inputs"),
        ("ROCm", "AMD Radeon 8060S Graphics", LLAMA_8B, "f16", date(2026, 7, 15), ""),
        ("ROCm", "AMD Radeon RX 7900 XTX", LLAMA_8B, "f16", date(2026, 9, 2), ""),
        ("SYCL", "", LLAMA_8B, "f16", date(2026, 8, 30), "attention"),
        ("SYCL", "", LLAMA_8B, "f16", date(2026, 9, 18), ""),
        ("Metal", "", LLAMA_8B, "q8_0", date(2026, 8, 1), "cache"),
        ("Metal", "", LLAMA_8B, "f16", date(2026, 8, 1), ""),
    ],
)
def test_rules_are_of_a_time_and_of_some_loads(
    backend: str, card: str, model: str, cache: str, built: date, words: str
) -> None:
    gpu = Device("GPU0", "gpu", backend, card, 1 << 40, 1 << 40, 0)
    rule = other_rule(giant(model), gpu, Settings(4096, cache, cache), built)
    assert (words in rule.what) if rule and words else (rule is None) == (not words)


@pytest.mark.parametrize(("build", "old"), [(10680, True), (10681, False)])
def test_a_build_is_told_from_the_next_by_its_number(build: int, old: bool) -> None:
    gpu = Device("GPU0", "gpu", "SYCL", "", 1 << 40, 1 << 40, 0)
    rule = other_rule(giant(LLAMA_8B), gpu, Settings(4096), built_on(build), build)
    assert (rule is not None) == old
