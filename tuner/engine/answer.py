"""Bytes of tokens into text that can be shown: whole characters, and stop texts held back."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


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
