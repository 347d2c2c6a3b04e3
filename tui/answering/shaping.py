"""Another shape of the cache, as people ask for it: "32k", or "q8_0", or "q8_0/q4_0"."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.errors import UsageError
from tuner.memory.cache_types import cache_type
from tuner.settings import MAX_CONTEXT
from tuner.units import parse_tokens


@dataclass(frozen=True, slots=True)
class Shape:
    """What is asked for; None: as it is."""

    n_ctx: int | None = None
    types: tuple[str, str] | None = None  # of K and V


def of_tokens(text: str) -> Shape:
    """Raises UsageError."""
    n_ctx = parse_tokens(text)
    if not 1 <= n_ctx <= MAX_CONTEXT:
        raise UsageError(f"A context has 1 to {MAX_CONTEXT:,} tokens.")
    return Shape(n_ctx)


def of_types(text: str) -> Shape:
    """One type, or two with a slash between. Raises UsageError."""
    type_k, _, type_v = (part.strip() for part in text.partition("/"))
    return Shape(types=(cache_type("/kv", type_k), cache_type("/kv", type_v or type_k)))
