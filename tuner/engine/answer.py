"""Tokens into what can be shown: whole characters, stop texts held back, thoughts apart."""

from __future__ import annotations

import codecs
import copy
import time
from collections.abc import Sequence

from tuner.engine.protocol import Text, WasThought
from tuner.engine.reasoning import Part, Splitter


class Answer:
    """An answer being written: takes tokens one by one, `take` gives what may be shown so far."""

    def __init__(
        self, splitter: Splitter, stops: Sequence[str] = (), answer_stops: Sequence[str] = ()
    ):
        """`stops` end all that is written, thoughts too; `answer_stops` only what is answered: a
        thought is full of what would end an answer, such as an empty line."""
        self._splitter = splitter
        self._text = AnswerText(stops)
        self._said = AnswerText(answer_stops)
        self._events: list[Text | WasThought] = []
        self._answered = False  # something is
        self._n_untold = 0  # tokens that no event has counted yet
        self._began = self._last = 0.0  # when the first token came, and the last
        self.n_tokens = 0
        self.thought_seconds = 0.0

    @property
    def ended(self) -> bool:
        """A stop text is complete, or the model speaks for another."""
        return self._text.stopped or self._said.stopped or self._splitter.over

    @property
    def thinking(self) -> bool:
        return self._splitter.thinking

    @property
    def answering(self) -> bool:
        return self._splitter.answering

    def opens_thought(self, piece: bytes, mark: str | None) -> bool:
        """Whether this token, where nothing has been answered yet, would begin a thought or what
        may become its mark. `mark`: as for `mark`."""
        if self._answered:
            return False
        splitter = copy.deepcopy(self._splitter)
        parts = splitter.mark(mark) if mark else splitter.feed(piece.decode("utf-8", "replace"))
        if any(part.text.strip() for part in parts):
            return False
        return splitter.may_think

    def add(self, piece: bytes) -> None:
        """A token of text."""
        thinking = self.thinking
        self._text.add(piece)
        self._count(thinking, self._splitter.feed(self._text.take()))

    def mark(self, token: str) -> None:
        """A control token that is a mark."""
        thinking = self.thinking
        before = self._splitter.feed(self._text.finish())
        self._count(thinking, [*before, *self._splitter.mark(token)])

    def take(self) -> list[Text | WasThought]:
        """What is new since the last call."""
        events, self._events = self._events, []
        return events

    def finish(self) -> list[Text | WasThought]:
        """The rest."""
        self._tell(self._splitter.feed(self._text.finish()))
        self._tell(self._splitter.finish())
        self._event(self._said.finish(), thought=False)
        return self.take()

    def _count(self, thinking: bool, parts: Sequence[Part]) -> None:
        now = time.monotonic()
        if not self.n_tokens:
            self._began = self._last = now
        self.n_tokens += 1
        self._n_untold += 1
        if thinking:
            self.thought_seconds += now - self._last
        self._last = now
        self._tell(parts)

    def _tell(self, parts: Sequence[Part]) -> None:
        for part in parts:
            if part.thought or part.moved:
                self._event(self._said.finish(), thought=False)
            if part.moved:
                self.thought_seconds = self._last - self._began
                self._events.append(WasThought())
                self._answered = False
            elif part.thought:
                self._event(part.text, thought=True)
            else:
                self._answered = self._answered or not part.text.isspace()
                self._said.add(part.text.encode())
                self._event(self._said.take(), thought=False)

    def _event(self, text: str, *, thought: bool) -> None:
        if not text:
            return
        last = self._events[-1] if self._events else None
        n_tokens = self._n_untold
        if isinstance(last, Text) and last.thought == thought:
            text, n_tokens = last.text + text, last.n_tokens + n_tokens
            self._events.pop()
        self._events.append(Text(text, n_tokens, thought))
        self._n_untold = 0


class AnswerText:
    """Collects the bytes of an answer. `take` gives what may be shown so far.

    A character is never cut; bytes that are no UTF-8 become U+FFFD. Text that may be the
    beginning of one of `stops` is held back; once one is complete, `stopped` is true and nothing
    from it on is ever given."""

    def __init__(self, stops: Sequence[str] = ()):
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stops)
        self._ready: list[str] = []
        self._held = ""
        self.stopped = False

    def add(self, piece: bytes) -> None:
        text = self._decoder.decode(piece)
        if not self._stops:
            if text:
                self._ready.append(text)
            return
        if self.stopped or not text:
            return
        self._held += text
        ends = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if ends:
            self._ready.append(self._held[: min(ends)])
            self._held = ""
            self.stopped = True
            return
        keep = self._possible_beginning()
        self._ready.append(self._held[: len(self._held) - keep])
        self._held = self._held[len(self._held) - keep :]

    def take(self) -> str:
        """What is ready since the last call."""
        text = "".join(self._ready)
        self._ready.clear()
        return text

    def finish(self) -> str:
        """The rest, at the end of an answer: also an unfinished character, as U+FFFD."""
        if not self.stopped:
            self._ready.append(self._held + self._decoder.decode(b"", final=True))
            self._held = ""
        return self.take()

    def _possible_beginning(self) -> int:
        """Length of the longest end of the held text that begins a stop text."""
        longest = max(map(len, self._stops)) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
