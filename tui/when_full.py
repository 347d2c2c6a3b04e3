"""What is done where the context is full."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Way(Enum):
    """A way to room in the context."""

    GROW = "grow"  # a larger one
    DROP = "drop"  # the oldest turns are let go
    SUMMARISE = "summarise"  # and a summary stands in for them
    BRING_BACK = "bring_back"  # the other way round: what was let go is seen again


ASK = "ask"
# What `--when-full` takes; without a way, the user is asked.
WHEN_FULL: Mapping[str, Way | None] = {
    ASK: None,
    **{way.value: way for way in (Way.DROP, Way.SUMMARISE, Way.GROW)},
}
