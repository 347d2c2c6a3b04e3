"""Settings tried out by hand: dials that step through values, and what the solver says of each.

All figures are the solver's own. Nothing here draws: the screen shows what it is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from typing import Any

from tuner.machine.machine import Machine
from tuner.memory.cache_types import CACHE_TYPES, CHOSEN_TYPES
from tuner.memory.kv_cache import cache_layout
from tuner.model.model import Model
from tuner.planning import constraints
from tuner.planning.differences import difference_text
from tuner.planning.fewer_gpus import with_only
from tuner.planning.objective import LEAST_CONTEXT
from tuner.planning.plan import Candidate, Plan
from tuner.planning.planner import make_plan
from tuner.planning.shortage import short_text
from tuner.planning.solver import MOST_CONTEXT, UBATCHES, Solver
from tuner.settings import OnGpus, Settings, on_gpus
from tuner.wishes import Wishes

# The contexts that people name: 1k, 1.5k, 2k, 3k, 4k, 6k, ...
CONTEXTS = tuple(sorted(factor << k for factor in (2, 3) for k in range(9, 21)))
FEW = 3  # GPUs, of which every set can be tried
_UNLIKE = ("f16", "q8_0")  # a pair that is refused only where no unlike types are taken


@dataclass(frozen=True, slots=True)
class Dial:
    """A setting, or two that must be alike, and the values that it may step through, those that
    ask more of their device last."""

    label: str
    names: tuple[str, ...]  # fields of `Settings`
    values: tuple[Any, ...]
    fixed: bool = False  # by a flag; it can be turned all the same

    def value(self, settings: Settings) -> Any:
        """What these settings have."""
        return getattr(settings, self.names[0])

    def turned(self, settings: Settings, value: Any) -> Settings:
        """The settings with another value."""
        changes: dict[str, Any] = dict.fromkeys(self.names, value)
        return replace(settings, **changes)


@dataclass(frozen=True, slots=True)
class GpusDial(Dial):
    """Which GPUs are used; the last of its values is all of them."""

    def value(self, settings: Settings) -> Any:
        return settings.gpus if isinstance(settings, OnGpus) else self.values[-1]

    def turned(self, settings: Settings, value: Any) -> Settings:
        return on_gpus(settings, None if value == self.values[-1] else value)


class Explorer:
    """Tries out settings of one model on one machine.

    A setting that is tried has no split over several GPUs: that follows from the rest (`weighed`).
    For some of the GPUs alone they are `OnGpus`.
    `start`, `step` and `dials` take microseconds; everything else computes and belongs in a
    thread, one call at a time but for `survey` and `frontier`, which have a solver of their own.
    """

    def __init__(self, solver: Solver, surveyor: Solver, wishes: Wishes, start: Settings) -> None:
        """`wishes`: what flags fixed. `start`: the settings to begin with. `surveyor`: another
        solver of the same model and machine, which has all GPUs."""
        self.model, self.machine = solver.model, solver.machine
        self.wishes = wishes
        self._solver, self._surveyor = solver, surveyor
        self._fewer: dict[tuple[str, ...], Solver] = {}  # solvers, by the GPUs that they have
        self._splits: dict[Settings, tuple[float, ...]] = {}
        self._known: list[Settings] = []
        self.dials: tuple[Dial, ...] = ()
        self._objective = solver.objective(wishes)
        self.start = self.know(start)

    @property
    def described(self) -> bool:
        """Whether a GPU of this machine was only described, so that nothing can be loaded there."""
        return any(gpu.source == "stated" for gpu in self.machine.gpus)

    def machine_of(self, settings: Settings) -> Machine:
        """The machine with the GPUs that these settings are for."""
        return with_only(self.machine, settings)

    def of(self, candidate: Candidate) -> Settings:
        """A plan's settings as they are tried, on the GPUs that the plan has."""
        return self.know(self._named(candidate))

    def _named(self, candidate: Candidate) -> Settings:
        """A candidate's settings, which say on which GPUs they are."""
        used = {use.device for use in candidate.footprint.uses}
        gpus = tuple(gpu.id for gpu in self.machine.gpus if gpu.id in used)
        return on_gpus(candidate.settings, None if len(gpus) == len(self.machine.gpus) else gpus)

    def know(self, settings: Settings) -> Settings:
        """These settings as they are tried: their values are among those that dials step through,
        and their split is the one that follows."""
        bare = self._bare(settings)
        if settings.tensor_split and self._given_split(settings) is None:
            self._splits.setdefault(bare, settings.tensor_split)
        if bare not in self._known:
            self._known.append(bare)
            self.dials = tuple(_dials(self._solver, self.wishes, self._known))
        return bare

    def step(self, settings: Settings, dial: Dial, by: int) -> Settings:
        """The settings `by` values further on a dial, or as far as it goes. Values that the engine
        would refuse beside the others are passed over."""
        at, left = dial.values.index(dial.value(settings)), abs(by)
        ahead = dial.values[at + 1 :] if by > 0 else dial.values[:at][::-1]
        found = settings
        for value in ahead if left else ():
            trial = self._bare(dial.turned(settings, value))
            machine = self.machine_of(trial)
            nowhere = trial.n_gpu_layers and not machine.gpus
            if not nowhere and constraints.refusal(self.model, trial, machine) is None:
                found, left = trial, left - 1
                if not left:
                    break
        return found

    # ------------------------------------------------------------ what the solver says

    def weighed(self, settings: Settings) -> Candidate:
        """What these settings give, by the search's quick arithmetic: with the first split over
        several GPUs that fits, the fastest being the first, or the one that lacks least. Without a
        checkpoint where there is no room for one."""
        solver = self._solver_of(settings)
        misses: list[Candidate] = []
        for one in dict.fromkeys((solver, solver.without_checkpoint)):
            for split in self._splits_of(settings):
                candidate = one.weigh(settings.with_split(split), self._objective)
                if candidate.fits:
                    return candidate
                misses.append(candidate)
        return min(misses, key=lambda c: c.lacking(solver.budgets))

    def _splits_of(self, settings: Settings) -> Iterator[tuple[float, ...]]:
        """Those to try: the one that is known of these very settings, the solver's, and such as are
        known of others with as many layers on the GPUs, made to fit by moving some of them."""
        if settings in self._splits:
            yield self._splits[settings]
        given = self._given_split(settings)
        yield from self._solver_of(settings).fitting.splits(settings, given)
        for other, split in self._splits.items():
            alike = other.n_gpu_layers == settings.n_gpu_layers
            if alike and self.machine_of(other).gpus == self.machine_of(settings).gpus:
                yield split

    def exactly(self, candidate: Candidate) -> Candidate:
        """The same with the exact footprint, which is what counts."""
        solver = self._solver_of(candidate.settings).like(candidate)
        exact = solver.exactly(candidate)
        return exact if exact.fits else solver.weighed(candidate.settings, self._objective)

    def missing(self, candidate: Candidate) -> str:
        """Where how much memory is missing; "" where it fits."""
        solver = self._solver_of(candidate.settings)
        return short_text(candidate, solver.machine, solver.budgets)

    def notes(self, candidate: Candidate) -> tuple[str, ...]:
        """What to beware of."""
        machine = self.machine_of(candidate.settings)
        return constraints.notes(self.model, candidate.settings, machine)

    def survey(self) -> Plan:
        """What kvchat itself would choose, and its alternatives. Tenths of a second."""
        plan = make_plan(self.model, self.machine, self.wishes, solver=self._surveyor)
        return plan.offering(alternatives=plan.alternatives)  # so that nobody waits for them later

    def frontier(self) -> Iterator[Candidate]:
        """The best plan for each context that people name and a search may give, the shortest
        first, as far as they fit: what a context costs here."""
        self._surveyor.start_plan()
        contexts = self._contexts()
        for n_ctx in (n for n in contexts if n >= min(LEAST_CONTEXT, contexts[-1])):
            best = self._surveyor.best(replace(self.wishes, n_ctx=n_ctx))
            if best:
                yield best

    def larger(self, least: int = 0) -> Candidate | None:
        """The best plan for about one and a half times the context that it began with, on the same
        GPUs, and for `least` tokens at least; None where no larger one fits."""
        fewer = isinstance(self.start, OnGpus)
        surveyor = self._surveyor.on(self.machine_of(self.start)) if fewer else self._surveyor
        surveyor.start_plan()
        now = self.start.n_ctx
        contexts = [n for n in self._contexts() if n >= max(now + 1, least)]
        enough = [n for n in contexts if n >= 3 * now // 2]
        for n_ctx in (*enough[:1], *(n for n in reversed(contexts) if n not in enough)):
            _, best = surveyor.confirmed(replace(self.wishes, n_ctx=n_ctx, max_ctx=False))
            if best and best.fits:
                return replace(best, settings=self._named(best))
        return None

    def difference(self, candidate: Candidate) -> str:
        """What a candidate has that the settings it began with have not, in words."""
        return difference_text(self.model, self.weighed(self.start), candidate)

    def _contexts(self) -> tuple[int, ...]:
        """Those that people name, as far as the model goes."""
        values: tuple[int, ...] = next(_dials(self._surveyor, self.wishes, ())).values
        return values

    def _bare(self, settings: Settings) -> Settings:
        """The settings without a split that follows from them."""
        return settings.with_split(self._given_split(settings) or ())

    def _given_split(self, settings: Settings) -> tuple[float, ...] | None:
        """A flag's, which is one over all GPUs."""
        return None if isinstance(settings, OnGpus) else self.wishes.tensor_split

    def _solver_of(self, settings: Settings) -> Solver:
        """The solver of the machine that these settings are for."""
        if not isinstance(settings, OnGpus):
            return self._solver
        if settings.gpus not in self._fewer:
            self._fewer[settings.gpus] = self._solver.on(self.machine_of(settings))
        return self._fewer[settings.gpus]


def _dials(solver: Solver, wishes: Wishes, known: Iterable[Settings]) -> Iterator[Dial]:
    """The dials that have something to turn here; the values of `known` settings are among
    theirs."""
    model, known, fixed = solver.model, tuple(known), wishes.fixed

    def dial(label: str, values: Iterable[Any], *names: str) -> Dial:
        found = {*values, *(getattr(s, name) for s in known for name in names)}
        order = _bits if "type_k" in names or "type_v" in names else None
        return Dial(label, names, tuple(sorted(found, key=order)), any(n in fixed for n in names))

    top = min(model.n_ctx_train, MOST_CONTEXT) or CONTEXTS[-1]
    yield dial("context", {*(n for n in CONTEXTS if n < top), top}, "n_ctx")
    if not cache_layout(model.hparams).rows:
        pass  # nothing but recurrent states, which have a type of their own
    elif _alike(solver, wishes):
        yield dial("KV cache", CHOSEN_TYPES, "type_k", "type_v")
    else:
        yield dial("K cache", CHOSEN_TYPES, "type_k")
        yield dial("V cache", CHOSEN_TYPES, "type_v")
    gpus = tuple(gpu.id for gpu in solver.machine.gpus)
    sets = {s.gpus for s in known if isinstance(s, OnGpus)}
    if (len(gpus) > 1 or sets) and wishes.tensor_split is None:
        values = sorted({*sets, *_sets(gpus)}, key=lambda ids: (len(ids), ids))
        yield GpusDial("GPUs", ("gpus",), tuple(values))
    if solver.machine.gpus:
        yield dial("GPU layers", range(model.n_items + 1), "n_gpu_layers")
        if model.moe_layers:
            yield dial("experts in RAM", [0, *_experts(model)], "n_cpu_moe")
    yield dial("batch", UBATCHES, "n_ubatch")


def _sets(gpus: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Each alone, all but one, and all; of up to `FEW`, every set."""
    n = len(gpus)
    for size in range(1, n + 1):
        if n <= FEW or size in (1, n - 1, n):
            yield from combinations(gpus, size)


def _experts(model: Model) -> range:
    """Numbers of first layers that hold at least one layer of experts."""
    return range(model.moe_layers[0] + 1, model.moe_layers[-1] + 2)


def _bits(name: str) -> float:
    return CACHE_TYPES[name].bits


def _alike(solver: Solver, wishes: Wishes) -> bool:
    """Whether the engine takes K and V of one type only, as far as types are chosen at all."""
    trials = (solver.trial(wishes, *pair) for pair in permutations(_UNLIKE))
    return all(constraints.refusal(solver.model, s, solver.machine) for s in trials)
