"""The single lines below the transcript: what is going on, and how the model stands."""

from __future__ import annotations

import re
from dataclasses import replace

from textual import events
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.timer import Timer
from textual.widget import Widget

from tui.status import EMPTY, FULL, SEPARATOR, WARNING, Status, compose
from tuner.safe_text import one_line

WORD_SECONDS = 4.0


# Stretches of a gauge, and the word at the beginning.
_PIECES = re.compile(f"({FULL}+|{EMPTY}+|^{WARNING} [^{SEPARATOR.strip()}]+)")
_COLOURS = {FULL: "$text-secondary", EMPTY: "$faint", WARNING: "$text-warning"}


def _styled(piece: str, other: str = "") -> tuple[str, str]:
    return piece, _COLOURS.get(piece[:1], other)


class StatusLine(Widget):
    """Model, settings, context, memory and speed, fitted to the width."""

    status: reactive[Status | None] = reactive(None, repaint=False)

    def __init__(self) -> None:
        super().__init__()
        self._line = ""  # as it was drawn last

    def change(self, **changes: object) -> None:
        """Shows new values of some of the fields of `Status`."""
        if self.status is not None:
            self.status = replace(self.status, **changes)  # type: ignore[arg-type]

    def watch_status(self) -> None:
        """A few bytes more or less are no reason to draw it again."""
        if self._composed() != self._line:
            self.refresh()

    def _composed(self) -> str:
        status = self.status
        return one_line(compose(status, self.content_size.width)) if status is not None else ""

    def render(self) -> Content:
        self._line = self._composed()
        return Content.assemble(*map(_styled, _PIECES.split(self._line)))


class ActivityLine(Widget):
    """What is being done, or for a while a word on what a key has done; and whether there is more
    below. Its row is always there, so that the text above does not jump."""

    activity: reactive[str] = reactive("")
    word: reactive[str] = reactive("")
    below: reactive[str] = reactive("")

    class BelowClicked(Message):
        """The user wants to see the end."""

    def __init__(self) -> None:
        super().__init__()
        self._said: Timer | None = None

    def render(self) -> Content:
        width = self.content_size.width
        left, right = one_line(self.word or self.activity), self.below
        if right and len(left) + len(right) + 2 > width:
            left = ""  # what is below is the thing one can act upon
        right = right if len(right) <= width else "↓"[:width]
        space = " " * max(0, width - len(left) - len(right))
        pieces = [_styled(piece, "$muted") for piece in _PIECES.split(left[:width])]
        return Content.assemble(*pieces, space, (right, "$text-accent"))

    def say(self, word: str) -> None:
        """A word that stands as long as one reads it, whatever else is done."""
        if self._said is not None:
            self._said.stop()
        self.word = word
        self._said = self.set_timer(WORD_SECONDS, self._forget)

    def _forget(self) -> None:
        self.word = ""

    def on_click(self, event: events.Click) -> None:
        if self.below:
            event.stop()
            self.post_message(self.BelowClicked())


class Hints(Widget):
    """The keys that matter now; as many as fit, whole."""

    keys: reactive[tuple[tuple[str, str], ...]] = reactive(())

    def render(self) -> Content:
        parts: list[str | Content | tuple[str, str]] = []
        room = self.content_size.width
        for key, what in self.keys:
            size = len(key) + 1 + len(what) + (3 if parts else 0)
            if size > room:
                break
            room -= size
            if parts:
                parts.append("   ")
            parts += [(key, "$text-accent"), (f" {what}", "$muted")]
        return Content.assemble(*parts)
