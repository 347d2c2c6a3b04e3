"""What a text is drawn from: logical lines, which no width has wrapped yet."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Kind(Enum):
    """How a line is put into rows."""

    TEXT = auto()  # wrapped
    CODE = auto()  # one row; cut at the edge of the view unless code is to be wrapped
    RULE = auto()  # a rule across, behind its text
    TABLE = auto()  # a row of cells


@dataclass(frozen=True, slots=True)
class Span:
    """Characters [start, end) of a line in another style; `link`: the address they lead to."""

    start: int
    end: int
    style: str
    link: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table."""

    text: str = ""
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """All rows of a table, the header first; `aligns`: "left", "center" or "right" by column."""

    rows: tuple[tuple[Cell, ...], ...]
    aligns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """One line: what is drawn of it, and where it stands in the source. `first` and `rest` stand
    before its first row and those after it, each a text and its style."""

    text: str
    spans: tuple[Span, ...] = ()
    style: str = ""
    kind: Kind = Kind.TEXT
    first: tuple[tuple[str, str], ...] = ()
    rest: tuple[tuple[str, str], ...] = ()
    gap: bool = False  # a blank row above it
    start: int = 0  # in the source, marks included
    end: int = 0
    block: int = -1  # the code block that it belongs to
    table: Table | None = None
    row: int = 0  # of the table
    folds: bool = False  # a click on it unfolds what it is the title of


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code, without its fence."""

    language: str
    code: str


@dataclass(frozen=True, slots=True)
class Lines:
    """A text as lines, and the code blocks in it."""

    lines: tuple[Line, ...] = ()
    blocks: tuple[Block, ...] = ()


def plain(text: str, style: str = "", *, gap: bool = True) -> Lines:
    """A text that is drawn as it is written."""
    lines: list[Line] = []
    at = 0
    for row in text.split("\n"):
        end = at + len(row)
        lines.append(Line(row.expandtabs(4), style=style, start=at, end=end, gap=gap and not at))
        at = end + 1
    return Lines(tuple(lines))
