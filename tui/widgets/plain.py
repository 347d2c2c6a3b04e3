"""Text of others on a screen: shown as it is, never obeyed."""

from __future__ import annotations

from textual.widgets import Static

from tuner.safe_text import printable


class Plain(Static):
    """A text without markup and without what steers a terminal."""

    def __init__(self, text: str = "", *, classes: str | None = None, id: str | None = None):  # noqa: A002
        self._shown = printable(text)
        super().__init__(self._shown, markup=False, classes=classes, id=id)

    def show(self, text: str) -> None:
        """Another text; the same one is no reason to lay out the screen."""
        text = printable(text)
        if text != self._shown:
            self._shown = text
            self.update(text)
