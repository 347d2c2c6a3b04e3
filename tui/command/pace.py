"""How often a line says how far something is."""

from __future__ import annotations

QUARTERS = 4


class Pace:
    """Lets through what says something new, and nothing within `seconds` of what was before."""

    def __init__(self, seconds: float, now: float = float("-inf")):
        """`now`: seconds, from which on the first line waits as long."""
        self._seconds = seconds
        self._last = ""
        self._at = now

    def due(self, line: str, now: float) -> bool:
        """Whether this is to be said."""
        if line == self._last or now - self._at < self._seconds:
            return False
        self._last, self._at = line, now
        return True


def quarter(fraction: float) -> str:
    """How much of it is done, in quarters: 0 %, 25 %, 50 %, 75 %, 100 %."""
    return f"{int(fraction * QUARTERS) * 100 // QUARTERS} %"
