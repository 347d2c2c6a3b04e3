"""Lines that are composed for the width that there is."""

from __future__ import annotations

from collections.abc import Callable

from textual.content import Content
from textual.geometry import Size
from textual.widget import Widget

Piece = str | tuple[str, str]  # a text, and its style
Row = tuple[Piece, ...]
Compose = Callable[[int], list[Row]]  # for a width in cells


class Lines(Widget):
    """A few lines that are composed for the width, each cut there."""

    DEFAULT_CSS = "Lines { height: auto; width: 1fr; text-wrap: nowrap; }"

    def __init__(self, *, id: str | None = None):  # noqa: A002
        super().__init__(id=id)
        self._made: Compose = lambda width: []
        self._width = 0
        self._rows: list[Row] = []  # as composed for that width

    def show(self, compose: Compose) -> None:
        """Other lines. Nothing is drawn anew where they are the same, and laid out only where there
        are more or fewer of them."""
        self._made, before = compose, self._rows
        self._rows = compose(self._width)
        if self._rows != before or not self._width:
            self.refresh(layout=len(self._rows) != len(before))

    def _composed(self, width: int) -> list[Row]:
        if width != self._width:
            self._width, self._rows = width, self._made(width)
        return self._rows

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(self._composed(width))

    def render(self) -> Content:
        width = self.content_size.width
        rows = (Content.assemble(*row) for row in self._composed(width))
        return Content("\n").join(row.truncate(width, ellipsis=True) for row in rows)
