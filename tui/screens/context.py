"""What fills the context, and the ways to room in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from tui.answering.making_room import larger_context, room
from tui.answering.room import Situation
from tui.keymap import Keymap, Place, Show
from tui.screens.bindings import bindings
from tui.when_full import Way
from tui.widgets import Hints, Plain
from tuner.errors import KvchatError
from tuner.safe_text import one_line
from tuner.units import count_text

_WAYS = {
    Way.GROW: "A larger context",
    Way.DROP: "Let the oldest turns go",
    Way.SUMMARISE: "Summarise them",
    Way.BRING_BACK: "Bring back what was let go",
}


class ContextScreen(ModalScreen[Way | None]):
    """Gives back the way that was chosen. What each comes to is found out in threads."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Place.CONTEXT)

    @dataclass(eq=False)
    class Found(Message):
        """What a way comes to; `possible`: it can be gone."""

        way: Way
        text: str
        possible: bool

    @dataclass(eq=False)
    class Counted(Message):
        """Tokens in use, with the draft."""

        n_tokens: int

    def __init__(self, situation: Situation, keymap: Keymap):
        super().__init__()
        self._situation = situation
        self._keymap = keymap
        self._found: dict[Way, ContextScreen.Found] = {}
        self._n_tokens: int | None = None

    def compose(self) -> ComposeResult:
        with Vertical(id="context"):
            yield Plain(id="context-title")
            yield OptionList(*(Option(self._row(way), way.value) for way in _WAYS), markup=False)
            yield Hints()

    def on_mount(self) -> None:
        self.query_one(Hints).keys = self._keymap.hints(Show.IDLE, Place.CONTEXT)
        self._show_title()
        self.query_one(OptionList).focus()
        self.run_worker(self._count, thread=True)
        self.run_worker(self._plan, thread=True)

    def _show_title(self) -> None:
        situation = self._situation
        used = "…" if self._n_tokens is None else f"{self._n_tokens:,}"
        text = f"{used} of {situation.n_ctx:,} tokens of context"
        if situation.draft:
            text += ", with what is written"
        if gone := len(situation.view.gone):
            text += f" · {count_text(gone, 'message')} out of the model's view"
        self.query_one("#context-title", Plain).show(text)

    def _row(self, way: Way) -> str:
        key = self._keymap.label(f"context.{way.value}")
        found = self._found.get(way)
        return f"{key}  {_WAYS[way]}: {found.text if found else '…'}"

    # ------------------------------------------------------------ in threads

    def _count(self) -> None:
        situation = self._situation
        gone = len(situation.view.gone)
        text = count_text(gone, "message") if gone else "nothing was let go"
        self.post_message(self.Found(Way.BRING_BACK, text, gone > 0))
        try:
            n_tokens = situation.n_tokens(situation.view)
            if not situation.draft:  # no more are there: the opening of the next answer may be one
                n_tokens = min(n_tokens, situation.n_ctx)
            self.post_message(self.Counted(n_tokens))
        except KvchatError as error:
            for way in (Way.DROP, Way.SUMMARISE):
                self.post_message(self.Found(way, str(error), False))
            return
        self._find(Way.DROP, self._dropped)
        self._find(Way.SUMMARISE, self._summarised)

    def _plan(self) -> None:
        self._find(Way.GROW, lambda: larger_context(self._situation)[1])

    def _dropped(self) -> str:
        cut = room(self._situation)
        left = self._situation.n_tokens(cut)
        return f"{count_text(len(self._situation.going(cut)), 'message')}, {left:,} tokens stay"

    def _summarised(self) -> str:
        cut = room(self._situation, for_summary=True)
        gone = count_text(len(self._situation.going(cut)), "message")
        return f"{gone}, your own words kept where they fit"

    def _find(self, way: Way, find: Callable[[], str]) -> None:
        try:
            self.post_message(self.Found(way, find(), True))
        except KvchatError as error:
            self.post_message(self.Found(way, str(error), False))

    # ------------------------------------------------------------ on the screen

    def on_context_screen_counted(self, message: Counted) -> None:
        self._n_tokens = message.n_tokens
        self._show_title()

    def on_context_screen_found(self, message: Found) -> None:
        way = message.way
        self._found[way] = message
        options = self.query_one(OptionList)
        options.replace_option_prompt(way.value, one_line(self._row(way)))
        (options.enable_option if message.possible else options.disable_option)(way.value)

    def action_choose(self, way: str) -> None:
        found = self._found.get(Way(way))
        if found is None or found.possible:
            self.dismiss(Way(way))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        if event.option_id is not None:
            self.action_choose(event.option_id)
