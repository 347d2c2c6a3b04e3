"""Tokens into what can be shown: whole characters, stop texts held back, thoughts apart."""

from __future__ import annotations

import codecs
import copy
import re
import time
from collections.abc import Iterable, Sequence

from tuner.engine.protocol import Text, WasThought
from tuner.engine.reasoning import Part, Splitter


class Answer:
    """An answer being written: takes tokens one by one, `take` gives what may be shown so far.

    Between two tokens the engine reads the whole model, and leaves nothing of ours in the CPU's
    caches: what is done for each token takes ten times as long as it would alone. So tokens in
    which nothing can begin that ends or parts an answer wait for the next `take`, and are read
    together."""

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
        self._waiting: list[bytes] = []  # tokens that nothing hangs on
        begins = _beginning((*splitter.first_letters, *stops, *answer_stops))
        self._may_begin = begins.search
        self._n_untold = 0  # tokens that no event has counted yet
        self._began = self._last = 0.0  # when the first token came, and the last
        self.n_tokens = 0
        self.thought_seconds = 0.0
        self.ended = False  # a stop text is complete, or the model speaks for another
        self._look()

    def _look(self) -> None:
        """Where the answer stands, after what may have changed that."""
        splitter = self._splitter
        self.thinking = splitter.thinking
        self.answering = splitter.answering
        self.ended = self._text.stopped or self._said.stopped or splitter.over
        self._calm = splitter.calm and not (self._text.holds or self._said.holds)

    def opens_thought(self, piece: bytes, mark: str | None) -> bool:
        """Whether this token, where nothing has been answered yet, would begin a thought or what
        may become its mark. `mark`: as for `mark`."""
        self._read_waiting()
        if self._answered:
            return False
        splitter = copy.deepcopy(self._splitter)
        parts = splitter.mark(mark) if mark else splitter.feed(piece.decode("utf-8", "replace"))
        if any(part.text.strip() for part in parts):
            return False
        return splitter.may_think

    def add(self, piece: bytes) -> None:
        """A token of text."""
        if not self.n_tokens:
            self._began = self._last = time.monotonic()
        self.n_tokens += 1
        if self._calm and not self._may_begin(piece):
            self._waiting.append(piece)
            return
        self._read_waiting()
        self._read(piece, 1)

    def mark(self, token: str) -> None:
        """A control token that is a mark."""
        if not self.n_tokens:
            self._began = self._last = time.monotonic()
        self.n_tokens += 1
        self._read_waiting()
        before = self._splitter.feed(self._text.finish())
        self._count(1, [*before, *self._splitter.mark(token)])

    def take(self) -> list[Text | WasThought]:
        """What is new since the last call."""
        self._read_waiting()
        events, self._events = self._events, []
        return events

    def finish(self) -> list[Text | WasThought]:
        """The rest."""
        self._read_waiting()
        self._tell(self._splitter.feed(self._text.finish()))
        self._tell(self._splitter.finish())
        self._event(self._said.finish(), thought=False)
        return self.take()

    def _read_waiting(self) -> None:
        if self._waiting:
            pieces, self._waiting = self._waiting, []
            self._read(b"".join(pieces), len(pieces))

    def _read(self, text: bytes, n_tokens: int) -> None:
        self._text.add(text)
        self._count(n_tokens, self._splitter.feed(self._text.take()))

    def _count(self, n_tokens: int, parts: Sequence[Part]) -> None:
        now = time.monotonic()
        self._n_untold += n_tokens
        if self.thinking:
            self.thought_seconds += now - self._last
        self._last = now
        self._tell(parts)
        self._look()

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
                self._said.say(part.text)
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
        self.say(self._decoder.decode(piece))

    @property
    def holds(self) -> bool:
        """Whether something may be the beginning of a stop text, or is that of a character."""
        return bool(self._held or self._decoder.getstate()[0])

    def say(self, text: str) -> None:
        """Adds whole characters."""
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


def _beginning(texts: Iterable[str]) -> re.Pattern[bytes]:
    """Finds the first byte of any of these texts."""
    firsts = {text.encode("utf-8", "replace")[:1] for text in texts if text}
    return re.compile(b"[%s]" % b"".join(map(re.escape, sorted(firsts))))
