"""What was asked before, as one walks back through it."""

from __future__ import annotations

from collections.abc import Sequence


class History:
    """This conversation's questions, the newest first, then those of all the others. The walk
    begins and ends at what is being written, which is "" here."""

    def __init__(self) -> None:
        self._own: list[str] = []
        self._everywhere: list[str] = []
        self._walk: list[str] = []  # newest first, as it stood when it began
        self._at = 0  # steps back from what is being written

    @property
    def current(self) -> str:
        """What the walk stands at; "" where it has not begun."""
        return self._walk[self._at - 1] if self._at else ""

    def own(self, questions: Sequence[str]) -> None:
        """The open conversation's, oldest first; the walk is at its end."""
        self._own = [text for text in questions if text]
        self._at = 0

    def everywhere(self, questions: Sequence[str]) -> None:
        """Those of all conversations, oldest first, before what was added by now; a walk that has
        begun goes on as it was."""
        self._everywhere[:0] = [text for text in questions if text]

    def add(self, question: str) -> None:
        """A new one of this conversation; the walk is at its end."""
        self._own.append(question)
        self._everywhere.append(question)
        self._at = 0

    def asked(self, *, everywhere: bool) -> list[str]:
        """This conversation's, or those of all in the order in which they were asked; the newest
        first."""
        return _newest_first((*self._own, *self._everywhere) if everywhere else self._own)

    def earlier(self) -> str | None:
        """The one before; None at the beginning of all."""
        if not self._at:
            self._walk = _newest_first((*self._everywhere, *self._own))
        if self._at >= len(self._walk):
            return None
        self._at += 1
        return self.current

    def later(self) -> str | None:
        """The one after, at last ""; None where the walk has not begun."""
        if not self._at:
            return None
        self._at -= 1
        return self.current


def _newest_first(oldest_first: Sequence[str]) -> list[str]:
    """Each text once, where it is newest."""
    return list(dict.fromkeys(reversed(oldest_first)))
