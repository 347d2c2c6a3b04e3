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
        # A better plan, that the user may take, and the one that it is better than.
        self._offer: tuple[Settings, Settings] | None = None

    def start(self, model: RunningModel, *, busy: bool, least: int) -> None:
        """Looks, unless that is under way. `busy`: nothing can be loaded now. `least`: tokens that
        the conversation has."""
        if not self._looking:
            self._looking = True
            look = partial(self._look, model, busy=busy, least=least)
            self._screen.run_worker(look, thread=True, group="balance")

    def looked(self, message: Looked) -> None:
        """Takes in what was seen. An offer stands until other programs take the memory that it
        counts on."""
        look = message.look
        if look.tight:
            self._offer = None
        elif look.settings is not None and look.offered:
            self._offer = look.settings, message.model.settings

    def offered(self, model: RunningModel) -> Settings | None:
        """The better plan, where this is what it was offered beside: what was paused, or loaded for
        a while in place of another, has it still."""
        if self._offer is None or self._offer[1] != model.settings:
            return None
        return self._offer[0]

    def taken(self) -> None:
        """It is an offer no longer."""
        self._offer = None

    def _look(self, model: RunningModel, *, busy: bool, least: int) -> None:
        try:
            look = model.look(busy=busy, least=least)
        except Exception:  # what cannot be measured moves nothing
            look = Look()
        finally:
            self._looking = False
        self._screen.post_message(self.Looked(model, look))
