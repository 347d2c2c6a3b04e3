"""The fit report of the running model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.screen import Screen

from tui.answering.words import with_last_turn
from tui.keymap import Keymap, Place, Show
from tui.ports import RunningModel
from tui.screens.bindings import bindings
from tui.widgets import Hints, Plain

COLUMNS_MIN = 20  # a narrower report says nothing; one may scroll to the right


class ReportView(VerticalScroll):
    """Scrolls the report; says how many columns of it can be seen beside the scroll bar."""

    @dataclass(eq=False)
    class Resized(Message):
        """The width that text has here changed."""

        columns: int

    def on_resize(self) -> None:
        self.post_message(self.Resized(self.scrollable_content_region.width))


class ReportScreen(Screen[None]):
    """Predicted against actual, as text; laid out anew for each width."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Place.REPORT)

    @dataclass(eq=False)
    class Written(Message):
        """The report's text is there."""

        text: str

    def __init__(self, running: RunningModel, keymap: Keymap, last_reading: str = ""):
        """`last_reading`: what of the last prompt had to be read."""
        super().__init__()
        self._last_reading = last_reading
        self._keymap = keymap
        self._running_model = running
        self._width = 0

    def compose(self) -> ComposeResult:
        with ReportView(id="report-scroll"):
            yield Plain(id="report")
        yield Hints()

    def on_mount(self) -> None:
        self.query_one(Hints).keys = self._keymap.hints(Show.IDLE, Place.REPORT)
        self.query_one("#report-scroll").focus()

    def on_report_view_resized(self, message: ReportView.Resized) -> None:
        width = max(COLUMNS_MIN, message.columns)
        if width != self._width:
            self._width = width
            self._write(width)

    @work(thread=True, exclusive=True)
    def _write(self, width: int) -> None:
        try:
            text = with_last_turn(self._running_model.report_text(width), self._last_reading, width)
        except Exception as error:  # a report that fails must not end the chat
            text = f"The report cannot be shown: {error!r}."
        self.post_message(self.Written(text))

    def on_report_screen_written(self, message: Written) -> None:
        self.query_one("#report", Plain).show(message.text)
