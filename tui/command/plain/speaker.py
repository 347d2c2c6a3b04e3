"""An answer in lines: its text as it comes, and what goes on in words."""

from __future__ import annotations

import time

from tui.answering import Growing, Taken
from tui.answering.words import n_words, took
from tui.command.one_shot import UNMARKED
from tui.command.output import PROGRESS_SECONDS, complain, write
from tui.command.pace import Pace, quarter
from tuner.engine.patience import STILL_SECONDS
from tuner.engine.protocol import PromptProgress
from tuner.units import count_text

THOUGHT_SECONDS = 10.0  # between two words on a thought that goes on


class Speaker:
    """Says one answer. What was said cannot be taken back: a text that turns out to be a thought
    stays where it is, and that is said."""

    def __init__(self, growing: Growing, *, show_thinking: bool):
        self._growing = growing
        self._shows = show_thinking
        self._n_thought = len(growing.answer.reasoning)  # characters of it that were said
        self._thinks = False  # said last
        self._told = bool(growing.answer.reasoning)  # how long it thought
        self._inside = False  # of a line
        began = time.monotonic()
        self._reading = Pace(PROGRESS_SECONDS, began)
        self._waiting = Pace(PROGRESS_SECONDS, began)
        self._thinking = Pace(THOUGHT_SECONDS, began)
        self._stopping: Pace | None = None  # from when it was asked for

    def heard(self, taken: Taken) -> None:
        """What came, and what goes on."""
        growing, now = self._growing, time.monotonic()
        thought = growing.answer.reasoning
        if taken.anew:
            self.word(UNMARKED)
            self._n_thought, self._told = len(thought), False
        if len(thought) > self._n_thought:
            self._think(thought, now)
        if taken.text:
            self._end_thought()
            self._write(taken.text)
        self._progress(taken.progress, now)

    def end(self) -> None:
        """The answer is at its end."""
        self._end_thought()
        self._break()

    def word(self, text: str) -> None:
        """What goes on, on a line of its own."""
        self._break()
        complain(text)

    def _think(self, thought: str, now: float) -> None:
        if not self._thinks:
            self.word("thinking")
            self._thinks, self._told = True, False
        if self._shows:
            self._write(thought[self._n_thought :])
        elif self._thinking.due(f"thinking, {count_text(n_words(thought), 'word')} so far", now):
            self.word(f"thinking, {count_text(n_words(thought), 'word')} so far")
        self._n_thought = len(thought)

    def _end_thought(self) -> None:
        answer = self._growing.answer
        if answer.reasoning and not self._told:
            length = count_text(n_words(answer.reasoning), "word")
            self.word(f"thought for {took(answer.thought_seconds or 0.0)}, {length}")
            self._told, self._thinks = True, False

    def _progress(self, progress: PromptProgress | None, now: float) -> None:
        generation = self._growing.generation
        if generation.stopped:
            self._stopping = self._stopping or Pace(PROGRESS_SECONDS, now)
            if self._stopping.due("stopping", now):
                self.word("stopping")
        elif generation.still >= STILL_SECONDS:
            line = f"the engine has not got on for {generation.still // 10 * 10:.0f} s"
            if self._waiting.due(line, now):
                self.word(line)
        elif not self._growing.n_tokens and progress is not None and progress.total:
            done = quarter(progress.done / progress.total)
            if self._reading.due(line := f"reading, {done} of {progress.total:,} tokens", now):
                self.word(line)

    def _write(self, text: str) -> None:
        write(text)
        self._inside = not text.endswith("\n")

    def _break(self) -> None:
        if self._inside:
            self._write("\n")
