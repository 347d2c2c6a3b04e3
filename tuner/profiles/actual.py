"""What a load really took, held against what was predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tuner.memory.footprint import ENGINE_KINDS, Buffer, Footprint
from tuner.memory.mapped_weights import is_mapped, with_mapped_weights
from tuner.memory.reported import reported_footprint
from tuner.planning import Plan

NOTABLE = 0.02  # what is off by more is worth recording


@dataclass(frozen=True, slots=True)
class Actual:
    """What a load really took, beside what was predicted."""

    footprint: Footprint
    expected: Footprint  # the prediction, in the engine's way of counting
    decode_tps: float | None = None
    prompt_tps: float | None = None
    decode_depth: int = 0  # tokens in the cache, halfway, where these were measured
    prompt_depth: int = 0
    vram_growth: tuple[int | None, ...] = ()  # NVML after minus before, per GPU, bytes


def actual_of(
    plan: Plan,
    buffers: Sequence[Buffer],
    use_extra_bufts: bool,
    vram_growth: tuple[int | None, ...],
) -> Actual:
    """The load of `plan.chosen`, of which the engine reported `buffers`. `use_extra_bufts`:
    whether it could run with them."""
    predicted = plan.chosen.footprint
    settings = replace(plan.chosen.settings, use_extra_bufts=use_extra_bufts)
    real = reported_footprint(buffers, plan.machine, predicted, "measured")
    n_gpus = len(plan.machine.gpus)
    expected = predicted
    if any(b.kind == "weights" and is_mapped(b.device) for b in buffers):
        expected = with_mapped_weights(predicted, settings, plan.model, n_gpus)
    return Actual(real, expected, vram_growth=vram_growth)


def differences(predicted: Footprint, actual: Footprint) -> dict[str, float]:
    """What was off by more than `NOTABLE`: "GPU0 compute" -> `off_by`, to four digits."""
    found = {}
    for guess, real in zip(predicted.uses, actual.uses, strict=True):
        for kind in ENGINE_KINDS:
            a, b = getattr(guess, kind), getattr(real, kind)
            if b and abs(off_by(a, b)) > NOTABLE:
                found[f"{guess.device} {kind}"] = round(off_by(a, b), 4)
    return found


def off_by(predicted: float, actual: float) -> float:
    """How wrong a prediction was, as a share of what came: 0.02 is 2 % too much. `actual` > 0."""
    return predicted / actual - 1
