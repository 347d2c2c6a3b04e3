"""How many threads the engine computes with while other programs run. Its threads meet at a barrier
after every node of a graph, so that one core shared with another program slows all of them: one
thread fewer is then several times as fast as all."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

LOOK_SECONDS = 0.25  # between two looks: short beside an answer, long beside the system's ticks
_TAKEN = 0.6  # of a core: so much of it in other hands, and a thread of ours is in the way;
_FREE = 0.4  # so little, and there is room again. Between them nothing changes.


@dataclass(frozen=True, slots=True)
class CoreTimes:
    """Seconds since some moment: by the clock, of the CPUs that this process may run on in
    anybody's use, and in its own."""

    clock: float
    used: float
    own: float


def measured_times() -> CoreTimes:
    """Now. What runs at a lower priority counts, too: it gives way within its own session alone
    (Linux' autogroups). Where the system tells nothing (Android), as if this process were
    alone."""
    own = time.process_time()
    try:
        times = psutil.cpu_times(percpu=True)
    except (psutil.Error, OSError, RuntimeError):
        return CoreTimes(time.monotonic(), own, own)
    try:
        mine = psutil.Process().cpu_affinity()
    except (AttributeError, psutil.Error, OSError):  # macOS has none
        mine = list(range(len(times)))
    each = [times[i] for i in mine if i < len(times)]
    used = sum(one.user + one.system + getattr(one, "nice", 0.0) for one in each)
    return CoreTimes(time.monotonic(), used, own)


class FreeCores:
    """Follows the load of the machine, from its making on."""

    def __init__(self, n_threads: int, exact: bool = False):
        """`n_threads`: how many where nothing else runs. `exact`: and never fewer."""
        self._all = n_threads
        self.exact = exact
        self._taken = 0
        self._last = measured_times()

    def n_threads(self) -> int:
        """For what is computed next."""
        if self.exact or self._all == 1:
            return self._all
        if time.monotonic() - self._last.clock >= LOOK_SECONDS:
            self._look(measured_times())
        return max(1, self._all - self._taken)

    def _look(self, now: CoreTimes) -> None:
        last, self._last = self._last, now
        others = (now.used - last.used) - (now.own - last.own)
        self._taken = cores_taken(others / (now.clock - last.clock), self._taken)


def cores_taken(others: float, before: int) -> int:
    """Whole cores that others keep busy, of their CPU seconds per second; near the border between
    two numbers the one from before."""
    least = int(max(0.0, others) + 1 - _TAKEN)
    most = int(max(0.0, others) + 1 - _FREE)
    return min(max(before, least), most)
