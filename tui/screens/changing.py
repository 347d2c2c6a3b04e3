"""Another model in place of the one that is loaded, or that one in another shape."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

from textual.screen import Screen

from tui.answering import Chat
from tui.answering.shaping import Shape
from tui.ports import LaunchEvent, RunningModel
from tui.screens.balance import Balance
from tui.screens.choices import Choice
from tui.screens.lines import LinesBelow
from tui.screens.loads import Loads
from tui.widgets import Transcript
from tuner.errors import KvchatError
from tuner.settings import Settings


class Talk(Protocol):
    """What of the chat this needs."""

    @property
    def chat(self) -> Chat: ...
    @property
    def ready(self) -> RunningModel | None:
        """The model, where it can be asked something."""

    @property
    def think(self) -> str: ...
    def still_answering(self) -> bool:
        """An answer is being written, and says so where it is."""

    async def settle(self) -> bool:
        """Stops what is being written and waits until it is saved; False: it does not end."""


class Changing:
    """Lives on the screen's thread; what counts or plans does so in others, and `Loads` tells the
    screen what comes of a load."""

    def __init__(
        self,
        screen: Screen[Any],
        talk: Talk,
        loads: Loads,
        lines: LinesBelow,
        transcript: Transcript,
        balance: Balance,
    ):
        self._screen = screen
        self._talk = talk
        self._loads = loads
        self._lines = lines
        self._transcript = transcript
        self._balance = balance

    def start(self, load: Callable[[], Iterator[LaunchEvent]] | None = None) -> None:
        """Begins a load. `load`: another way than planning and loading."""
        self._loads.start(load)
        self._lines.set_status(self._talk.think)
        self._lines.idle()

    def change(self, choice: Choice) -> None:
        """Loads the model with what was chosen; what is written of an answer is kept."""
        self._screen.run_worker(self._change(choice), group="change", exclusive=True)

    async def _change(self, choice: Choice) -> None:
        if not await self._talk.settle():
            return
        model = self._loads.model
        if model is not None:
            self.start(partial(model.change, choice.settings, keep=choice.keep))
        else:
            self._loads.launcher.choose(choice.settings, keep=choice.keep)
            self.start()

    # ------------------------------------------------------------ another shape of its cache

    def shape(self, shape: Shape) -> None:
        """Gives the cache another shape, where there is one that fits."""
        model = self._talk.ready
        if model is None:
            self._lines.say_no_model()
        elif not self._talk.still_answering():
            self._lines.say("looking for room")
            self._screen.run_worker(self._find(model, shape), group="shape", exclusive=True)

    async def _find(self, model: RunningModel, shape: Shape) -> None:
        """What fits of it, by the conversation's own length; then the model is changed."""
        chat, think = self._talk.chat, self._talk.think

        def found() -> Settings:
            least = model.count_tokens(chat.prompt(), think) if chat.path else 0
            return model.reshaped(shape.n_ctx, shape.types, least)

        try:
            settings = await asyncio.to_thread(found)
        except KvchatError as error:
            await self._transcript.notice(str(error), "warning")
            self._lines.idle()
            return
        if settings == model.settings:
            self._lines.say("the cache has that shape already")
        else:
            self.change(Choice(settings, keep=None))

    def tell_shapes(self) -> None:
        """Says what types the cache could have, with how long a context each."""
        model = self._loads.model
        if model is None:
            self._lines.say_no_model()
        else:
            self._screen.run_worker(self._tell_shapes(model), group="shapes", exclusive=True)

    async def _tell_shapes(self, model: RunningModel) -> None:
        self._lines.say(await asyncio.to_thread(model.shapes_text))

    # ------------------------------------------------------------ what suits the memory of now

    def move(self, settings: Settings) -> None:
        """Loads this for as long as it suits; what later launches load stays as it was."""
        model = self._talk.ready
        if model is not None:
            self.start(partial(model.try_out, settings, model.settings))

    def take_offer(self) -> None:
        """Loads the better plan that was offered. It stays offered while it cannot be."""
        model = self._loads.model
        offered = self._balance.offered(model) if model is not None else None
        if offered is None:
            self._lines.say("no better plan is known for the memory that is free")
        elif self._loads.active:
            self._lines.say_still_loading()
        elif not self._loads.ready:
            self._lines.say_no_model()
        elif not self._talk.still_answering():
            self._balance.taken()
            self.move(offered)
