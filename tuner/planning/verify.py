"""Lets the engine verify a plan before anything is loaded.

One dry run of the chosen settings replaces the computed figures by the engine's own. Only where
that breaks a budget, or the engine refuses the settings, is there a second look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from tuner.errors import EngineError
from tuner.memory.footprint import Buffer
from tuner.memory.reported import reported_footprint
from tuner.planning.plan import Candidate, Plan
from tuner.planning.planner import make_plan
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
        solver: the one that made the plan, where it is at hand (see `make_plan`).

    Returns:
        A plan whose `chosen` has compute buffers as the engine reported them; `chosen.fits` is
        False where nothing that it verified is within every budget.

    Raises:
        EngineError: the engine refuses every alternative, or fails.
    """
    findings: list[str] = []
    margins = [0] * len(plan.machine.devices)
    for _ in range(MAX_ROUNDS):
        computed, chosen, refusals = _first_taken(plan, dry_run)
        plan = replace(plan, chosen=chosen)
        findings += refusals
        short = shortages(chosen, plan.machine)
        if not short:
            break
        findings += [
            f"The engine's dry run needs {size_text(lacking)} more on {where} than there is, so it "
            "was planned again."
            for where, lacking in short
        ]
        uses = zip(margins, chosen.footprint.uses, computed.footprint.uses, strict=True)
        margins = [max(m, real.total - guess.total) for m, real, guess in uses]
        plan = make_plan(plan.model, plan.machine, plan.wishes, margins=margins, solver=solver)
        if not plan.chosen.fits:
            break
    fits = plan.chosen.fits and not shortages(plan.chosen, plan.machine)
    chosen = replace(plan.chosen, fits=fits)
    return replace(plan, chosen=chosen, reasons=(*plan.reasons, *findings))


def _first_taken(plan: Plan, dry_run: DryRunner) -> tuple[Candidate, Candidate, list[str]]:
    """The first of the choice and what else the plan offers that the engine does not refuse: as
    computed, with the engine's figures, and a sentence per refusal. Raises EngineError."""
    refusals: list[str] = []
    refused: set[tuple[str, str, str]] = set()
    last: EngineError | None = None
    for computed in (plan.chosen, *plan.alternatives, *plan.fallbacks):
        s = computed.settings
        kind = (s.type_k, s.type_v, s.flash_attn)
        if kind in refused:
            continue
        try:
            buffers = dry_run(s)
        except EngineError as error:
            if error.kind != "refused":
                raise
            refused.add(kind)
            refusals.append(f"The engine refuses K {s.type_k} with V {s.type_v}: {error}")
            last = error
            continue
        # Nothing is allocated, so weights and cache read 0; the compute buffers are true.
        compute = [b for b in buffers if b.kind == "compute"]
        footprint = reported_footprint(compute, plan.machine, computed.footprint, "dry run")
        return computed, replace(computed, footprint=footprint), refusals
    assert last is not None
    raise last
