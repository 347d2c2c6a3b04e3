"""Lets the engine confirm a plan before anything is loaded.

One dry run of the chosen settings replaces the computed figures by the engine's own. Only where
that breaks a budget, or the engine refuses the settings, is there a second look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tuner.engine.protocol import DryRunDone
from tuner.errors import EngineError
from tuner.memory.footprint import DeviceUse
from tuner.memory.reported import footprint_of
from tuner.planning.plan import Plan
from tuner.planning.planner import make_plan
from tuner.planning.solver import Solver
from tuner.settings import Settings
from tuner.units import size_text

MAX_ROUNDS = 3

DryRunner = Callable[[Settings], DryRunDone]


def verified(plan: Plan, dry_run: DryRunner, solver: Solver | None = None) -> Plan:
    """The plan with the engine's figures, planned again with what was learned where they do not
    fit, and moved to the next alternative where the engine refuses. Each becomes a reason.

    Raises EngineError where the engine refuses every alternative or fails.
    """
    said: list[str] = []
    budgets = [d.budget for d in plan.machine.devices]
    margins = [0] * len(budgets)
    for _ in range(MAX_ROUNDS):
        computed = plan
        plan, refusals = _accepted(computed, dry_run)
        said += refusals
        short = plan.chosen.short(budgets)
        if not any(short):
            break
        for i, device in enumerate(plan.machine.devices):
            if short[i]:
                said.append(
                    f"The engine's dry run needs {size_text(short[i])} more on {device.id} than "
                    "there is, so it was planned again."
                )
        margins = [
            max(m, real.total - guess.total)
            for m, real, guess in zip(
                margins, plan.chosen.footprint.uses, _guess(computed, plan), strict=True
            )
        ]
        plan = make_plan(plan.model, plan.machine, plan.wishes, margins=margins, solver=solver)
        if not plan.chosen.fits:
            break
    fits = plan.chosen.fits and not any(plan.chosen.short(budgets))
    chosen = replace(plan.chosen, fits=fits)
    return replace(plan, chosen=chosen, reasons=(*plan.reasons, *said))


def _accepted(plan: Plan, dry_run: DryRunner) -> tuple[Plan, list[str]]:
    """The first of the choice and its alternatives that the engine accepts, with its figures."""
    refusals: list[str] = []
    refused: set[tuple[str, str, str]] = set()
    last: EngineError | None = None
    for candidate in (plan.chosen, *plan.alternatives, *plan.fallbacks):
        s = candidate.settings
        kind = (s.type_k, s.type_v, s.flash_attn)
        if kind in refused:
            continue
        try:
            done = dry_run(s)
        except EngineError as error:
            if error.kind != "refused":
                raise
            refused.add(kind)
            refusals.append(f"The engine refuses K {s.type_k} with V {s.type_v}: {error}")
            last = error
            continue
        # Nothing is allocated, so weights and cache read 0; the compute buffers are true.
        compute = [b for b in done.buffers if b.kind == "compute"]
        footprint = footprint_of(compute, plan.machine, candidate.footprint, "dry run")
        return replace(plan, chosen=replace(candidate, footprint=footprint)), refusals
    assert last is not None
    raise last


def _guess(computed: Plan, accepted: Plan) -> tuple[DeviceUse, ...]:
    """The computed figures of the settings that the engine accepted."""
    settings = accepted.chosen.settings
    candidates = (computed.chosen, *computed.alternatives, *computed.fallbacks)
    return next(c.footprint.uses for c in candidates if c.settings == settings)
