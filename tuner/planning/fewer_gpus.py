"""Machines without a GPU that may cost a plan more than it gives.

A GPU that has room for hardly anything still takes its driver's memory and compute buffers, and a
split over several needs copies of what passes between them, so that the rest would do better alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from tuner.machine.machine import Device, Machine
from tuner.planning.plan import Candidate
from tuner.planning.search import Search
from tuner.planning.solver import Solver
from tuner.settings import OnGpus, Settings
from tuner.units import seconds_text
from tuner.wishes import Wishes

# A GPU with more of the model than this part of its budget is never in the way.
HARDLY_USED = 0.25


def with_fewer_gpus(
    solver: Solver, wishes: Wishes, chosen: Candidate | None
) -> Iterator[tuple[Solver, tuple[Device, ...]]]:
    """Solvers of this machine without the GPUs that `chosen` hardly uses, all of them, all but one
    or one, and these GPUs, as far as they could score better; none where the wishes say what the
    GPUs get."""
    machine = solver.machine
    if wishes.tensor_split is not None or solver.fitting.estimator.extra:
        return
    weights = [use.weights for use in chosen.footprint.uses] if chosen else [0] * len(machine.gpus)
    used = dict(zip((gpu.id for gpu in machine.gpus), weights, strict=False))
    idle = tuple(gpu for gpu in machine.gpus if used[gpu.id] <= HARDLY_USED * gpu.budget)
    most = max(idle, key=lambda gpu: used[gpu.id], default=None)
    # What several devices cost the others is often saved only where none of them is left.
    sets = (tuple(gpu for gpu in idle if gpu != most), idle, *((gpu,) for gpu in idle))
    tried: set[tuple[Device, ...]] = set()
    for gpus in sets:
        if not gpus or (wishes.n_gpu_layers and len(gpus) == len(machine.gpus)):
            continue
        left = without(machine, gpus)
        alike = tuple(
            replace(gpu, id="", engine_name="", device_id="", uuid="") for gpu in left.gpus
        )
        if alike in tried:
            continue  # which of equal cards is left out makes no difference
        tried.add(alike)
        fewer = solver.on(left)
        if chosen is None or Search(fewer, wishes).bound > chosen.score:
            yield fewer, gpus


def without(machine: Machine, gpus: Collection[Device]) -> Machine:
    """The machine with some GPUs left alone."""
    kept = tuple(gpu for gpu in machine.gpus if gpu not in gpus)
    return replace(machine, gpus=kept, unusable=(*machine.unusable, *gpus))


def with_only(machine: Machine, settings: Settings) -> Machine:
    """The machine with the GPUs that settings are for (`OnGpus`), the others left alone."""
    if not isinstance(settings, OnGpus):
        return machine
    return without(machine, [gpu for gpu in machine.gpus if gpu.id not in settings.gpus])


def left_out_text(
    gpus: Sequence[Device], without_them: Candidate, with_them: Candidate | None
) -> str:
    """Why GPUs are left alone."""
    names = " and ".join(f"{gpu.id} ({gpu.name})" for gpu in gpus)
    if len(gpus) == 1:
        text, them = f"{names} is left out: it would take more than it gives.", "it"
    else:
        text, them = f"{names} are left out: they would take more than they give.", "them"
    if with_them is None:
        return f"{text} With {them} nothing fits."
    said = (f"{c.settings.n_ctx:,} tokens and {seconds_text(c.speed.turn_seconds)} a turn"
            for c in (with_them, without_them))  # fmt: skip
    return f"{text} With {them} the best would be {f', without {them} it is '.join(said)}."
