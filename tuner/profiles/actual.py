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
    taken: tuple[int | None, ...] = ()  # bytes of each GPU, the driver's share included
    grown: tuple[int | None, ...] = ()  # and more with the first long prompt


def actual_of(
    plan: Plan,
    buffers: Sequence[Buffer],
    use_extra_bufts: bool,
    taken: tuple[int | None, ...],
) -> Actual:
    """The load of `plan.chosen`, of which the engine reported `buffers`, and which took so much of
    each GPU. `use_extra_bufts`: whether it could run with them. Nothing has grown yet."""
    predicted = plan.chosen.footprint
    settings = replace(plan.chosen.settings, use_extra_bufts=use_extra_bufts)
    real = reported_footprint(buffers, plan.machine, predicted, "measured")
    real = replace(real, uses=tuple(replace(use, growth=0) for use in real.uses))
    n_gpus = len(plan.machine.gpus)
    expected = predicted
    if any(b.kind == "weights" and is_mapped(b.device) for b in buffers):
        expected = with_mapped_weights(predicted, settings, plan.model, n_gpus)
    return Actual(real, expected, taken=taken)


def after_growth(actual: Actual, grown: tuple[int | None, ...]) -> Actual:
    """The same load once a long prompt took so much more of each GPU."""
    *gpus, host = actual.footprint.uses
    uses = [replace(use, growth=size or 0) for use, size in zip(gpus, grown, strict=True)]
    return replace(actual, footprint=replace(actual.footprint, uses=(*uses, host)), grown=grown)


def of_gpu(sizes: Sequence[int | None], place: int) -> int | None:
    """What is known of the device at a place in the machine's order, the host among them."""
    return sizes[place] if place < len(sizes) else None


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
