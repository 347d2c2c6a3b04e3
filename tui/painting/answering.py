"""One answer at a time: begun, stopped, waited for."""

from __future__ import annotations

import asyncio

from tui.answering import Chat, Generation, Growing
from tui.painting.painter import Painter
from tui.ports import RunningModel
from tui.storage import Recorder
from tui.widgets import Transcript
from tui.widgets.keystrokes import Keystrokes
from tuner.engine.protocol import Sampling


class Answering:
    """Knows whether an answer is being written. Lives on the screen's thread."""

    def __init__(self, transcript: Transcript, recorder: Recorder | None, keystrokes: Keystrokes):
        """`recorder`: None where answers are not to be saved."""
        self._transcript = transcript
        self._recorder = recorder
        self._keystrokes = keystrokes
        self._generation: Generation | None = None
        self._done = asyncio.Event()
        self._done.set()

    @property
    def active(self) -> bool:
        """An answer is being written."""
        return self._generation is not None

    async def begin(
        self, chat: Chat, running: RunningModel, sampling: Sampling, think: str = ""
    ) -> Painter:
        """Puts an empty answer on the screen; `think`: the level of thinking. Returns what fills
        it: its `growing.generation.run` belongs in a thread, its `run` on the screen's, and `end`
        is to be called after both."""
        return await self._painter(Growing.begin(chat, running, self._recorder, sampling, think))

    async def go_on(
        self, chat: Chat, running: RunningModel, sampling: Sampling, think: str = ""
    ) -> Painter:
        """The same for more of the last answer, which was stopped or cut short."""
        return await self._painter(Growing.go_on(chat, running, self._recorder, sampling, think))

    async def _painter(self, growing: Growing) -> Painter:
        self._generation = growing.generation
        self._done.clear()
        transcript, answer = self._transcript, growing.answer
        entry = transcript.reopen(answer) or await transcript.add(answer, streaming=True)
        return Painter(growing, transcript, entry, self._keystrokes)

    def begin_aside(self, generation: Generation) -> None:
        """The model is asked something beside the conversation, which whoever asks reads; `end` is
        to be called afterwards."""
        self._generation = generation
        self._done.clear()

    def end(self) -> None:
        """The answer is written, drawn and saved."""
        self._generation = None
        self._done.set()

    def stop(self) -> bool:
        """Asks the engine to stop; returns at once. True where that is news."""
        if self._generation is None:
            return False
        news = not self._generation.stopped
        self._generation.stop()
        return news

    async def settle(self, seconds: float) -> bool:
        """Stops what is being written and waits until it is saved; False: it does not end within
        `seconds`."""
        if self._generation is not None:
            self._generation.stop()
            try:
                async with asyncio.timeout(seconds):
                    await self._done.wait()
            except TimeoutError:
                return False
        return True
