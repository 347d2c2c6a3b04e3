"""What may take the place of what is being typed: files or commands, above the prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from textual import events
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from tui.composing.completion import Choice
from tuner.cells import cells
from tuner.safe_text import one_line

ROWS = 8


class Offers(Widget):
    """A list of which a few rows are seen. It has no keys: those come to the prompt."""

    choices: reactive[tuple[Choice, ...]] = reactive((), layout=True)
    chosen: reactive[int] = reactive(0)

    def __init__(self, picked: Callable[[], None]) -> None:
        """`picked`: is called when a row was clicked, which is the chosen one then."""
        super().__init__()
        self._picked = picked

    def offer(self, choices: Sequence[Choice]) -> None:
        """Shows these, the first chosen; none: it is not shown."""
        if not choices and not self.choices:
            return
        self.chosen = 0
        self.choices = tuple(choices)
        rows = min(len(self.choices), ROWS)
        self.display = rows > 0
        self.styles.height = rows
        self.styles.offset = (0, -rows)

    @property
    def choice(self) -> Choice | None:
        """The chosen one; None where nothing is offered."""
        return self.choices[self.chosen] if self.choices else None

    def move(self, rows: int) -> None:
        """Chooses another one; after the last comes the first."""
        if self.choices:
            self.chosen = (self.chosen + rows) % len(self.choices)

    @property
    def _first(self) -> int:
        return max(0, min(self.chosen - ROWS // 2, len(self.choices) - ROWS))

    def render(self) -> Content:
        width = self.content_size.width
        lines = []
        column = max((cells(choice.text) for choice in self.choices), default=0) + 2
        for at, choice in enumerate(self.choices[self._first : self._first + ROWS], self._first):
            mark, style = ("● ", "$text-accent") if at == self.chosen else ("  ", "$foreground")
            text = one_line(choice.text)
            room = width - len(mark)
            while cells(text) > room:
                text = f"…{text.lstrip('…')[1:]}"  # of a path, the end tells
            note = " " * (column - cells(text)) + one_line(choice.note) if choice.note else ""
            lines.append(Content.assemble((mark + text, style), (note, "$muted")))
        return Content("\n").join(lines)

    def on_click(self, event: events.Click) -> None:
        at = self._first + event.y
        if at < len(self.choices):
            event.stop()
            self.chosen = at
            self._picked()
