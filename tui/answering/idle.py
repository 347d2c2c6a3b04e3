"""For how long nobody asked for anything."""

from __future__ import annotations

import time
from collections.abc import Callable


class Idle:
    """`due` once nothing was done for `seconds`; None: never."""

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic):
        self._seconds = seconds
        self._clock = clock
        self._since = clock()

    def done(self) -> None:
        """Somebody did something, or something was done for somebody."""
        self._since = self._clock()

    @property
    def due(self) -> bool:
        return self._seconds is not None and self._clock() - self._since >= self._seconds
