"""The whole answer: the choice, what else is possible, what to fall back on, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import TypeVar

from tuner.errors import UsageError
from tuner.machine.machine import Machine
from tuner.model.model import Model
from tuner.planning import constraints
from tuner.planning.alternatives import alternatives, fallbacks, one_more_gib
from tuner.planning.budgets import Budgets
from tuner.planning.fewer_gpus import left_out_text, with_fewer_gpus
from tuner.planning.later import Later
from tuner.planning.plan import Candidate, Offers, Plan, Shape
from tuner.planning.reasons import reasons_for, warnings_for
from tuner.planning.shapes import shapes
from tuner.planning.shortage import (
    least_short,
    nearest,
    reserve_text,
    shortage_text,
    ways_text,
)
from tuner.planning.solver import Solver
from tuner.wishes import Wishes

T = TypeVar("T")

_TIE = 1e-9  # scores that differ by less are alike


def make_plan(
    model: Model,
    machine: Machine,
    wishes: Wishes,
    *,
    margins: Sequence[int] = (),
    solver: Solver | None = None,
) -> Plan:
    """The best way to load `model` on `machine` that keeps every wish, with all that a report or
    a launch says about it.

    Args:
        model: what the file's header describes.
        machine: devices with the bytes that are free on each, measured or stated.
        wishes: what the user fixed; each is kept exactly.
        margins: bytes per device (the host last) that the engine was seen to need beyond what is
            computed; empty for none.
        solver: one of this model and machine, where there is one already: what it has computed
            is not computed again, and what it has learned of speeds counts.

    Returns:
        The plan. `chosen` has the exact footprint and, where `chosen.fits`, is within the budget
        of every device and pool; `fallbacks` take ever less memory, and are found, like the other
        offers, when they are asked for. Where nothing that keeps the
        wishes fits, `chosen.fits` is False, `chosen` is what misses by the fewest bytes and
        `alternatives` are the nearest plans that do fit. The same question has the same answer,
        and more memory never gives a plan of a lower score.

    Raises:
        UsageError: a wish is one that the engine would refuse, or names GPUs that are not there.
    """
    solver = solver or Solver(model, machine)
    solver.start_plan()
    wishes = wishes.for_model(model)
    if wishes.tensor_split is not None:
        split = _share_per_gpu(wishes.tensor_split, len(machine.gpus))
        wishes = replace(wishes, tensor_split=split)
    _require_cache_types(solver, wishes)
    if margins:
        solver = solver.with_budgets(solver.budgets.less(solver.budgets.charged(list(margins))))
    whole, budgets = solver, solver.budgets
    solver, chosen = solver.confirmed(wishes)
    found = _Found(solver, chosen) if margins else _without_useless_gpus(solver, chosen, wishes)
    asked = solver
    solver, chosen = found.solver, found.chosen or solver.exactly(least_short(solver, wishes))
    machine = solver.machine
    if not chosen.fits:
        ways = nearest(solver.hurried(), wishes)
        told = (
            shortage_text(chosen, machine, budgets, wishes),
            reserve_text(chosen, machine, budgets),
            ways_text(ways),
        )
        return Plan(
            model,
            machine,
            wishes,
            chosen,
            reasons=tuple(filter(None, told)),
            warnings=warnings_for(model, chosen, machine, wishes),
        ).offering(alternatives=ways)
    fewer = asked.machine != machine
    offers = _offers(solver, wishes, chosen, asked if fewer else None)
    all_of_it = _unbound(solver) if fewer else whole.like(chosen)
    return Plan(
        model,
        machine,
        wishes,
        chosen,
        reasons=(*reasons_for(solver, wishes, chosen), *found.reasons),
        warnings=warnings_for(model, chosen, machine, wishes),
        # Of exact footprints the budgets hold all.
        offers=replace(offers, shapes=_shapes(all_of_it, chosen)),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """A choice, the solver that found it on its machine, and what is to be said of that machine."""

    solver: Solver
    chosen: Candidate | None
    reasons: tuple[str, ...] = ()


def _without_useless_gpus(solver: Solver, chosen: Candidate | None, wishes: Wishes) -> _Found:
    """The choice, or a better one with a GPU less, or with more of them less."""
    found = _Found(solver, chosen)
    while True:
        # Of wishes that leave nothing to decide there is a choice that does not fit.
        best = found.chosen if found.chosen and found.chosen.fits else None
        better: _Found | None = None
        for fewer, gpus in with_fewer_gpus(found.solver, wishes, best):
            beaten = better.chosen if better else best
            its, other = fewer.confirmed(wishes, beaten.score if beaten else -inf)
            if other and other.fits and (beaten is None or other.score > beaten.score + _TIE):
                why = left_out_text(gpus, other, best)
                better = _Found(its, other, (*found.reasons, why))
        if better is None:
            return found
        found = better


def _offers(solver: Solver, wishes: Wishes, chosen: Candidate, whole: Solver | None) -> Offers:
    """What the solver finds beside its choice, each kind as if nothing had been asked before.
    `whole`: that of all GPUs, where the solver's machine has fewer."""

    def later(find: Callable[[Solver, Wishes, Candidate], T]) -> Later[T]:
        def found() -> T:
            solver.start_plan()
            return find(solver.hurried(), wishes, chosen)

        return Later(found)

    def others(hurried: Solver, wishes: Wishes, chosen: Candidate) -> tuple[Candidate, ...]:
        if whole:
            whole.start_plan()
        return alternatives(hurried, wishes, chosen, whole and whole.hurried())

    return Offers(later(others), later(fallbacks), later(one_more_gib))


