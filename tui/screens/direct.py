"""A screen that is painted at once."""

from __future__ import annotations

from collections.abc import Callable

from textual import events
from textual.screen import Screen

from tui.screens.rows import RowsCompositor


class DirectScreen(Screen[None]):
    """Textual paints at the next tick of a clock of 60 Hz, and a key that comes between two ticks
    waits for nothing. Here a repaint begins as soon as there is nothing else to do
    (textual/screen.py, `_on_idle` and `_on_timer_update`)."""

    def __init__(self) -> None:
        super().__init__()
        self._compositor = RowsCompositor()
        self._drawn = False
        self._waiting: list[Callable[[], object]] = []  # until it is

    async def _on_idle(self, event: events.Idle) -> None:
        await super()._on_idle(event)
        if self._may_paint:
            self._on_timer_update()

    def _on_timer_update(self) -> None:
        super()._on_timer_update()
        if self._may_paint and not self._drawn:
            self._drawn = True
            while self._waiting:
                self._waiting.pop(0)()

    @property
    def _may_paint(self) -> bool:
        return self.is_current and not self.app._batch_count

    def once_drawn(self, act: Callable[[], object]) -> None:
        """Does it when the screen has been drawn: at once, but for the first time."""
        if self._drawn:
            act()
        else:
            self._waiting.append(act)
