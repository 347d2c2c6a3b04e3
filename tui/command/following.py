"""A launch, and what it is for, followed on stderr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tui.command.output import Progress
from tuner.launch import Planned, Retry, Stage

T = TypeVar("T")


def followed(events: Iterable[Stage | Planned | Retry | T], status: Progress) -> Iterator[T]:
    """Shows what is done and what is tried again; the other events are the caller's."""
    for event in events:
        match event:
            case Stage(text, fraction):
                status.show(text if fraction is None else f"{text} {fraction:.0%}")
            case Retry(reason):
                status.say(reason)
            case Planned():
                pass  # --explain says more
            case _:
                yield event
