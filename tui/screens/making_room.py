"""Making room in the context, in one of several ways, while the chat is open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from textual.screen import Screen

from tui.answering import Chat, Generation
from tui.answering.room import Situation
from tui.answering.view import View
from tui.painting import Answering
from tui.storage import Recorder
from tui.when_full import Way
from tuner.engine.protocol import WasThought
from tuner.errors import KvchatError
from tuner.settings import Settings
from tuner.units import count_text

if TYPE_CHECKING:
    from tui.ports import Candidate

PERIOD = 0.05  # seconds between two looks at a summary that is written


class NoRoomError(KvchatError):
    """There is no room to be made in this way; `str()` says why."""

    kind = "no_room"


class MakingRoom:
    """Lives on the screen's thread; what counts, plans or writes does so in others."""

    def __init__(
        self,
        screen: Screen[Any],
        answering: Answering,
        recorder: Recorder,
        say: Callable[[str], None],
    ):
        """`say`: tells what is being done."""
        self._screen = screen
        self._answering = answering
        self._recorder = recorder
        self._say = say

    async def make(self, way: Way, chat: Chat, situation: Situation) -> str | Settings:
        """What was done, in a sentence, or the settings that are to be loaded; "": it was stopped.
        Raises KvchatError; everything is as it was then."""
        match way:
            case Way.DROP:
                self._say("counting")
                cut = await asyncio.to_thread(room, situation)
                return self._mark(chat, situation, cut)
            case Way.SUMMARISE:
                return await self._summarise(chat, situation)
            case Way.GROW:
                self._say("planning a larger context")
                larger, _ = await asyncio.to_thread(larger_context, situation)
                return larger.settings
            case Way.BRING_BACK:
                return self._bring_back(chat)

    def _mark(self, chat: Chat, situation: Situation, cut: View) -> str:
        last = chat.let_go(chat.tree[cut.gone[-1].id], cut.stands_in)
        self._recorder.save(chat.record(), last)
        n = count_text(len(situation.going(cut)), "message")
        if cut.stands_in != situation.view.stands_in:
            return f"The oldest {n} are summarised for the model; they are kept here."
        return f"The oldest {n} are out of the model's view; they are kept here."

    def _bring_back(self, chat: Chat) -> str:
        before = len(chat.view.gone)
        last = chat.bring_back()
        if last is None:
            raise NoRoomError("Nothing was let go: the model sees all of this conversation.")
        self._recorder.save(chat.record(), last)
        return f"The model sees {count_text(before - len(chat.view.gone), 'message')} again."

    # ------------------------------------------------------------ a summary

    async def _summarise(self, chat: Chat, situation: Situation) -> str:
        self._say("counting")
        cut = await asyncio.to_thread(partial(room, situation, for_summary=True))
        running, levels = situation.running, situation.running.think_levels
        generation = Generation(
            running,
            situation.asked_for_summary(cut),
            situation.sampling_of_summary(),
            think=levels[0] if levels else "",
        )
        self._answering.begin_aside(generation)
        try:
            self._screen.run_worker(generation.run, thread=True, group="engine")
            summary = await self._written(generation, len(situation.going(cut)))
            if (error := generation.error) is not None:
                too_long = NoRoomError("There is no room to write a summary in; let turns go.")
                raise too_long if error.kind == "context_full" else error
            if generation.stopped:
                return ""
            if not summary:
                raise NoRoomError("The model wrote no summary; everything is as it was.")
            self._say("counting")
            cut = await asyncio.to_thread(situation.summarised, cut, summary)
        finally:
            self._answering.end()
        return self._mark(chat, situation, cut)

    async def _written(self, generation: Generation, n_messages: int) -> str:
        """What the model says, once it has said all of it; its thoughts are left out."""
        parts: list[str] = []
        n_tokens = 0
        while True:
            finished = generation.finished  # before the text is taken, so that none is missed
            said, progress = generation.take()
            for event in said:
                if isinstance(event, WasThought):
                    parts.clear()
                    continue
                n_tokens += event.n_tokens
                if not event.thought:
                    parts.append(event.text)
            if finished:
                return "".join(parts).strip()
            if generation.stopped:
                generation.stop()  # again: the first may have come before the engine began
            elif not n_tokens and progress is not None and progress.done < progress.total:
                self._say(f"reading {progress.done:,}/{progress.total:,} tokens to summarise")
            else:
                tokens = count_text(n_tokens, "token")
                self._say(f"summarising {count_text(n_messages, 'message')} · {tokens}")
            await asyncio.sleep(PERIOD)


def larger_context(situation: Situation) -> tuple[Candidate, str]:
    """A plan with a larger context, and how it differs from what is loaded. Blocks. Raises
    KvchatError."""
    explorer = situation.running.explorer()
    needed = situation.n_tokens(situation.view) + 1 if situation.draft else 0
    found = explorer.larger(needed)
    if found is None:
        raise NoRoomError("No larger context fits, neither the memory nor the model.")
    return found, explorer.difference(found)


def room(situation: Situation, *, for_summary: bool = False) -> View:
    """What is seen once the oldest turns are gone. Blocks. Raises KvchatError."""
    cut = situation.cut(for_summary=for_summary)
    if cut is not None:
        return cut
    if situation.draft:
        raise NoRoomError("What is written is too long by itself for this context.")
    raise NoRoomError("There are no older turns that could be let go.")
