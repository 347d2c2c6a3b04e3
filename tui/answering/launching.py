"""A launch followed to its end, whatever that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tui.answering import advice
from tui.ports import LaunchEvent, Ready
from tuner.errors import EngineCancelled, EngineError, KvchatError


@dataclass(frozen=True, slots=True)
class Failed:
    """There is no model. `error`: None where the load was cancelled."""

    error: KvchatError | None


def events(load: Callable[[], Iterator[LaunchEvent]]) -> Iterator[LaunchEvent | Failed]:
    """What a launch tells; the last is Ready or Failed. Blocks, and never raises."""
    try:
        for event in load():
            yield event
            if isinstance(event, Ready):
                return
        yield Failed(EngineError("load_failed", "The load ended without a model."))
    except EngineCancelled:
        yield Failed(None)
    except Exception as error:
        yield Failed(advice.in_words(error, "Loading failed"))
