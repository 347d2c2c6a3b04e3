"""Settings that nobody chose: every field other than its default, and one field more."""

from __future__ import annotations

from dataclasses import field, fields, make_dataclass
from typing import Any

from tuner.settings import Settings

ADDED = "added_later"

_OTHERS: dict[Any, Any] = {"f16": "q8_0", "on": "auto", (): (2.0, 1.0)}


def other(value: Any) -> Any:
    """Another value of the same type, within the field's bounds."""
    return not value if isinstance(value, bool) else _OTHERS.get(value, 7)


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
