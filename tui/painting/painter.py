"""Draws an answer while it is generated, at a pace that leaves the keyboard its time."""

from __future__ import annotations

import asyncio
import time

from tui.answering import Growing, Taken
from tui.status import gauge
from tui.widgets import ActivityLine, Entry, Transcript
from tui.widgets.keystrokes import Keystrokes
from tuner.engine.patience import STILL_SECONDS
from tuner.engine.protocol import PromptProgress
from tuner.units import tps_text

PERIOD = 0.04  # seconds between two drawings,
SHARE = 3  # and at least so many times what the screen's thread had to do since the last one,
PERIOD_MAX = 0.5  # but never longer than this
DRAW_CHARS = 300  # the most that one drawing adds: what it costs is what a key may have to wait;
DRAW_CHARS_MAX = 1200  # the same while nobody types, to catch up with much that came at once
TELL_SECONDS = 0.25  # between two words of what is being done
RATE_SECONDS = 1.0  # since the first word, after which one may say how fast they come


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

    async def run(self, activity: ActivityLine) -> None:
        """Returns when the answer is at its end and drawn."""
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
            if now - told >= TELL_SECONDS and not self.growing.generation.stopped:
                activity.activity = self._doing(taken.progress)
                told = now
            self.growing.keep()
            # Most of the work, layout and painting, comes after the call that asks for it.
            work, worked = time.thread_time() - worked, time.thread_time()
            await asyncio.sleep(min(PERIOD_MAX, max(PERIOD, SHARE * work)))
            await self._keystrokes.gap()

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

    def _doing(self, progress: PromptProgress | None) -> str:
        generation = self.growing.generation
        still = generation.still
        if still >= STILL_SECONDS:
            return f"the engine has not got on for {still:.0f} s"
        if n_tokens := self.growing.n_tokens:
            what = "thinking" if self.growing.thinks else "writing"
            seconds = generation.seconds - (generation.first_seconds or 0.0)
            if seconds < RATE_SECONDS:
                return what
            return f"{what} · {n_tokens:,} tokens · {tps_text(self.growing.n_new / seconds)} t/s"
        if progress is not None and progress.total and progress.done < progress.total:
            bar = gauge(progress.done, progress.total, 12)
            return f"reading {progress.done:,}/{progress.total:,} tokens {bar}"
        return "thinking" if progress is None or not progress.total else "reading"
