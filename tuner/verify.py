"""Lets the engine confirm a plan before anything is loaded.

One dry run of the chosen settings replaces the computed figures by the engine's own. Only where
that breaks a budget, or the engine refuses the settings, is there a second look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tuner.actual import footprint_of
from tuner.engine.protocol import DryRunDone
from tuner.errors import EngineError
from tuner.plan import Plan
from tuner.planner import make_plan
from tuner.settings import Settings
from tuner.speed import Calibration
from tuner.units import size_text

MAX_ROUNDS = 3

DryRunner = Callable[[Settings], DryRunDone]


def verified(plan: Plan, dry_run: DryRunner, calibration: Calibration | None = None) -> Plan:
    """The plan with the engine's figures, planned again with what was learned where they do not
    fit, and moved to the next alternative where the engine refuses. Each becomes a reason.

    Raises EngineError where the engine refuses every alternative or fails.
    """
    said: list[str] = []
    margins = [0] * len(plan.machine.devices)
    for _ in range(MAX_ROUNDS):
        plan, refusals = _accepted(plan, dry_run)
        said += refusals
        over = _over(plan)
        if not any(over) or not plan.fallbacks:
            break
        for i, (device, extra) in enumerate(zip(plan.machine.devices, over, strict=True)):
            if extra:
                margins[i] += extra
                said.append(
                    f"The engine's dry run needs {size_text(extra)} more on {device.id} than there "
                    "is, so it was planned again."
                )
        again = make_plan(plan.model, plan.machine, plan.wishes, calibration, tuple(margins))
        if again.chosen.settings == plan.chosen.settings:
            break
        plan = again
    fits = not any(_over(plan))
    return replace(plan, chosen=replace(plan.chosen, fits=fits), reasons=(*plan.reasons, *said))


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


def _over(plan: Plan) -> list[int]:
    """Bytes over budget per device."""
    uses, devices = plan.chosen.footprint.uses, plan.machine.devices
    return [max(0, u.total - d.budget) for u, d in zip(uses, devices, strict=True)]
