"""Until when engines had other rules for their compute buffers than the one that kvchat models.

A log is of any build. Which rule came when is read from llama.cpp's sources as llama-cpp-python
vendors them (2026-06-28, 07-05, 07-11, 08-16 and, modelled, 10-01), from its change history, or
from the first build whose logs hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

from tuner.machine import cards
from tuner.machine.machine import Device
from tuner.memory.cache_types import CACHE_TYPES
from tuner.model.model import Model
from tuner.settings import Settings

_Applies = Callable[[Model, Device, Settings], bool]

# builds, and the days on which people first wrote of them (llama.cpp's issues)
_BUILDS = (
    (8227, date(2026, 3, 9)), (8876, date(2026, 4, 23)), (9292, date(2026, 5, 23)),
    (9453, date(2026, 6, 1)), (9637, date(2026, 6, 16)), (10040, date(2026, 7, 16)),
    (10509, date(2026, 8, 20)), (11011, date(2026, 9, 18)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class OtherRule:
    """A rule that engines followed from one day to another, for some loads."""

    last: date
    what: str  # of the engines until then
    applies: _Applies
    first: date = date.min
    last_build: int | None = None  # where that is known


def _on(*backends: str) -> _Applies:
    return lambda model, gpu, settings: gpu.backend in backends


def _with_experts(*backends: str) -> _Applies:
    return lambda model, gpu, settings: gpu.backend in backends and bool(model.moe_layers)


def _shares_ram(model: Model, gpu: Device, settings: Settings) -> bool:
    row = cards.row_of(gpu.name)
    return gpu.backend == "ROCm" and (gpu.unified or (row is not None and row.unified))


def _quantized(model: Model, gpu: Device, settings: Settings) -> bool:
    types = CACHE_TYPES[settings.type_k], CACHE_TYPES[settings.type_v]
    return gpu.backend == "Metal" and any(t.quantized for t in types)


_RULES = (
    # build 9665: the first whose logs hold
    OtherRule(date(2026, 6, 17), "kept masks as f32 in RAM", lambda *_: True, last_build=9664),
    # ggml-vulkan.cpp of 08-16; of 07-05 it gives what builds of then have logged, to the byte
    OtherRule(date(2026, 8, 16), "ordered a graph otherwise on Vulkan", _on("Vulkan")),
    # restored by #24233, reverted by #28604
    OtherRule(
        date(2026, 9, 8), "read inputs in RAM from GPUs without memory of their own", _shares_ram,
        first=date(2026, 7, 16),
    ),
    # #25952 was not merged yet
    OtherRule(
        date(2026, 9, 1), "kept nothing for experts beyond its turn",
        _with_experts("CUDA", "ROCm", "MUSA"),
    ),
    # #29063
    OtherRule(
        date(2026, 8, 30), "took attention's scratch memory apart on SYCL", _on("SYCL"),
        last_build=10680,
    ),
    # #27390 was opened on 08-19
    OtherRule(date(2026, 8, 18), "had no copy of a quantized cache on Metal", _quantized),
)  # fmt: skip


def built_on(build: int) -> date:
    """The day of a build by its number, give or take some days."""
    pairs = pairwise(_BUILDS)
    (n, day), (next_n, next_day) = next((p for p in pairs if build < p[1][0]), _BUILDS[-2:])
    days = (next_day - day).days * (build - n) / (next_n - n)
    return day + timedelta(days=round(days))


def other_rule(
    model: Model, gpu: Device, settings: Settings, built: date, build: int | None = None
) -> OtherRule | None:
    """The first rule that an engine of this day followed and the modelled one does not. `build`:
    its number, if that is known."""
    for rule in _RULES:
        before = built <= rule.last
        if build is not None and rule.last_build is not None:
            before = build <= rule.last_build
        if before and rule.first <= built and rule.applies(model, gpu, settings):
            return rule
    return None
