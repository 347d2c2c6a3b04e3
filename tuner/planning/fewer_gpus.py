"""Machines without a GPU that may cost a plan more than it gives.

A GPU that has room for hardly anything still takes its driver's memory and compute buffers, and a
split over several needs copies of what passes between them, so that the rest would do better alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tuner.machine.machine import Device, Machine
from tuner.planning.plan import Candidate
from tuner.planning.search import Search
from tuner.planning.solver import Solver
from tuner.units import seconds_text
from tuner.wishes import Wishes

# A GPU with more of the model than this part of its budget is never in the way.
HARDLY_USED = 0.25


def with_fewer_gpus(
    solver: Solver, wishes: Wishes, chosen: Candidate | None
) -> Iterator[tuple[Solver, Device]]:
    """Solvers of this machine without one of the GPUs that `chosen` hardly uses, and that GPU, as
    far as they could score better; none where the wishes say what the GPUs get."""
    machine, fixed = solver.machine, wishes.n_gpu_layers
    if wishes.tensor_split is not None or solver.fitting.estimator.extra:
        return
    for i, gpu in enumerate(machine.gpus):
        used = chosen.footprint.uses[i].weights if chosen else 0
        if used > HARDLY_USED * gpu.budget or (fixed and len(machine.gpus) == 1):
            continue
        fewer = solver.on(without(machine, gpu))
        if chosen is None or Search(fewer, wishes).bound > chosen.score:
            yield fewer, gpu


def without(machine: Machine, gpu: Device) -> Machine:
    """The machine with one GPU left alone."""
    kept = tuple(other for other in machine.gpus if other != gpu)
    return replace(machine, gpus=kept, unusable=(*machine.unusable, gpu))


def left_out_text(gpu: Device, without_it: Candidate, with_it: Candidate | None) -> str:
    """Why a GPU is left alone."""
    text = f"{gpu.id} ({gpu.name}) is left out: it would take more than it gives."
    if with_it is None:
        return f"{text} With it nothing fits."
    said = (f"{c.settings.n_ctx:,} tokens and {seconds_text(c.speed.turn_seconds)} a turn"
            for c in (with_it, without_it))  # fmt: skip
    return f"{text} With it the best would be {', without it it is '.join(said)}."
