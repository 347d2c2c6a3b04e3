"""The fit report of the running model."""

from __future__ import annotations

from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.events import Resize
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Static

from tui.plain import printable
from tui.session import Running
from tui.widgets.lines import Hints


class ReportScreen(Screen[None]):
    """Predicted against actual, as text; laid out anew for each width."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f2,q", "dismiss", "Back", priority=True),
    ]

    class Written(Message):
        """The report's text is there."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, running: Running):
        super().__init__()
        self._running_model = running
        self._width = 0

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="report-scroll"):
            yield Static("", id="report", markup=False)
        yield Hints()

    def on_mount(self) -> None:
        self.query_one(Hints).keys = (("Esc", "back"), ("↑↓ PgUp PgDn", "scroll"))
        self.query_one("#report-scroll").focus()

    def on_resize(self, event: Resize) -> None:
        width = max(20, event.size.width - 4)
        if width != self._width:
            self._width = width
            self._write(width)

    @work(thread=True, exclusive=True)
    def _write(self, width: int) -> None:
        try:
            text = self._running_model.report_text(width)
        except Exception as error:  # a report that fails must not end the chat
            text = f"The report cannot be shown: {error!r}."
        self.post_message(self.Written(text))

    def on_report_screen_written(self, message: Written) -> None:
        self.query_one("#report", Static).update(printable(message.text))
