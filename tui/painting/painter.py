"""Draws an answer while it is generated, at a pace that leaves the keyboard its time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from tui.answering.conversation import Chat, measured
from tui.answering.generation import Generation
from tui.status import gauge
from tui.storage import Recorder, StoredMessage
from tui.widgets import ActivityLine, Entry, Transcript
from tui.widgets.keystrokes import Keystrokes
from tuner.engine.patience import STILL_SECONDS
from tuner.engine.protocol import PromptProgress, Text, WasThought
from tuner.safe_text import utf8

PERIOD = 0.04  # seconds between two drawings,
SHARE = 3  # and at least so many times what the screen's thread had to do since the last one,
PERIOD_MAX = 0.5  # but never longer than this
DRAW_CHARS = 300  # the most that one drawing adds: what it costs is what a key may have to wait;
DRAW_CHARS_MAX = 1200  # the same while nobody types, to catch up with much that came at once
TELL_SECONDS = 0.25  # between two words of what is being done
SAVE_SECONDS = 1.0  # the most that is lost if the process is killed


class Painter:
    """Takes the text of a generation in batches, draws it and has it saved."""

    def __init__(
        self,
        generation: Generation,
        chat: Chat,
        recorder: Recorder,
        transcript: Transcript,
        answer: StoredMessage,
        entry: Entry,
        keystrokes: Keystrokes,
    ):
        self.generation = generation
        self.answer = answer
        self._chat = chat
        self._recorder = recorder
        self._transcript = transcript
        self._entry = entry
        self._keystrokes = keystrokes
        self._before = answer  # what was there of it, where it goes on
        self._n_tokens = answer.n_tokens or 0
        self._thinks = False  # at the moment
        self._thinking_since = 0.0
        self._undrawn = ""  # saved already, shown as fast as the keyboard allows

    async def run(self, activity: ActivityLine) -> None:
        """Returns when the answer is at its end and drawn; `answer` is then its final state."""
        saved, began, told = time.monotonic(), time.monotonic(), float("-inf")
        worked = time.thread_time()
        changed = settled = False
        while True:
            finished = self.generation.finished  # before the text is taken, so that none is missed
            said, progress = self.generation.take()
            ended = finished and not settled
            if said or ended:
                await self._take_in(said, finished)
                settled = finished
                changed = changed or bool(said)
            await self._draw(finished)
            if finished and not self._undrawn:
                return
            now = time.monotonic()
            if self.generation.stopped:
                self.generation.stop()  # again: the first may have come before the engine began
            elif now - told >= TELL_SECONDS:
                activity.activity = self._doing(progress, now - began)
                told = now
            if changed and now - saved >= SAVE_SECONDS:
                self._recorder.save(self._chat.record(), self.answer)
                saved, changed = now, False
            # Most of the work, layout and painting, comes after the call that asks for it.
            work, worked = time.thread_time() - worked, time.thread_time()
            await asyncio.sleep(min(PERIOD_MAX, max(PERIOD, SHARE * work)))
            await self._keystrokes.gap()

    async def _draw(self, final: bool) -> None:
        n = DRAW_CHARS if self._keystrokes.expected else DRAW_CHARS_MAX
        part, self._undrawn = self._undrawn[:n], self._undrawn[n:]
        last = final and not self._undrawn
        if part or last:
            self._entry.feed(part, last)
        if last:
            self._entry.update_message(self.answer)

    async def _take_in(self, said: Sequence[Text | WasThought], final: bool) -> None:
        thoughts, answers = [self.answer.reasoning], [self.answer.content]
        for event in said:
            if isinstance(event, WasThought):
                thoughts, answers = [*thoughts, *answers], []
                self._undrawn = ""
                self._entry.clear()
                continue
            text = utf8(event.text)
            self._n_tokens += event.n_tokens
            self._turn_to(event.thought)
            if event.thought:
                thoughts.append(text)
            else:
                answers.append(text)
                self._undrawn += text
        self.answer = replace(
            self.answer,
            content="".join(answers),
            reasoning="".join(thoughts),
            n_tokens=self._n_tokens,
        )
        if final:
            done = self.generation.done
            if done is not None:
                self.answer = measured(self.answer, done, self._before)
            else:
                self.answer = replace(self.answer, state="error")
        self._chat.change(self.answer)
        self._transcript.replace(self.answer)
        self._entry.update_message(self.answer, streaming=True)

    def _turn_to(self, thought: bool) -> None:
        """The model begins to think, or ends it: for how long, until the engine says so exactly."""
        now = time.monotonic()
        if thought and not self._thinks:
            self._thinking_since = now
        if self._thinks and not thought:
            seconds = (self.answer.thought_seconds or 0.0) + now - self._thinking_since
            self.answer = replace(self.answer, thought_seconds=seconds)
        self._thinks = thought

    def _doing(self, progress: PromptProgress | None, seconds: float) -> str:
        still = self.generation.still
        if still >= STILL_SECONDS:
            return f"the engine has not got on for {still:.0f} s"
        if self._n_tokens:
            rate = f" · {self._n_tokens:,} tokens" if seconds > 1 else ""
            return f"{'thinking' if self._thinks else 'writing'}{rate}"
        if progress is not None and progress.total and progress.done < progress.total:
            bar = gauge(progress.done, progress.total, 12)
            return f"reading {progress.done:,}/{progress.total:,} tokens {bar}"
        return "thinking" if progress is None or not progress.total else "reading"
