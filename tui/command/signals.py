"""Ctrl+C, and whatever else is to end a command."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable

from tui.parachute import Parachute
from tuner.errors import ExitCode

_SECONDS = 2.0  # to leave in order


def end_by_signals(kill: Callable[[], None]) -> None:
    """From now on a signal calls `kill` and raises KeyboardInterrupt."""

    def interrupt(*_: object) -> None:
        kill()  # first: whoever waits for it must not go on waiting for it to stop
        raise KeyboardInterrupt

    on_signals(("SIGINT", "SIGTERM", "SIGHUP"), interrupt)


def leave_by_signals(
    leave: Callable[[], object], parachute: Parachute, names: Iterable[str]
) -> None:
    """From now on the first of these signals leaves in order, the second at once."""
    asked = False

    def handle(*_: object) -> None:
        nonlocal asked
        parachute.arm(0.0 if asked else _SECONDS, ExitCode.INTERRUPTED)
        asked = True
        leave()

    on_signals(names, handle)


def on_signals(names: Iterable[str], handle: Callable[..., None]) -> None:
    """Those that the system has."""
    for name in names:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), handle)
