"""Making room in the context, in one of several ways, while the chat is open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from textual.screen import Screen

from tui.answering import Chat
from tui.answering.generation import Generation
from tui.answering.making_room import Made, Summary, bring_back, larger_context, let_go, room
from tui.answering.room import Situation
from tui.painting import Answering
from tui.storage import Recorder
from tui.when_full import Way
from tuner.settings import Settings

PERIOD = 0.05  # seconds between two looks at a summary that is written


class MakingRoom:
    """Lives on the screen's thread; what counts, plans or writes does so in others."""

    def __init__(
        self,
        screen: Screen[Any],
        answering: Answering,
        recorder: Recorder,
        say: Callable[[str], None],
        ask: Callable[[Generation], None],
    ):
        """`say`: tells what is being done. `ask`: runs a generation, in a thread."""
        self._screen = screen
        self._answering = answering
        self._recorder = recorder
        self._say, self._ask = say, ask

    async def make(self, way: Way, chat: Chat, situation: Situation) -> str | Settings:
        """What was done, in a sentence, or the settings that are to be loaded; "": it was stopped.
        Raises KvchatError; everything is as it was then."""
        match way:
            case Way.DROP:
                self._say("counting")
                cut = await asyncio.to_thread(room, situation)
                return self._saved(chat, let_go(chat, situation, cut))
            case Way.SUMMARISE:
                return await self._summarise(chat, situation)
            case Way.GROW:
                self._say("planning a larger context")
                larger, _ = await asyncio.to_thread(larger_context, situation)
                return larger.settings
            case Way.BRING_BACK:
                return self._saved(chat, bring_back(chat))

    def _saved(self, chat: Chat, done: Made) -> str:
        message, said = done
        self._recorder.save(chat.record(), message)
        return said

    async def _summarise(self, chat: Chat, situation: Situation) -> str:
        self._say("counting")
        cut = await asyncio.to_thread(partial(room, situation, for_summary=True))
        summary = await asyncio.to_thread(Summary, situation, cut)
        self._answering.begin_aside(summary.generation)
        try:
            run = partial(self._ask, summary.generation)
            self._screen.run_worker(run, thread=True, group="engine")
            while not summary.take():
                if not summary.generation.stopped:
                    self._say(summary.doing)
                await asyncio.sleep(PERIOD)
            self._say("counting")
            written = await asyncio.to_thread(summary.written)
        finally:
            self._answering.end()
        return self._saved(chat, let_go(chat, situation, written)) if written else ""
