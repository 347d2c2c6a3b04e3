"""Draws an answer while it is generated, at a pace that leaves the keyboard its time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from tui.answering import Growing, Taken
from tui.answering.figures import Pace
from tui.painting.doing import doing
from tui.widgets import ActivityLine, Entry, Transcript
from tui.widgets.keystrokes import Keystrokes
from tuner.engine.protocol import PromptProgress

PERIOD = 0.04  # seconds between two drawings,
SHARE = 3  # and at least so many times what the screen's thread had to do since the last one,
PERIOD_MAX = 0.5  # but never longer than this
DRAW_CHARS = 300  # the most that one drawing adds: what it costs is what a key may have to wait;
DRAW_CHARS_MAX = 1200  # the same while nobody types, to catch up with much that came at once
TELL_SECONDS = 0.25  # between two words of what is being done


Live = Callable[[int | None, float | None], None]


class Painter:
    """Takes the text of an answer in batches, draws it and has it saved."""

    def __init__(
        self, growing: Growing, transcript: Transcript, entry: Entry, keystrokes: Keystrokes
    ):
        self.growing = growing
        self._transcript = transcript
        self._entry = entry
        self._keystrokes = keystrokes
        self._undrawn = ""  # saved already, shown as fast as the keyboard allows
        self._pace = Pace()

    async def run(self, activity: ActivityLine, live: Live | None = None) -> None:
        """Returns when the answer is at its end and drawn. `live` is told, a few times a second,
        the tokens in the cache and the tokens/s of now; None: not known yet."""
        told = float("-inf")
        worked = time.thread_time()
        while True:
            taken = self.growing.take()
            if taken.news:
                self._take_in(taken)
            self._draw(taken.finished)
            if taken.finished and not self._undrawn:
                return
            now = time.monotonic()
            tells = self.growing.generation.begun and not (taken.finished or self._stopped)
            if tells and now - told >= TELL_SECONDS:
                self._tell(activity, live, taken.progress)
                told = now
            self.growing.keep()
            # Most of the work, layout and painting, comes after the call that asks for it.
            work, worked = time.thread_time() - worked, time.thread_time()
            await asyncio.sleep(min(PERIOD_MAX, max(PERIOD, SHARE * work)))
            await self._keystrokes.gap()

    @property
    def _stopped(self) -> bool:
        """The user asked for it: what is said is that it stops."""
        return self.growing.generation.stopped

    def _take_in(self, taken: Taken) -> None:
        if taken.anew:
            self._undrawn = ""
            self._entry.clear()
        self._undrawn += taken.text
        self._transcript.replace(self.growing.answer)
        self._entry.update_message(self.growing.answer, streaming=True)

    def _draw(self, final: bool) -> None:
        n = DRAW_CHARS if self._keystrokes.expected else DRAW_CHARS_MAX
        part, self._undrawn = self._undrawn[:n], self._undrawn[n:]
        last = final and not self._undrawn
        if part or last:
            self._entry.feed(part, last)
        if last:
            self._entry.update_message(self.growing.answer)

    def _tell(
        self, activity: ActivityLine, live: Live | None, progress: PromptProgress | None
    ) -> None:
        growing = self.growing
        if growing.n_new:
            self._pace.note(growing.n_new)
        activity.activity = doing(growing, progress, self._pace.tps)
        if live is not None:
            read = None if progress is None else progress.n_reused + progress.done
            live(None if read is None else read + growing.n_new, self._pace.tps)
