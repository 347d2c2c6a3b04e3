"""Settings that nobody chose: every field other than its default, and one field more."""

from __future__ import annotations

from dataclasses import field, fields, make_dataclass
from typing import Any

from tuner.settings import Settings

ADDED = "added_later"

_OTHERS: dict[type, Any] = {int: 7, str: "other", tuple: (2.0, 1.0)}


def other(value: Any) -> Any:
    """Another value of the same type."""
    return not value if isinstance(value, bool) else _OTHERS[type(value)]


def unusual() -> Settings:
    """Every field of Settings with another value than its default."""
    usual = Settings(n_ctx=0)
    return Settings(**{f.name: other(getattr(usual, f.name)) for f in fields(usual)})


def extended() -> type[Settings]:
    """Settings as they may be one day: a class with one field more."""
    added = [(ADDED, "int", field(default=0))]
    made = make_dataclass("Settings", added, bases=(Settings,), frozen=True, slots=True)
    made.__module__ = Settings.__module__
    return made
