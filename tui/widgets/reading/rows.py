"""Lines as the rows of a screen: plain functions of lines, a width and a look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from tui.widgets.reading import tables
from tui.widgets.reading.lines import Kind, Line
from tui.widgets.reading.wrapping import fitted, wrap

_LEAST = 8  # cells of text in a row, however deep it is nested


class Look(Protocol):
    """The style that names give together, the later ones over the earlier ones."""

    def __call__(self, *names: str) -> Style: ...


class Piece(NamedTuple):
    """Characters [start, end) of a row's line, drawn from cell `column` on."""

    column: int
    start: int
    end: int


class Row(NamedTuple):
    """A row of the screen. `line`: its number in its text; `wide`: what does not fit into the view
    is cut when it is drawn."""

    strip: Strip
    line: int
    pieces: tuple[Piece, ...] = ()
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """Where text is drawn: `width` cells of it, after a margin, in a view; `wrap_code`: long lines
    of code are wrapped, too."""

    view: int
    width: int
    margin: int
    wrap_code: bool = False


@dataclass(frozen=True, slots=True)
class Ground:
    """What lies below all rows of a text: style names, the sign in the margin of each row and of
    the first, and whether its colour reaches across."""

    styles: tuple[str, ...] = ()
    sign: str = ""
    sign_style: str = ""
    every_row: bool = False
    filled: bool = False


PAGE = Ground()
Before = tuple[Sequence[Line], Sequence[Row]]


def rows_of(
    lines: Sequence[Line],
    frame: Frame,
    look: Look,
    ground: Ground = PAGE,
    *,
    columns: Sequence[int] = (),
    notes: Mapping[int, str] | None = None,
    before: Before = ((), ()),
) -> tuple[list[Row], tuple[int, ...]]:
    """The rows, and the column widths of the last table. `columns`: those of a table that goes on
    here; `notes`: what stands at the right end of the first rule of a code block; `before`: the
    lines and rows of the drawing before, in the same frame: lines that are the same have the same
    rows, which a screen need not be told again."""
    pen = _Pen(frame, look, ground, tuple(columns), notes or {})
    old_lines, old_rows = before
    at = 0  # of the old rows
    for number, line in enumerate(lines):
        first = at
        while at < len(old_rows) and old_rows[at].line == number:
            at += 1
        same = number < len(old_lines) and old_lines[number] == line
        if same and line.kind in (Kind.TEXT, Kind.CODE):
            pen.rows += old_rows[first:at]
        else:
            pen.line(number, line)
    return pen.rows, pen.columns


