"""Ctrl+C, and whatever else is to end a command that waits for the model."""

from __future__ import annotations

import signal
from collections.abc import Callable


def end_by_signals(kill: Callable[[], None]) -> None:
    """From now on a signal calls `kill` and raises KeyboardInterrupt."""

    def interrupt(*_: object) -> None:
        kill()  # first: whoever waits for it must not go on waiting for it to stop
        raise KeyboardInterrupt

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), interrupt)
