"""Whether a loaded plan should move, as other programs take memory and give it back.

`Watch` looks at the numbers alone and says when; `smaller` and `better` find the plan. A move costs
a moment without an answer, so one that another reading would undo is worse than none: what is taken
must stay taken for seconds, what comes back must be there for a minute, and for longer each time it
was taken again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, log
from typing import Literal

from tuner.machine.machine import Device, Machine
from tuner.memory.footprint import Footprint
from tuner.planning.budgets import Budgets
from tuner.planning.plan import Candidate
from tuner.planning.reshaping import longest
from tuner.planning.shapes import convertible
from tuner.planning.solver import Solver
from tuner.settings import CONTEXT_PADDING, Settings
from tuner.units import MIB, padded
from tuner.wishes import Wishes

# What is left of a reserve when it counts as taken: below that a driver moves memory out, or the
# next allocation fails.
SPENT = 4  # a quarter
TAKEN_FOR = 4.0  # seconds for which it must be so,
BACK_FOR = 60.0  # and for which memory that is back must have been there,
MOST_BACK_FOR = 3600.0  # twice as long after each time that it was taken again, up to so long,
TRUSTED = 3600.0  # until it has stayed for so long
REST = 30.0  # seconds between two moves, whatever happens
MOST_GAP = 20.0  # seconds between two readings that belong together
MORE = 256 * MIB  # beyond what a plan was made for: less is not worth a search,
MORE_SHARE = 50  # nor is less than a fiftieth of what there is in all
BETTER = 1.25  # effective turns per second (`objective.py`) of a better plan over the loaded one
_SHORTEST = 2  # a half: less context than that is worse than fewer layers on a GPU

Action = Literal["stay", "shrink", "grow"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a reading says."""

    action: Action = "stay"
    # The machine to plan for: as it is, or for "grow" with no more than was free all the time.
    machine: Machine | None = None
    tight: tuple[str, ...] = ()  # where other programs have nearly all, as a sentence names it


