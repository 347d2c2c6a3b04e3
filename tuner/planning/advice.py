"""What would help beside other settings: another quantization of the model, programs closed.

Asked for once a plan is made, since a launch does not wait for it; each answer costs a few
milliseconds, and no more work than a search may do.

    advice = advise(plan, solver)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from tuner.machine.machine import Machine, Process
from tuner.memory.cache_types import HIGH_PRECISION
from tuner.model.model import Model
from tuner.model.quantizations import MIXES, in_mix, is_native
from tuner.planning.alternatives import dominates
from tuner.planning.budgets import Budgets
from tuner.planning.from_disk import FromDisk, from_disk
from tuner.planning.plan import Candidate, Plan
from tuner.planning.solver import MORE_WORK, Solver
from tuner.wishes import Wishes

# Of the size: another quantization that differs by less is none to speak of.
_NOTICEABLE = 0.03


@dataclass(frozen=True, slots=True)
class OtherQuantization:
    """The same model in another quantization."""

    name: str  # "Q3_K_M"
    size_bytes: int  # of the file, about
    whole: bool  # on the GPUs, and with the wished context
    candidate: Candidate  # the best plan for it


@dataclass(frozen=True, slots=True)
class WithoutProcess:
    """The best plan once another program is closed."""

    name: str
    pid: int
    used: tuple[tuple[str, int], ...]  # bytes that it holds, by Device.id
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Advice:
    """What would help; None where nothing of the kind would."""

    smaller: OtherQuantization | None = None  # whole, or, where nothing fits, the largest to fit
    larger: OtherQuantization | None = None  # for a plan that is whole: the largest still so
    without_process: WithoutProcess | None = None
    from_disk: FromDisk | None = None  # where nothing fits: what a load would read all the same


def advise(plan: Plan, solver: Solver) -> Advice:
    """What would help this plan; `solver` is the one that made it."""
    asked = solver.hurried()
    chosen = plan.chosen
    if not chosen.fits:
        return Advice(
            smaller=_first(_fitting(asked, plan.wishes)),
            without_process=_without_process(asked, plan),
            from_disk=from_disk(asked, plan.wishes),
        )
    aimed = chosen.settings.n_ctx >= asked.objective(plan.wishes).wished_context
    whole = _is_whole(asked, chosen)
    wanted = whole and aimed
    return Advice(
        smaller=None if wanted else _first(_whole(asked, plan.wishes, _smaller(plan.model))),
        larger=_first(_whole(asked, plan.wishes, _larger(plan.model))) if wanted else None,
        without_process=_without_process(asked, plan),
    )


def _first(found: Iterator[OtherQuantization]) -> OtherQuantization | None:
    return next(found, None)


# ------------------------------------------------------------------ other quantizations


def _mixed(model: Model) -> list[Model]:
    """The model in every quantization that is of use, from the largest to the smallest."""
    if is_native(model):
        return []
    return [in_mix(model, mix) for mix in MIXES if model.n_params >= mix.least_params]


def _smaller(model: Model) -> list[Model]:
    most = model.size_bytes * (1 - _NOTICEABLE)
    return [other for other in _mixed(model) if other.size_bytes < most]


def _larger(model: Model) -> list[Model]:
    least = model.size_bytes * (1 + _NOTICEABLE)
    return [other for other in _mixed(model) if other.size_bytes > least]


def _whole(solver: Solver, wishes: Wishes, others: Iterable[Model]) -> Iterator[OtherQuantization]:
    """Those that are whole on the GPUs with the wished context and a cache as precise as anybody
    wants; nothing where the user wants layers elsewhere."""
    if not solver.machine.gpus or wishes.n_gpu_layers is not None or wishes.n_cpu_moe is not None:
        return
    wished = replace(wishes, n_gpu_layers=solver.n_items, n_cpu_moe=0)
    n_ctx = solver.objective(wishes).wished_context
    low_is_wished = {wishes.type_k, wishes.type_v} != {None}
    for other, found in _planned(solver, others, wished):
        precise = {found.settings.type_k, found.settings.type_v} <= HIGH_PRECISION
        if found.settings.n_ctx >= n_ctx and (precise or low_is_wished):
            yield OtherQuantization(other.quantization, other.size_bytes, True, found)


def _fitting(solver: Solver, wishes: Wishes) -> Iterator[OtherQuantization]:
    """Those that fit at all, where this one does not."""
    for other, found in _planned(solver, _smaller(solver.model), wishes):
        whole = _is_whole(solver, found)
        yield OtherQuantization(other.quantization, other.size_bytes, whole, found)


def _planned(
    solver: Solver, others: Iterable[Model], wishes: Wishes
) -> Iterator[tuple[Model, Candidate]]:
    """Of other models those that fit within the same budgets, with the best plan by exact
    footprints; all together take no more work than one more question to the solver."""
    left = MORE_WORK
    for other in others:
        its = Solver(other, solver.machine).calibrated(solver.speed.calibration)
        found = its.with_budgets(solver.budgets).hurried(left).confirmed(wishes)[1]
        if found and found.fits:
            yield other, found
        left -= its.work.steps
        if left <= 0:
            return


def _is_whole(solver: Solver, candidate: Candidate) -> bool:
    s = candidate.settings
    return bool(solver.machine.gpus) and solver.whole(s.n_gpu_layers, s.n_cpu_moe)


# ------------------------------------------------------------------ other programs


def _without_process(solver: Solver, plan: Plan) -> WithoutProcess | None:
    """The best plan with the program closed that holds most of the GPUs' memory, where it is
    better."""
    largest = _largest(plan.machine.processes)
    if not largest:
        return None
    freed = Budgets.of(_without(plan.machine, largest))
    gain = [a - b for a, b in zip(freed.limits, Budgets.of(plan.machine).limits, strict=True)]
    more = solver.with_budgets(solver.budgets.less([-x for x in gain]))
    found = more.confirmed(plan.wishes)[1]
    if found is None or not found.fits or not _better(found, plan.chosen):
        return None
    used = tuple((process.device, process.used) for process in largest)
    return WithoutProcess(largest[0].name, largest[0].pid, used, found)


def _better(found: Candidate, chosen: Candidate) -> bool:
    return not chosen.fits or dominates(found, chosen)


def _largest(processes: Iterable[Process]) -> list[Process]:
    """What the process that holds most has on each GPU."""
    of: dict[int, list[Process]] = {}
    for process in processes:
        of.setdefault(process.pid, []).append(process)
    return max(of.values(), key=lambda its: sum(p.used for p in its), default=[])


def _without(machine: Machine, closed: Iterable[Process]) -> Machine:
    """The machine once a process is gone."""
    used = {process.device: process.used for process in closed}
    gpus = [
        replace(gpu, free=min(gpu.total, gpu.free + used.get(gpu.id, 0))) for gpu in machine.gpus
    ]
    return replace(machine, gpus=tuple(gpus))