class _Pen:
    def __init__(
        self,
        frame: Frame,
        look: Look,
        ground: Ground,
        columns: tuple[int, ...],
        notes: Mapping[int, str],
    ):
        self.rows: list[Row] = []
        self.columns = columns
        self._frame = frame
        self._look = look
        self._ground = ground
        self._notes = notes
        self._page = look(*ground.styles) if not ground.filled else look()
        self._table: object = None
        self._labelled: set[int] = set()

    def line(self, number: int, line: Line) -> None:
        if line.gap:
            self.rows.append(Row(self._finished([], 0), number))
        draw = {Kind.TEXT: self._text, Kind.CODE: self._code, Kind.RULE: self._rule,
                Kind.TABLE: self._table_row}[line.kind]  # fmt: skip
        draw(number, line)

    def _styles(self, line: Line) -> tuple[str, ...]:
        return (*self._ground.styles, line.style) if line.style else self._ground.styles

    def _margin(self) -> list[Segment]:
        """What stands before every row."""
        ground, margin = self._ground, self._frame.margin
        shown = ground.sign and margin > 1 and (ground.every_row or not self.rows or all(
            not row.pieces for row in self.rows))  # fmt: skip
        if not shown:
            return [Segment(" " * margin, self._page)]
        before = max(0, margin - 2)
        sign = Segment(ground.sign, self._look(*ground.styles, ground.sign_style))
        return [Segment(" " * before, self._page), sign, Segment(" ", self._look(*ground.styles))]

    def _lead(self, parts: Iterable[tuple[str, str]]) -> tuple[list[Segment], int]:
        """The margin and the leads of a row, and their cells."""
        segments, taken = self._margin(), self._frame.margin
        for text, style in parts:
            names = (*self._ground.styles, style) if style else self._ground.styles
            segments.append(Segment(text, self._look(*names)))
            taken += cell_len(text)
        return segments, taken

    def _finished(self, segments: list[Segment], taken: int) -> Strip:
        """A row as wide as the view at least."""
        if self._ground.filled and segments:
            spare = self._frame.margin + self._frame.width - taken
            if spare > 0:
                segments.append(Segment(" " * spare, self._look(*self._ground.styles)))
                taken += spare
        if taken < self._frame.view:
            segments.append(Segment(" " * (self._frame.view - taken), self._page))
            taken = self._frame.view
        return Strip(segments, taken)

    def _pieces(self, line: Line, start: int, end: int) -> list[Segment]:
        """Characters [start, end) of a line in their styles."""
        base = self._styles(line)
        inside = [s for s in line.spans if s.start < end and s.end > start]
        if not inside:
            return [Segment(line.text[start:end], self._look(*base))]
        cuts = sorted({start, end, *(max(start, s.start) for s in inside),
                       *(min(end, s.end) for s in inside)})  # fmt: skip
        segments = []
        for first, last in pairwise(cuts):
            names = [s.style for s in inside if s.start <= first and s.end >= last]
            segments.append(Segment(line.text[first:last], self._look(*base, *names)))
        return segments

    def _text(self, number: int, line: Line) -> None:
        lead = sum(cell_len(text) for text, _ in line.rest)
        width = max(_LEAST, self._frame.width - lead)
        for n, (start, end) in enumerate(wrap(line.text, width)):
            segments, taken = self._lead(line.rest if n else line.first)
            piece = Piece(taken, start, end)
            segments += self._pieces(line, start, end)
            taken += cell_len(line.text[start:end])
            self.rows.append(Row(self._finished(segments, taken), number, (piece,)))

    def _code(self, number: int, line: Line) -> None:
        if self._frame.wrap_code:
            self._text(number, line)
            return
        segments, taken = self._lead(line.first)
        piece = Piece(taken, 0, len(line.text))
        segments += self._pieces(line, 0, len(line.text))
        taken += cell_len(line.text)
        wide = taken > self._frame.view
        self.rows.append(Row(self._finished(segments, taken), number, (piece,), wide))

    def _rule(self, number: int, line: Line) -> None:
        segments, taken = self._lead(line.first)
        width = max(_LEAST, self._frame.margin + self._frame.width - taken)
        first = line.block >= 0 and line.block not in self._labelled
        note = self._notes.get(line.block, "") if first else ""
        self._labelled.add(line.block)
        name = fitted(line.text, width - 2)
        before = f"{name} " if name else ""
        after = f" {note}" if note and len(note) + cell_len(before) + 2 < width else ""
        middle = "─" * (width - cell_len(before) - len(after))
        style = self._look(*self._styles(line))
        if before:
            segments.append(Segment(before, self._look(*self._styles(line), "language")))
        segments.append(Segment(middle, style))
        if after:
            segments.append(Segment(after, style))
        piece = Piece(taken, 0, len(name))
        self.rows.append(Row(self._finished(segments, taken + width), number, (piece,)))

    def _table_row(self, number: int, line: Line) -> None:
        assert line.table is not None
        lead = sum(cell_len(text) for text, _ in line.first)
        if line.table is not self._table:
            n_columns = max(map(len, line.table.rows), default=0)
            if not (self._table is None and len(self.columns) == n_columns):
                self.columns = tables.widths(line.table, max(_LEAST, self._frame.width - lead))
            self._table = line.table
        if line.row < 0:
            segments, taken = self._lead(line.first)
            rule = tables.rule(self.columns)
            segments.append(Segment(rule, self._look(*self._styles(line))))
            taken += len(rule)
            wide = taken > self._frame.view
            self.rows.append(Row(self._finished(segments, taken), number, (), wide))
            return
        cells = line.table.rows[line.row]
        starts, at = [], 0
        for cell in cells:
            starts.append(at)
            at += len(cell.text) + 2
        wrapped = [wrap(cell.text, width) for cell, width in zip(cells, self.columns, strict=False)]
        for n in range(max(map(len, wrapped), default=0)):
            self._row_of_cells(number, line, starts, wrapped, n)

    def _row_of_cells(
        self,
        number: int,
        line: Line,
        starts: Sequence[int],
        wrapped: Sequence[Sequence[tuple[int, int]]],
        n: int,
    ) -> None:
        assert line.table is not None
        segments, taken = self._lead(line.rest if n else line.first)
        style, thin = self._look(*self._styles(line)), self._look(*self._ground.styles, "label")
        pieces: list[Piece] = []
        for column, rows in enumerate(wrapped):
            if column:
                segments.append(Segment(tables.BETWEEN, thin))
                taken += len(tables.BETWEEN)
            first, last = rows[n] if n < len(rows) else (0, 0)
            first, last = first + starts[column], last + starts[column]
            size = cell_len(line.text[first:last])
            width = self.columns[column]
            before, after = tables.offsets(line.table.aligns[column], size, width)
            if before:
                segments.append(Segment(" " * before, style))
            if last > first:
                pieces.append(Piece(taken + before, first, last))
                segments += self._pieces(line, first, last)
            if after:
                segments.append(Segment(" " * after, style))
            taken += before + size + after
        wide = taken > self._frame.view
        self.rows.append(Row(self._finished(segments, taken), number, tuple(pieces), wide))
