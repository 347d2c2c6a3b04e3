"""A loaded model beside other programs, which take memory and give it back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from tuner.launch.events import Look
from tuner.planning import difference_text
from tuner.planning.rebalancing import Action, Watch
from tuner.wishes import Rebalance

if TYPE_CHECKING:
    from tuner.launch.running import Running


class Balancer:
    """Looks at the memory of whatever runs, time after time, and says what should be loaded
    instead. Blocks; one look at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._watch: Watch | None = None
        self._seen: Running | None = None
        self._asked: Action = "stay"  # for a move that may come

    def look(
        self, running: Running, mode: Rebalance, *, chosen: bool, busy: bool, least: int
    ) -> Look:
        """What to do now. `chosen`: the user chose what is loaded, setting by setting. `busy`:
        nothing can be loaded at the moment. `least`: tokens that the conversation needs."""
        now, plan = self._clock(), running.plan
        machine = running.machine_now(waits=False)
        before, self._seen = self._seen, running
        asked, self._asked = self._asked, "stay"
        if self._watch is None or before is None:
            grows = mode is not Rebalance.OFF
            self._watch = Watch(running.actual.footprint, plan.machine, now, grows=grows)
        elif asked != "stay" and running.settings == before.settings:
            self._watch.failed(now, machine)
        elif running is not before:
            self._watch.moved(now, asked, running.actual.footprint, plan.machine)
        else:
            self._watch.takes(running.actual.footprint)
        verdict = self._watch.read(now, machine, answering=busy)
        tight = " and ".join(verdict.tight)
        if verdict.action == "stay" or verdict.machine is None or mode is Rebalance.OFF:
            return Look(tight)
        shrinks = verdict.action == "shrink"
        # What was moved to was asked for by nobody: the user's own wishes count.
        wished = replace(plan, wishes=running.tuning.wishes)
        find = running.tuning.smaller if shrinks else running.tuning.better
        found = find(wished, verdict.machine, least) if shrinks or not chosen else None
        if found is None:
            self._watch.refused(now, machine)
            return Look(tight)
        settings = found.chosen.settings
        less = difference_text(plan.model, plan.chosen, found.chosen)
        if shrinks:
            self._asked = "shrink"
            return Look(tight, settings, f"Other programs need {tight}: {less or 'another split'}.")
        if mode is Rebalance.FULL:
            self._asked = "grow"
        else:
            self._watch.refused(now, machine)  # offered once
        why = f"There is more free memory than when the model was loaded: {less} is possible."
        return Look(tight, settings, why, offered=mode is not Rebalance.FULL)
