"""Lets the engine verify a plan before anything is loaded.

One dry run of the chosen settings replaces the computed figures by the engine's own. Only where
that breaks a budget, or the engine refuses the settings, is there a second look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from tuner.errors import EngineError
from tuner.memory.footprint import Buffer, Footprint
from tuner.memory.reported import reported_footprint
from tuner.planning.budgets import Budgets
from tuner.planning.plan import Candidate, Plan, distinct
from tuner.planning.planner import make_plan, with_choice
from tuner.planning.shortage import shortages
from tuner.planning.solver import Solver
from tuner.settings import Settings
from tuner.units import size_text

# Of dry runs that break a budget. The first one shows what the arithmetic misses; the plan made
# again with that margin may be of another kind and miss something else, hence one more. A user
# waits for each, so there is an end: what is then still over budget is said not to fit.
MAX_ROUNDS = 3

# What the engine would allocate for these settings. Raises EngineError: "refused" where it does
# not take them.
DryRunner = Callable[[Settings], Iterable[Buffer]]


def verified(plan: Plan, dry_run: DryRunner, solver: Solver | None = None) -> Plan:
    """The plan with the engine's figures, planned again with what was learned where they do not
    fit, and moved to the next alternative where the engine refuses. Each becomes a reason.

    Args:
        plan: what `make_plan` answered.
        dry_run: asks the engine; called once where all is well.
        solver: the one that made the plan, where it is at hand (see `make_plan`); needed where
            something lives beside the model.

    Returns:
        A plan whose `chosen` has compute buffers as the engine reported them; `chosen.fits` is
        False where nothing that it verified is within every budget.

    Raises:
        EngineError: the engine refuses every alternative, or fails.
    """
    solver = solver or Solver(plan.model, plan.machine)
    findings: list[str] = []
    budgets = Budgets.of(plan.machine)
    margins = [0] * len(plan.machine.devices)
    for _ in range(MAX_ROUNDS):
        plan, computed, refusals = _first_taken(plan, dry_run, solver)
        findings += refusals
        short = shortages(plan.chosen, plan.machine, budgets)
        if not short:
            break
        findings += [
            f"The engine's dry run needs {size_text(lacking)} more on {where} than there is, so it "
            "was planned again."
            for where, lacking in short
        ]
        uses = zip(margins, plan.chosen.footprint.uses, computed.footprint.uses, strict=True)
        margins = [max(m, real.total - guess.total) for m, real, guess in uses]
        plan = make_plan(plan.model, plan.machine, plan.wishes, margins=margins, solver=solver)
        if not plan.chosen.fits:
            break
    fits = plan.chosen.fits and not shortages(plan.chosen, plan.machine, budgets)
    chosen = replace(plan.chosen, fits=fits)
    return replace(plan, chosen=chosen, reasons=(*plan.reasons, *findings))


def _first_taken(
    plan: Plan, dry_run: DryRunner, solver: Solver
) -> tuple[Plan, Candidate, list[str]]:
    """The plan with the first of the choice and what else it offers that the engine does not
    refuse, with the engine's figures; the same as computed; a sentence per refusal. Raises
    EngineError."""
    refusals: list[str] = []
    refused: set[tuple[str, str, str]] = set()
    last: EngineError | None = None
    for computed in _offered(plan):
        s = computed.settings
        if _kind(s) in refused:
            continue
        try:
            buffers = dry_run(s)
        except EngineError as error:
            if error.kind != "refused":
                raise
            refused.add(_kind(s))
            refusals.append(f"The engine refuses K {s.type_k} with V {s.type_v}: {error}")
            last = error
            continue
        if refused:
            plan = _moved(plan, computed, refused, solver)
        chosen = replace(computed, footprint=_as_reported(computed, buffers, solver))
        return replace(plan, chosen=chosen), computed, refusals
    assert last is not None
    raise last


def _offered(plan: Plan) -> Iterator[Candidate]:
    """The choice, and, if need be, what else there is."""
    yield plan.chosen
    yield from plan.alternatives
    yield from plan.fallbacks


def _kind(settings: Settings) -> tuple[str, str, str]:
    """What the engine refuses."""
    return settings.type_k, settings.type_v, settings.flash_attn


def _moved(
    plan: Plan, chosen: Candidate, refused: set[tuple[str, str, str]], solver: Solver
) -> Plan:
    """The plan with another choice; nothing else of it is like what was refused."""

    def left(offered: Iterable[Candidate]) -> tuple[Candidate, ...]:
        return tuple(c for c in distinct(offered, chosen) if _kind(c.settings) not in refused)

    more = left([plan.one_more_gib] if plan.one_more_gib else [])
    return with_choice(plan, chosen, solver).offering(
        alternatives=left(plan.alternatives),
        fallbacks=left(plan.fallbacks),
        one_more_gib=more[0] if more else None,
    )


def _as_reported(computed: Candidate, buffers: Iterable[Buffer], solver: Solver) -> Footprint:
    """The engine's compute buffers in place of the computed ones. Nothing is allocated in a dry
    run, so weights and cache read 0. What lives beside the model the engine does not know."""
    compute = [b for b in buffers if b.kind == "compute"]
    machine = solver.machine
    told = reported_footprint(compute, machine, computed.footprint, "dry run")
    if not compute:
        return told
    beside = zip(told.uses, solver.fitting.estimator.compute_beside, strict=True)
    return replace(told, uses=tuple(replace(u, compute=u.compute + more) for u, more in beside))