def _unbound(solver: Solver) -> Solver:
    """With all that its machine has, whatever its search had to leave."""
    return solver.with_budgets(Budgets.of(solver.machine))


def _shapes(solver: Solver, chosen: Candidate) -> Later[tuple[Shape, ...]]:
    return Later(lambda: shapes(solver, chosen.settings) if chosen.fits else ())


def with_choice(plan: Plan, chosen: Candidate, solver: Solver) -> Plan:
    """The plan with a choice that was not the solver's (the engine refused that, or an earlier one
    is kept), and with what is to be said of this one; its cache types were not weighed."""
    s, solver = chosen.settings, solver.like(chosen)
    given = replace(plan.wishes, type_k=s.type_k, type_v=s.type_v)
    return replace(
        plan,
        chosen=chosen,
        reasons=reasons_for(solver, given, chosen),
        warnings=warnings_for(plan.model, chosen, plan.machine, plan.wishes),
        offers=replace(plan.offers, shapes=_shapes(solver, chosen)),
    )


def moved_to(plan: Plan, chosen: Candidate, solver: Solver) -> Plan:
    """The plan of another choice on the solver's machine, which is this one as it is now."""
    moved = with_choice(replace(plan, machine=solver.machine), chosen, solver)
    offers = _offers(solver.like(chosen), plan.wishes, chosen, None)
    return replace(moved, offers=replace(offers, shapes=moved.offers.shapes))


def _require_cache_types(solver: Solver, wishes: Wishes) -> None:
    """Raises UsageError where the engine takes no pair of cache types that keeps the wishes."""
    if any(solver.pairs(wishes)):
        return
    trial = solver.trial(wishes, wishes.type_k or "f16", wishes.type_v or "f16")
    raise UsageError(
        constraints.refusal(solver.model, trial, solver.machine)
        or "the engine refuses these cache types."
    )


def _share_per_gpu(split: tuple[float, ...], n_gpus: int) -> tuple[float, ...]:
    """A share for each GPU; those that were not named get none. Raises UsageError."""
    if n_gpus and len(split) > n_gpus:
        raise UsageError(
            f"--tensor-split names {len(split)} shares, but there {'are' if n_gpus > 1 else 'is'} "
            f"{n_gpus} GPU{'s' if n_gpus > 1 else ''}."
        )
    if n_gpus and not any(split):
        raise UsageError("--tensor-split needs a share above 0.")
    return (*split, *[0.0] * (n_gpus - len(split))) if n_gpus > 1 else ()
