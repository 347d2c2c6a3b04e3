"""Reading the gauges of the status line, which may take a while, in a thread."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from textual.message import Message as ScreenMessage
from textual.screen import Screen

from tui.ports import RunningModel
from tuner.engine.protocol import Message

if TYPE_CHECKING:
    from tui.ports import Vitals


class Measuring:
    """Measures one thing after the other and tells the screen by messages."""

    class Measured(ScreenMessage):
        """What was measured; None where it is not known."""

        def __init__(
            self, model: RunningModel, vitals: Vitals | None, n_ctx_used: int | None
        ) -> None:
            super().__init__()
            self.model = model
            self.alive = model.alive  # its process
            self.vitals = vitals
            self.n_ctx_used = n_ctx_used  # tokens

    def __init__(self, screen: Screen[None]):
        self._screen = screen

    def start(
        self, model: RunningModel, count: Sequence[Message] | None = None, think: str = ""
    ) -> None:
        """Measures how the memory stands and, where there is something to `count`, its tokens. What
        was begun before is no longer waited for."""
        self._screen.run_worker(
            partial(self._measure, model, count, think),
            thread=True,
            exclusive=True,
            group="measure",
        )

    def _measure(self, model: RunningModel, count: Sequence[Message] | None, think: str) -> None:
        used = None
        try:
            if count is not None:
                used = model.count_tokens(count, think)
            vitals = model.vitals()
        except Exception:  # a gauge that cannot be read shows nothing
            vitals = None
        self._screen.post_message(self.Measured(model, vitals, used))
