"""Numbers of the command line, within bounds."""

from __future__ import annotations

from tuner.errors import UsageError
from tuner.units import INT32


def whole(flag: str, text: str, least: int, most: int = INT32) -> int:
    """A whole number within bounds, those of the engine's own types. Raises UsageError."""
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise UsageError(f"{flag} must be a whole number of at least {least}, not '{text}'.")
    if number > most:
        raise UsageError(f"{flag} can be {most:,} at most.")
    return number


def number(flag: str, text: str, least: float, most: float) -> float:
    """A number within bounds. Raises UsageError."""
    try:
        value = float(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise UsageError(f"{flag} must be a number from {least:g} to {most:g}, not '{text}'.")
    return value
