"""Asks for one line of text."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input

from tui.keymap import Place
from tui.screens.bindings import bindings
from tui.widgets import Plain
from tuner.safe_text import one_line


class LineScreen(ModalScreen[str | None]):
    """Gives back what was written, without the spaces around it; None where that is nothing, or
    where it was left."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Place.LINE)

    def __init__(self, title: str, value: str = "", placeholder: str = ""):
        """`title`: what is asked for. `value`: to begin with."""
        super().__init__()
        self._title = title
        self._value = value
        self._placeholder = placeholder

    def compose(self) -> ComposeResult:
        with Vertical(id="line"):
            yield Plain(self._title)
            yield Input(one_line(self._value), placeholder=self._placeholder, id="line-input")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip() or None)
