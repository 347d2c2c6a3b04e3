"""A screen that is painted at once."""

from __future__ import annotations

from textual import events
from textual.screen import Screen


class DirectScreen(Screen[None]):
    """Textual paints at the next tick of a clock of 60 Hz, and a key that comes between two ticks
    waits for nothing. Here a repaint begins as soon as there is nothing else to do
    (textual/screen.py, `_on_idle` and `_on_timer_update`)."""

    async def _on_idle(self, event: events.Idle) -> None:
        await super()._on_idle(event)
        if self.is_current and not self.app._batch_count:
            self._on_timer_update()
