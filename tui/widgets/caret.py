"""A caret in a message, by which its text is selected with keys.

It stands on a character: (y, x), y being the number of a line (`selecting.py`), whatever the width
and whatever streams in. Only the rows that it passes are made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rich.cells import cell_len
from textual.geometry import Offset
from textual.selection import Selection

from tui.widgets.entries import Entry
from tui.widgets.parts import Part
from tui.widgets.reading.lines import Kind
from tui.widgets.reading.rows import Row
from tui.widgets.selecting import line_number, part_and_line

_WORD = re.compile(r"\w+|[^\w\s]+")
At = tuple[Part, int]  # a part, and the number of one of its lines or rows


class Caret:
    """Moves within one entry. `anchor`: where what is selected begins; None: nothing is."""

    def __init__(
        self, entry: Entry, draw: Callable[[Part], list[Row]], part: Part, row: int
    ) -> None:
        """`draw`: makes the rows of a part. It begins at the first character of a row."""
        self._entry = entry
        self._draw = draw
        self._wanted: int | None = None  # the cell that going up and down keeps to
        first = draw(part)[row]
        self.y, self.x = line_number(part, first.line), first.pieces[0].start
        self.anchor: tuple[int, int] | None = None

    # ------------------------------------------------------------ what it selects

    def hold(self) -> None:
        """What is selected begins here, unless it has begun."""
        self.anchor = self.anchor or (self.y, self.x)

    @property
    def selection(self) -> Selection | None:
        """From the anchor to the caret, both included."""
        if self.anchor is None:
            return None
        first, last = sorted((self.anchor, (self.y, self.x)))
        return Selection(Offset(first[1], first[0]), Offset(last[1] + 1, last[0]))

    @property
    def line(self) -> Selection:
        """All of the line that it is on."""
        return Selection(Offset(0, self.y), Offset(len(self._text), self.y))

    # ------------------------------------------------------------ where it is

    @property
    def place(self) -> At | None:
        """The part and the row that it is on; None: what it stood on is gone."""
        found = self._line()
        if found is None:
            return None
        part, number = found
        rows = self._draw(part)
        here = [n for n, row in enumerate(rows) if row.line == number and row.pieces]
        for n in here:
            if any(piece.start <= self.x < piece.end for piece in rows[n].pieces):
                return part, n
        begun = [n for n in here if rows[n].pieces[0].start <= self.x]  # a space where it wraps
        return (part, (begun or here)[-1]) if here else None

    @property
    def row(self) -> Row | None:
        """The row that it is on."""
        place = self.place
        return None if place is None else self._draw(place[0])[place[1]]

    @property
    def column(self) -> int:
        """The cell that it is on, as if no long line were moved."""
        row = self.row
        return 0 if row is None else _column(row, self._text, self.x)

    @property
    def width(self) -> int:
        """The cells of its character; of an empty line's end, one."""
        return max(1, cell_len(self._text[self.x : self.x + 1]))

    def _line(self) -> At | None:
        serial, number = part_and_line(self.y)
        parts = self._entry.parts
        there = serial < len(parts) and number < len(parts[serial].parsed().lines)
        return (parts[serial], number) if there else None

    @property
    def _text(self) -> str:
        here = self._line()
        return _text(here) if here is not None else ""

    # ------------------------------------------------------------ going about

    def rows(self, step: int) -> None:
        """A row up (-1) or down (1), in the same column as far as there is one."""
        place = self.place
        if place is None:
            return
        if self._wanted is None:
            self._wanted = self.column
        there = self._next(place, step, self._may_stand_on_rows)
        if there is not None:
            row = self._draw(there[0])[there[1]]
            self._go((there[0], row.line))
            self.x = _character(row, self._text, self._wanted)

    def characters(self, step: int) -> None:
        """A character back or on, over the ends of lines."""
        self._wanted = None
        text = self._text
        x = self.x + step
        while 0 < x < len(text) and not cell_len(text[x]):
            x += step  # what lies over the character before it is no place of its own
        if 0 <= x < max(1, len(text)):
            self.x = x
        elif self._to_line(step):
            self.line_end(-step)

    def words(self, step: int) -> None:
        """To the beginning of the next word, or of the one before."""
        self._wanted = None
        starts = self._starts
        ahead = [x for x in starts if (x > self.x if step > 0 else x < self.x)]
        if not ahead and self._to_line(step):
            ahead = self._starts or [0]
        if ahead:
            self.x = ahead[0] if step > 0 else ahead[-1]

    def line_end(self, step: int) -> None:
        """To the first (-1) or the last (1) character of the line."""
        self._wanted = None
        self.x = 0 if step < 0 else max(0, len(self._text) - 1)

    def end(self, step: int) -> None:
        """To the first or the last character of the message."""
        parts = self._parts()
        outside = (parts[0], -1) if step < 0 else (parts[-1], len(parts[-1].parsed().lines))
        there = self._next(outside, -step, _may_stand_on)
        if there is not None:
            self._go(there)
        self.line_end(step)

    @property
    def _starts(self) -> list[int]:
        """Where the words of its line begin."""
        return [match.start() for match in _WORD.finditer(self._text)]

    def _to_line(self, step: int) -> bool:
        """Goes to the line before or after; False: there is none."""
        here = self._line()
        there = self._next(here, step, _may_stand_on) if here is not None else None
        if there is not None:
            self._go(there)
        return there is not None

    def _go(self, line: At) -> None:
        self.y = line_number(*line)

    def _parts(self) -> list[Part]:
        """Those whose text can be selected."""
        return [part for part in self._entry.parts if part.what in ("markdown", "plain")]

    def _may_stand_on_rows(self, part: Part) -> list[bool]:
        lines = _may_stand_on(part)
        return [bool(row.pieces) and lines[row.line] for row in self._draw(part)]

    def _next(self, here: At, step: int, may: Callable[[Part], Sequence[bool]]) -> At | None:
        """The next line or row of the entry that it may stand on; None: there is none."""
        parts = self._parts()
        at, n = parts.index(here[0]), here[1] + step
        while True:
            allowed = may(parts[at])
            while 0 <= n < len(allowed):
                if allowed[n]:
                    return parts[at], n
                n += step
            at += step
            if not 0 <= at < len(parts):
                return None
            n = 0 if step > 0 else len(may(parts[at])) - 1


def _column(row: Row, text: str, x: int) -> int:
    """The cell in which a character of a row is drawn."""
    piece = next((p for p in reversed(row.pieces) if p.start <= x), row.pieces[0])
    return piece.column + cell_len(text[piece.start : min(max(x, piece.start), piece.end)])


def _character(row: Row, text: str, wanted: int) -> int:
    """The character of a row that is drawn in this cell, or nearest to it."""
    piece = next((p for p in reversed(row.pieces) if p.column <= wanted), row.pieces[0])
    x, at = piece.start, piece.column
    while x < piece.end - 1 and at + cell_len(text[x]) <= wanted:
        at += cell_len(text[x])
        x += 1
    return x


def _text(line: At) -> str:
    return line[0].parsed().lines[line[1]].text


def _may_stand_on(part: Part) -> list[bool]:
    """Of each line, whether it is a text and no rule."""
    return [line.kind is not Kind.RULE and line.row >= 0 for line in part.parsed().lines]
