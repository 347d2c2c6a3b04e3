"""Fit explorers for tests, with the real arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tuner.machine.machine import Machine
from tuner.model.model import Model
from tuner.planning import Explorer, Solver, make_plan
from tuner.wishes import Wishes


def explorer_of(
    model: Model, where: Machine, wishes: Wishes | None = None, **changes: Any
) -> Explorer:
    """One that begins with the plan, or with what is changed of it."""
    wishes = wishes or Wishes()
    start = replace(make_plan(model, where, wishes).chosen.settings, **changes)
    return Explorer(Solver(model, where), Solver(model, where), wishes, start)
