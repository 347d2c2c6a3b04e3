"""The loaded model beside other programs that take memory, looked at in a thread."""

from __future__ import annotations

from functools import partial

from textual.message import Message
from textual.screen import Screen

from tui.ports import Look, RunningModel
from tuner.settings import Settings


class Balance:
    """Looks once at a time, and tells the screen by messages."""

    class Looked(Message):
        """How the model suits the memory that is free now."""

        def __init__(self, model: RunningModel, look: Look) -> None:
            super().__init__()
            self.model = model
            self.look = look

    def __init__(self, screen: Screen[None]):
        self._screen = screen
        self._looking = False
        self.offered: Settings | None = None  # a better plan, that the user may take

    def start(self, model: RunningModel, *, busy: bool, least: int) -> None:
        """Looks, unless that is under way. `busy`: nothing can be loaded now. `least`: tokens that
        the conversation has."""
        if not self._looking:
            self._looking = True
            look = partial(self._look, model, busy=busy, least=least)
            self._screen.run_worker(look, thread=True, group="balance")

    def _look(self, model: RunningModel, *, busy: bool, least: int) -> None:
        try:
            look = model.look(busy=busy, least=least)
        except Exception:  # what cannot be measured moves nothing
            look = Look()
        finally:
            self._looking = False
        self._screen.post_message(self.Looked(model, look))
