"""What the model has read comes and goes with the conversations, and its memory with the questions:
all of it beside what goes on on the screen."""

from __future__ import annotations

import asyncio
import time

from textual.message import Message
from textual.screen import Screen

from tui.answering import Chat
from tui.answering.deaths import Deaths
from tui.answering.idle import Idle
from tui.answering.warm import Warm
from tui.ports import RunningModel
from tui.screens.loads import Loads
from tui.storage import Conversations

LOOK_SECONDS = 0.02  # between two looks at what is awaited


class Warmth:
    """Lives on the screen's thread, which it tells by messages what is being done."""

    class Doing(Message):
        """What goes on with what the model has read; "" where nothing does any more."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(
        self,
        screen: Screen[None],
        store: Conversations,
        loads: Loads,
        idle_seconds: float | None = None,
    ):
        """`idle_seconds`: after which the model's memory is let go; None: it is not."""
        self.read = Warm(store, lambda text: screen.post_message(self.Doing(text)))
        self.idle = Idle(idle_seconds)
        self.deaths = Deaths()
        self.doing = ""  # as it was told last
        self.mourned = ""  # why the model is being loaded again by itself
        self._loads = loads
        loads.first = self.read.wait

    @property
    def _ready(self) -> RunningModel | None:
        return self._loads.model if self._loads.ready else None

    def left(self) -> None:
        """The open conversation is left: what was read of it is kept."""
        if (model := self._ready) is not None:
            self.read.left(model)

    def opened(self, chat: Chat) -> None:
        """This one goes on, with what was read of it."""
        if (model := self._ready) is not None and chat.path:
            self.read.opened(model, chat.conversation.id)

    def rest(self) -> None:
        """Keeps what was read, and lets the model's memory go until it is asked again."""
        if (model := self._ready) is not None:
            self._loads.rest()
            self.read.let_go(model)

    def died(self, why: str, *, may_return: bool, lives: bool = False) -> bool:
        """The model's process did, or it `lives` and cannot do what it was asked; whether it is
        loaded again without being asked for."""
        comes_back = self.deaths.died() and may_return
        if comes_back or not lives:
            self._loads.died()
        if not lives:
            self.read.lost()
        self.mourned = why if comes_back else ""
        return comes_back

    # ------------------------------------------------------------ the end of it all

    def begin_to_keep(self) -> bool:
        """The chat ends; False: there is nothing to keep."""
        self.left()
        return self.read.saving

    async def kept(self, seconds: float, skip: asyncio.Event) -> None:
        """Waits until it is, so long at most."""
        until = time.monotonic() + seconds
        while self.read.saving and not skip.is_set() and time.monotonic() < until:
            await asyncio.sleep(LOOK_SECONDS)
