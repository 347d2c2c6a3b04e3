"""Lines and tables as wide as the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tuner.cells import cells, clip, pad, wrap

MIN_NAME = 16  # cells that a name gets at least beside other columns


class Style:
    """ANSI colour, or nothing at all."""

    def __init__(self, color: bool) -> None:
        self.color = color

    def __call__(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.color and text else text

    def head(self, text: str) -> str:
        return self(text, "1")


class Column(NamedTuple):
    """A column of a table; numbers stand to the right."""

    head: str
    width: int  # cells
    right: bool = True
    gap: int = 1  # spaces before it


class Row(NamedTuple):
    """A value for each column, or for the first ones and then a note."""

    values: Sequence[str]
    note: str = ""


def table(
    columns: Sequence[Column], rows: Sequence[Row], width: int, style: Style, lead: str = ""
) -> list[str]:
    """The head and a line for each row; the first column takes what the others leave. Where that
    is too little: each row's first value, and below it the others behind their columns' heads."""
    first, *others = (_widened(c, rows, i) for i, c in enumerate(columns))
    room = width - len(lead) - sum(c.gap + c.width for c in others)
    if room < min(first.width, MIN_NAME):
        return [line for row in rows for line in _stacked(columns, row, width, style, lead)]
    columns = (first._replace(width=min(first.width, room)), *others)
    lines = [style.head(_line([c.head for c in columns], columns, lead))]
    for row in rows:
        line = _line(row.values, columns, lead)
        if row.note:
            line = f"{line} {style(clip(row.note, width - cells(line) - 1), '31')}"
        lines.append(line if row.note else line.rstrip())
    return lines


def _widened(column: Column, rows: Sequence[Row], index: int) -> Column:
    """The column as wide as its widest value, but for the first, whose values may be cut."""
    values = [row.values[index] for row in rows if index < len(row.values)] if index else []
    return column._replace(width=max(column.width, *map(cells, values), 0))


def _line(values: Sequence[str], columns: Sequence[Column], lead: str) -> str:
    pairs = zip(values, columns, strict=False)
    return lead + "".join(
        " " * c.gap + pad(clip(value, c.width), c.width, right=c.right) for value, c in pairs
    )


def _stacked(columns: Sequence[Column], row: Row, width: int, style: Style, lead: str) -> list[str]:
    named = [f"{c.head} {v}".strip() for v, c in zip(row.values, columns, strict=False) if v]
    lines = [lead + style.head(clip(row.values[0] or named[0], width - len(lead)))]
    lines += wrapped(", ".join(named[1:]), width, f"{lead}  ") if named[1:] else []
    if row.note:
        lines += wrapped(row.note, width, f"{lead}  ", lambda line: style(line, "31"))
    return lines


def wrapped(
    text_: str, width: int, lead: str, paint: Any = str, break_on: str | None = None
) -> list[str]:
    """A text wrapped to `width` cells, the first line led by `lead`, the others indented as far."""
    if break_on:  # keep each "mark label size" together
        text_ = break_on.join(p.replace(" ", "\u00a0") for p in text_.split(break_on))
    lines = wrap(text_, width - len(lead)) or [""]
    out = [(lead if i == 0 else " " * len(lead)) + paint(line) for i, line in enumerate(lines)]
    return [line.replace("\u00a0", " ") for line in out]
