"""How long the program waits for the model process, and when it gives up.

A process that lives says so twice a second. One that is silent has been stopped or hangs; one that
is not silent, but neither computes nor reads, waits for something that does not come (a remote
device, a disk). Time counts only while the program itself runs and waits: a laptop that slept, a
program that was stopped, take nothing from the limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tuner.engine.protocol import Alive, Event

BEAT_SECONDS = 0.5  # between two heartbeats
WAIT_SECONDS = 0.1  # the longest single wait, and the most that one may count
STILL_SECONDS = 10.0  # without a move, after which a user wants to hear of it
_MOVES = 0.001  # CPU seconds in a beat; drivers' threads that only look around take less


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that are waited for a process while it does one thing."""

    silence: float  # without a word
    stall: float  # alive, but nothing moves


# A remote device may take minutes over a long prompt while nothing moves here; until a limit is
# met, the user is told (`STILL_SECONDS`), and Esc ends it.
LIMITS: Mapping[str, Limits] = {
    "start": Limits(30, 60),  # the engine's libraries are read, which may be gigabytes
    "connect": Limits(15, 15),  # to an RPC server
    "load": Limits(30, 120),
    "template": Limits(30, 120),  # its process has limits of its own
    "prompt": Limits(30, 300),
    "answer": Limits(10, 30),
    "state": Limits(30, 120),  # copied, converted, written to a disk
    "": Limits(10, 30),  # anything else
}


@dataclass(frozen=True, slots=True)
class Patience:
    """All limits, in seconds."""

    limits: Mapping[str, Limits] = field(default_factory=lambda: LIMITS)
    stop: float = 2  # for an end after a stop,
    stop_at_work: float = 10  # where the engine computes on: a node of the graph may be long,
    stop_at_file: float = 60  # or writes or reads a state: a disk may be slow, and is not at fault

    def times(self, factor: float) -> Patience:
        """All limits longer or shorter."""
        scaled = {k: Limits(v.silence * factor, v.stall * factor) for k, v in self.limits.items()}
        stops = (self.stop * factor, self.stop_at_work * factor, self.stop_at_file * factor)
        return Patience(scaled, *stops)

    def during(self, doing: str) -> Limits:
        return self.limits.get(doing, self.limits[""])


class Watch:
    """Follows one request: what was heard last, and how long ago."""

    def __init__(self, patience: Patience, doing: str, *, at_file: bool = False):
        """`at_file`: a state is written or read."""
        self._patience, self._at_file = patience, at_file
        self._doing = doing
        self._silent = self._stalled = self._stopping = 0.0
        self._work: float | None = None

    @property
    def still(self) -> float:
        """Seconds for which nothing has moved."""
        return self._stalled

    def heard(self, event: Event) -> None:
        """The process said something."""
        self._silent = 0.0
        if isinstance(event, Alive):
            moved = self._work is None or event.work - self._work >= _MOVES
            if event.doing == self._doing and not moved:
                self._work = event.work
                return
            self._doing, self._work = event.doing, event.work
        self._stalled = 0.0

    def waited(self, seconds: float, stopping: bool) -> str:
        """Counts a wait; says why it is too long, or "". `stopping`: a stop was asked for."""
        self._silent += seconds
        self._stalled += seconds
        limits = self._patience.during(self._doing)
        if stopping:
            self._stopping += seconds
            stop = self._patience.stop
            # A remote device that reads a prompt neither hears a stop nor shows that it moves.
            remote = self._doing == "prompt" and self._silent < stop
            at_work = self._stalled < stop or remote
            most = self._patience.stop_at_work if at_work else stop
            most = self._patience.stop_at_file if self._at_file else most
            if self._stopping >= most:
                return f"did not stop within {_text(most)}"
        if self._silent >= limits.silence:
            return f"did not answer for {_text(limits.silence)}"
        if self._stalled >= limits.stall:
            return f"did not get on for {_text(limits.stall)}"
        return ""


def _text(seconds: float) -> str:
    return f"{seconds:g} second{'' if seconds == 1 else 's'}"