class Watch:
    """Fed with readings, says when a loaded plan should move. Deterministic: its only clock is the
    one that it is told, its memory what it was fed."""

    def __init__(self, loaded: Footprint, machine: Machine, now: float, *, grows: bool = True):
        """`loaded`: what the plan takes. `machine`: what it was made for. `now`: seconds, of a
        clock that does not jump. `grows`: whether more memory is of interest."""
        self._grows = grows
        self._hold = BACK_FOR
        self._grew = False  # at the last move
        self._rests_until = -inf
        self._rest_if_failed = REST
        self._moved_at = now
        self._begin(loaded, machine)

    def takes(self, loaded: Footprint) -> None:
        """What is known by now of what the same plan takes: a first long prompt takes more."""
        self._loaded = loaded
        self._used = Budgets.of(self._made_for).charged(loaded.totals)

    def _begin(self, loaded: Footprint, machine: Machine) -> None:
        self._made_for = machine
        self.takes(loaded)
        self._had = [limit.free for limit in machine.limits]
        self._tight_since: float | None = None
        self._roomy_since: float | None = None
        self._least: Machine | None = None  # what was free all the time since then
        self._read_at: float | None = None

    def read(self, now: float, machine: Machine, *, answering: bool = False) -> Verdict:
        """What to do now. `machine`: as it is, our own use counted as free
        (`machine/again.py`). `answering`: nothing moves while an answer is written, but what is
        seen meanwhile counts. A move is to be told by `moved`, by `refused` if there is no plan, or
        by `failed` if it could not be loaded; until then it is asked for at every reading."""
        if self._read_at is None or not 0 <= now - self._read_at <= MOST_GAP:
            self._tight_since = self._roomy_since = None
        self._read_at = now
        limits = machine.limits
        tight = tuple(
            machine.text(limit)
            for size, limit in zip(self._used, limits, strict=True)
            if limit.free - size < limit.reserve // SPENT
        )
        roomy = any(
            limit.free - had >= max(MORE, limit.total // MORE_SHARE)
            for had, limit in zip(self._had, limits, strict=True)
        )
        self._tight_since = _since(self._tight_since, bool(tight), now)
        self._roomy_since = _since(self._roomy_since, roomy and not tight, now)
        if self._roomy_since is not None:
            self._least = machine if self._roomy_since == now else _least(self._least, machine)
        if answering or now < self._rests_until:
            return Verdict(tight=tight)
        if _lasts(self._tight_since, TAKEN_FOR, now):
            return Verdict("shrink", machine, tight)
        if self._grows and _lasts(self._roomy_since, self._hold, now):
            return Verdict("grow", self._least)
        return Verdict(tight=tight)

    def moved(self, now: float, action: Action, loaded: Footprint, machine: Machine) -> None:
        """Another plan is loaded, made for this machine."""
        if action == "shrink" and self._grew:
            lasted = now - self._moved_at > TRUSTED
            self._hold = BACK_FOR if lasted else min(2 * self._hold, MOST_BACK_FOR)
        self._grew = action == "grow"
        self._moved_at, self._rests_until = now, now + REST
        self._rest_if_failed = REST
        self._begin(loaded, machine)

    def refused(self, now: float, machine: Machine) -> None:
        """There is no such plan, or nobody wants it: it is not asked for again before there is
        clearly more memory, or, where some is taken, a while has passed."""
        self._rests_until = max(self._rests_until, now + REST)
        roomier = zip(self._made_for.gpus, machine.gpus, strict=True)
        gpus = tuple(replace(a, free=max(a.free, b.free)) for a, b in roomier)
        free = max(self._made_for.host.free, machine.host.free)
        host = replace(self._made_for.host, free=free)
        self._begin(self._loaded, replace(self._made_for, gpus=gpus, host=host))

    def failed(self, now: float, machine: Machine) -> None:
        """There was such a plan, and what runs is what ran before: it is asked for again later,
        after twice as long each time."""
        self.refused(now, machine)
        self._rests_until = now + self._rest_if_failed
        self._rest_if_failed = min(2 * self._rest_if_failed, MOST_BACK_FOR)


def _since(known: float | None, holds: bool, now: float) -> float | None:
    """Since when something holds without a break."""
    if not holds:
        return None
    return now if known is None else known


def _lasts(since: float | None, seconds: float, now: float) -> bool:
    return since is not None and now - since >= seconds


def _least(a: Machine | None, b: Machine) -> Machine:
    """What was free on each device both times."""
    if a is None:
        return b

    def both(x: Device, y: Device) -> Device:
        return replace(y, free=min(x.free, y.free))

    gpus = tuple(both(x, y) for x, y in zip(a.gpus, b.gpus, strict=True))
    return replace(b, gpus=gpus, host=both(a.host, b.host))


def smaller(solver: Solver, wishes: Wishes, loaded: Settings, least: int = 0) -> Candidate | None:
    """A plan for less memory that keeps the wishes, the solver's machine being as it is now: a
    cache that loses no more than it must beside the same weights, then a shorter context there,
    then what the solver finds. `least`: tokens that the conversation needs. None where nothing
    fits."""
    objective = solver.objective(wishes)
    shorter: list[Candidate] = []
    for trial in convertible(solver, loaded):
        if _finer(solver, trial, loaded) or not _kept(wishes, trial):
            continue
        found = longest(solver, trial, max(least, loaded.n_ctx // _SHORTEST))
        if found is not None and found.n_ctx >= loaded.n_ctx:
            return solver.exactly(solver.weigh(trial, objective))
        if found is not None and wishes.n_ctx is None:
            shorter.append(solver.exactly(solver.weigh(found, objective)))
    if shorter:
        return max(shorter, key=lambda c: c.score)
    return _planned(solver, wishes, least)


def better(solver: Solver, wishes: Wishes, loaded: Settings, least: int = 0) -> Candidate | None:
    """What the solver finds for the wishes on its machine, as it is now, where that is clearly
    better than what is loaded."""
    found = _planned(solver, wishes, least)
    now = solver.weighed(loaded, solver.objective(wishes))
    return found if found is not None and found.score - now.score >= log(BETTER) else None


def _planned(solver: Solver, wishes: Wishes, least: int) -> Candidate | None:
    """The best plan with room for so many tokens."""
    asked = [wishes]
    if least and wishes.n_ctx is None:
        asked.append(replace(wishes, n_ctx=padded(least, CONTEXT_PADDING)))
    for wish in asked:
        _, found = solver.confirmed(wish)
        if found is not None and found.fits and found.settings.n_ctx >= least:
            return found
    return None


def _kept(wishes: Wishes, settings: Settings) -> bool:
    """Whether these are cache types that the wishes allow."""
    return wishes.type_k in (None, settings.type_k) and wishes.type_v in (None, settings.type_v)


def _finer(solver: Solver, trial: Settings, loaded: Settings) -> bool:
    """Whether a cache of these types loses less than the one that is loaded, and so has more
    bytes: nothing that was lost would come back."""
    of_pair = solver.quality.of_pair
    a, b = (of_pair(s.type_k, s.type_v).loss for s in (trial, loaded))
    return a < b
