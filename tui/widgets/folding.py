"""A text area in which long pastes stand as labels."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.geometry import Region
from textual.strip import Strip
from textual.widgets import TextArea
from textual.widgets.text_area import Edit, EditResult, Location, TextAreaTheme

from tui.composing.draft import Draft, folds, label, spans
from tui.widgets.clusters import clusters, column_at, joined


class FoldingTextArea(TextArea):
    """The cursor passes a label as a whole, and an edit takes it as a whole; an emoji of several
    characters likewise."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"prompt--label"}

    _styled: TextAreaTheme | None = None  # the one that has the styles of now

    def __init__(self, placeholder: str = "") -> None:
        super().__init__(
            soft_wrap=True,
            show_line_numbers=False,
            tab_behavior="focus",
            placeholder=placeholder,
            highlight_cursor_line=False,
        )
        self.folds: dict[str, str] = {}  # all that there were: Ctrl+Z may bring one back

    @property
    def draft(self) -> Draft:
        """What is written."""
        return Draft(self.text.strip("\n"), self.folds).pruned()

    def as_shown(self, text: str) -> str:
        """A text that comes in at once: its label where it is long."""
        if not folds(text):
            return text
        name = label(text, None, self.folds)
        self.folds[name] = text
        return name

    def replace_all(self, text: str) -> None:
        """Another text for all of it; Ctrl+Z takes that back."""
        self.history.checkpoint()
        self.replace(text, (0, 0), self.document.end, maintain_selection_offset=False)
        self.move_cursor(self.document.end)

    def unfold(self) -> bool:
        """Opens the label at the cursor, or else the first; False: there is none."""
        found = list(self._labels())
        if not found:
            return False
        here = (one for one in found if one[1] <= self.cursor_location <= one[2])
        name, start, end = next(here, found[0])
        self.history.checkpoint()
        self.replace(self.folds[name], start, end, maintain_selection_offset=False)
        return True

    @property
    def uncounted(self) -> dict[str, str]:
        """The labels that do not tell the tokens of their texts."""
        return {name: text for name, text in self.draft.folds.items() if "tokens" not in name}

    def relabel(self, name: str, n_tokens: int) -> str:
        """Tells the tokens of what a label stands for; the label that it has then."""
        better = label(self.folds[name], n_tokens, self.folds)
        self.folds[better] = self.folds[name]
        for found, start, end in reversed(list(self._labels())):
            if found == name:
                self.history.checkpoint()
                self.replace(better, start, end)
        return better

    def _labels(self) -> Iterator[tuple[str, Location, Location]]:
        """The labels in the text and where they stand, in order."""
        for row in range(self.document.line_count if self.folds else 0):
            line = self.document.get_line(row)
            for start, end in spans(line, self.folds):
                yield line[start:end], (row, start), (row, end)

    # ------------------------------------------------------------ as a whole

    def edit(self, edit: Edit) -> EditResult:
        """An edit inside of a label is one of all of it, or comes after it."""
        if self.folds:
            top, bottom = edit.top, edit.bottom
            edit.to_location = self._outside(bottom, 1)
            edit.from_location = edit.to_location if top == bottom else self._outside(top, 0)
        return super().edit(edit)

    def _outside(self, location: Location, end: int) -> Location:
        """The location, or the start (0) or end (1) of the label, or the emoji, that it is in."""
        row, column = location
        line = self.document.get_line(row)
        for span in (*spans(line, self.folds), *clusters(line)):
            if span[0] < column < span[1]:
                return row, span[end]
        return location

    def get_cursor_left_location(self) -> Location:
        return self._outside(super().get_cursor_left_location(), 0)

    def get_cursor_right_location(self) -> Location:
        return self._outside(super().get_cursor_right_location(), 1)

    def get_cursor_up_location(self) -> Location:
        return self._at_cell(super().get_cursor_up_location(), self._wanted_cell)

    def get_cursor_down_location(self) -> Location:
        return self._at_cell(super().get_cursor_down_location(), self._wanted_cell)

    def get_target_document_location(self, event: events.MouseEvent) -> Location:
        x = event.x - self.gutter_width + self.scroll_offset.x - self.gutter.left
        return self._at_cell(super().get_target_document_location(event), max(0, x))

    @property
    def _wanted_cell(self) -> int:
        """Where a step up or down leads to in its row."""
        here = self.wrapped_document.location_to_offset(self.cursor_location).x
        return max(here, self.navigator.last_x_offset)

    def _at_cell(self, location: Location, x: int) -> Location:
        """The location in the same row of the screen that is drawn at its cell `x`. Textual adds up
        the cells of single characters (Textual 8.2), of which an emoji has several."""
        row, column = location
        if location == (0, 0) or not any(clusters(self.document.get_line(row))):
            return location
        offsets = self.wrapped_document.get_offsets(row)
        n = bisect_right(offsets, column)
        section, begin = self.wrapped_document.get_sections(row)[n], [0, *offsets][n]
        if "\t" in section:
            return self._outside(location, 0)
        last = n == len(offsets)
        return row, begin + min(column_at(section, x), len(section) - (0 if last else 1))

    def undo(self) -> None:
        self._step(super().undo)

    def redo(self) -> None:
        self._step(super().redo)

    def _step(self, step: Callable[[], None]) -> None:
        """One step through the history; that a label was written otherwise is none."""
        while True:
            before, text = self._meaning(), self.text
            step()
            if self.text == text or self._meaning() != before:
                return

    def _watch_show_vertical_scrollbar(self) -> None:
        # A step through the history tells the new size before it moves the cursor (Textual 8.2),
        # which may still be where there is no line any more.
        if self.cursor_location[0] < self.document.line_count:
            super()._watch_show_vertical_scrollbar()

    def _meaning(self) -> list[tuple[bool, str]]:
        return [(bool(name), text) for name, text in Draft(self.text, self.folds).pieces()]

    # ------------------------------------------------------------ drawing

    def notify_style_update(self) -> None:
        self._styled = None
        super().notify_style_update()

    def render_lines(self, crop: Region) -> list[Strip]:
        # Textual makes the styles anew at every drawing (Textual 8.2), a third of what a key costs.
        if self._styled is self._theme:
            return super(TextArea, self).render_lines(crop)
        self._styled = self._theme
        return super().render_lines(crop)

    def render_line(self, y: int) -> Strip:
        return joined(super().render_line(y))  # the cursor is on one character of an emoji

    def get_line(self, line_index: int) -> Text:
        line = super().get_line(line_index)
        if self.folds:
            style = self.get_component_rich_style("prompt--label", partial=True)
            for start, end in spans(line.plain, self.folds):
                line.stylize(style, start, end)
        return line
