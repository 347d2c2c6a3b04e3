"""What would help beside other settings: another quantization of the model, programs closed.

Asked for once a plan is made, since a launch does not wait for it; each answer costs a few
milliseconds, and no more work than a search may do.

    advice = advise(plan, solver)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import log

from tuner.machine.machine import Machine, Process
from tuner.machine.usable import usable
from tuner.model.model import Model
from tuner.model.quantizations import MIXES, in_mix, is_native, tensors_of
from tuner.planning.alternatives import dominates
from tuner.planning.budgets import Budgets
from tuner.planning.from_disk import FromDisk, from_disk
from tuner.planning.plan import Candidate, Plan
from tuner.planning.solver import MORE_WORK, Solver
from tuner.wishes import Wishes

# Of the size: another quantization that differs by less is none to speak of.
_NOTICEABLE = 0.03
MOST_TENSORS = 10_000  # ten times as many as the largest models have
_MUCH = 1.1  # times the effective turns per second
_PRECISE = "q8_0"  # the smallest type of the cache that hardly anybody tells from f16


@dataclass(frozen=True, slots=True)
class OtherQuantization:
    """The same model in another quantization."""

    name: str  # "Q3_K_M"
    size_bytes: int  # of the file, about
    whole: bool  # on the GPUs
    candidate: Candidate  # the best plan for it


@dataclass(frozen=True, slots=True)
class WithoutProcess:
    """The best plan once another program is closed."""

    name: str
    pid: int
    used: tuple[tuple[str, int], ...]  # bytes that it holds, by Device.id
    machine: Machine  # as it is then: a GPU that was left out may be of use
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
            from_disk=from_disk(asked, plan.wishes, chosen),
        )
    long = chosen.settings.n_ctx >= _least_context(asked, plan.wishes)
    whole = _is_whole(asked, chosen)
    wanted = long and whole
    smaller = None if wanted else _first(_whole(asked, plan.wishes, _smaller(plan.model)))
    # The GPUs may be no faster than the host: servers over a network.
    if smaller and not whole and smaller.candidate.speed.turn_seconds > chosen.speed.turn_seconds:
        smaller = None
    return Advice(
        smaller=smaller,
        larger=_first(_whole(asked, plan.wishes, _larger(plan.model))) if wanted else None,
        without_process=_without_process(asked, plan),
    )


def _first(found: Iterator[OtherQuantization]) -> OtherQuantization | None:
    return next(found, None)


# ------------------------------------------------------------------ other quantizations


def _mixed(model: Model) -> Iterator[Model]:
    """The model in every quantization that is of use, from the largest to the smallest."""
    if is_native(model) or len(tensors_of(model)) > MOST_TENSORS:
        return
    for mix in MIXES:
        if model.n_params >= mix.least_params:
            yield in_mix(model, mix)


def _smaller(model: Model) -> Iterator[Model]:
    most = model.size_bytes * (1 - _NOTICEABLE)
    return (other for other in _mixed(model) if other.size_bytes < most)


def _larger(model: Model) -> Iterator[Model]:
    least = model.size_bytes * (1 + _NOTICEABLE)
    return (other for other in _mixed(model) if other.size_bytes > least)


def _whole(solver: Solver, wishes: Wishes, others: Iterable[Model]) -> Iterator[OtherQuantization]:
    """Those that are whole on the GPUs with a context to work with and a cache as precise as
    anybody wants; nothing where the user wants layers elsewhere."""
    if not solver.machine.gpus or wishes.n_gpu_layers is not None or wishes.n_cpu_moe is not None:
        return
    wished = replace(wishes, n_gpu_layers=solver.n_items, n_cpu_moe=0)
    if wishes.type_k is None and wishes.type_v is None:
        wished = replace(wished, type_k=_PRECISE, type_v=_PRECISE)
    for other, found in _planned(solver, others, wished):
        if found.settings.n_ctx >= _least_context(solver, wishes):
            yield OtherQuantization(other.quantization, other.size_bytes, True, found)


def _least_context(solver: Solver, wishes: Wishes) -> int:
    """Tokens that a plan needs to be what one hopes for: half of those that a chat may want, since
    bits of the weights are worth more than the other half, or all that are asked for."""
    return wishes.n_ctx or solver.objective(wishes).wished_context // 2


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
    return bool(solver.machine.gpus) and solver.model.whole(s.n_gpu_layers, s.n_cpu_moe)


# ------------------------------------------------------------------ other programs


def _without_process(solver: Solver, plan: Plan) -> WithoutProcess | None:
    """The best plan with the program closed that holds most of the GPUs' memory, where it is
    better."""
    largest = _largest(plan.machine.processes)
    if not largest or plan.wishes.tensor_split is not None:  # shares of the GPUs that there are
        return None
    machine = _without(plan.machine, largest)
    found = _solver_of(machine, solver, plan).confirmed(plan.wishes)[1]
    if found is None or not found.fits or not _better(found, plan.chosen):
        return None
    used = tuple((process.device, process.used) for process in largest)
    return WithoutProcess(largest[0].name, largest[0].pid, used, machine, found)


def _solver_of(machine: Machine, solver: Solver, plan: Plan) -> Solver:
    """One for the same devices with more memory free, or for others."""
    if len(machine.gpus) != len(plan.machine.gpus):
        return solver.on(machine).hurried()
    free = zip(Budgets.of(machine).limits, Budgets.of(plan.machine).limits, strict=True)
    return solver.with_budgets(solver.budgets.less([now - then for then, now in free]))


def _better(found: Candidate, chosen: Candidate) -> bool:
    """Better in something and worse in nothing that a user notices, or so much faster that it is
    worth what it costs."""
    if not chosen.fits or dominates(found, chosen):
        return True
    return found.score > chosen.score + log(_MUCH)


def _largest(processes: Iterable[Process]) -> list[Process]:
    """What the process that holds most has on each GPU."""
    of: dict[int, list[Process]] = {}
    for process in processes:
        of.setdefault(process.pid, []).append(process)
    return max(of.values(), key=lambda its: sum(p.used for p in its), default=[])


def _without(machine: Machine, closed: Iterable[Process]) -> Machine:
    """The machine once a process is gone."""
    used = {process.device: process.used for process in closed}
    gpus = sorted((*machine.gpus, *machine.unusable), key=lambda gpu: (len(gpu.id), gpu.id))
    freed = [replace(gpu, free=min(gpu.total, gpu.free + used.get(gpu.id, 0))) for gpu in gpus]
    kept, unusable = usable(freed, machine.host)
    return replace(machine, gpus=kept, unusable=unusable)
