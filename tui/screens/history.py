"""A search through what was asked before, as shells have it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList

from tui.composing.searching import excerpt, holding
from tui.keymap import Keymap, Place, Show
from tui.screens.bindings import bindings
from tui.widgets import Hints, Plain
from tui.widgets.newest import Newest
from tuner.units import count_text


class HistoryScreen(ModalScreen[str | None]):
    """Gives back the question that was chosen, or None."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Place.HISTORY)

    VERTICAL_BREAKPOINTS = [(0, "-short"), (20, "-tall")]  # noqa: RUF012

    @dataclass(eq=False)
    class Found(Message):
        """The questions that hold all of the words, and a row for each."""

        wanted: tuple[str, bool]
        questions: list[str]
        rows: list[Content]

    def __init__(self, here: Sequence[str], everywhere: Sequence[str], keymap: Keymap):
        """`here`: of this conversation, `everywhere`: of all; the newest first."""
        super().__init__()
        self._asked = {False: here, True: everywhere}
        self._keymap = keymap
        self._everywhere = True
        self._questions: list[str] = []  # that were found,
        self._found: tuple[str, bool] | None = None  # by these words, and where
        self._take_wanted = False  # as soon as what is written has been looked for
        self._looking: Newest[tuple[str, bool]] = Newest(self, self._look, "history")

    def compose(self) -> ComposeResult:
        with Vertical(id="history"):
            yield Plain(id="history-title")
            yield Input(placeholder="Words of a question", id="history-words")
            yield OptionList(markup=False)
            yield Hints()

    def on_mount(self) -> None:
        self.query_one(Hints).keys = self._keymap.hints(Show.IDLE, Place.HISTORY)
        self.query_one(OptionList).can_focus = False  # typing always searches
        self.set_focus(self.query_one(Input))
        self._search()

    def on_key(self, event: events.Key) -> None:
        """What is typed before the line has the focus is for it, too."""
        words = self.query_one(Input)
        if event.is_printable and event.character and self.focused is not words:
            event.stop()
            words.insert_text_at_cursor(event.character)

    # ------------------------------------------------------------ the search

    @property
    def _wanted(self) -> tuple[str, bool]:
        return self.query_one(Input).value, self._everywhere

    def _search(self) -> None:
        self._take_wanted = False
        self._looking.ask(self._wanted)

    def on_input_changed(self) -> None:
        self._search()

    def _look(self, wanted: tuple[str, bool]) -> None:
        """In a thread."""
        words, everywhere = wanted
        found = holding(words, self._asked[everywhere])
        self.post_message(self.Found(wanted, found, [_row(each, words) for each in found]))

    def on_history_screen_found(self, message: Found) -> None:
        if message.wanted != self._wanted:
            return  # the next one follows
        self._found, self._questions = message.wanted, message.questions
        listing = self.query_one(OptionList)
        listing.clear_options()
        listing.add_options(message.rows)
        listing.highlighted = 0 if self._questions else None
        self._show_title()
        if self._take_wanted:
            self.action_take()

    def _show_title(self) -> None:
        n = len(self._questions)
        where = "of all conversations" if self._everywhere else "of this conversation"
        found = count_text(n, "question") if n else "no question"
        self.query_one("#history-title", Plain).show(f"{found} {where}")

    # ------------------------------------------------------------ actions

    def action_move(self, step: int) -> None:
        listing = self.query_one(OptionList)
        if self._questions:
            at = (listing.highlighted or 0) + step
            listing.highlighted = min(max(at, 0), len(self._questions) - 1)

    def action_scope(self) -> None:
        self._everywhere = not self._everywhere
        self._search()

    def action_take(self) -> None:
        at = self.query_one(OptionList).highlighted
        if self._found != self._wanted:
            self._take_wanted = True
        elif at is not None and self._questions:
            self.dismiss(self._questions[at])

    def on_option_list_option_selected(self) -> None:
        self.action_take()

    def action_leave(self) -> None:
        self.dismiss(None)


def _row(question: str, words: str) -> Content:
    """A question on a line, with the words marked."""
    text = excerpt(question, words)
    row = Content(text)
    for word in words.split():
        for match in re.finditer(re.escape(word), text, re.IGNORECASE):
            row = row.stylize("bold $text-accent", *match.span())
    return row
