"""What lies over the rows of a transcript when they are painted: what is selected, what was found,
what differs from another text, where the cursor and the caret are, and how far long lines are
moved."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from tui.widgets.reading.lines import Kind, Line
from tui.widgets.reading.rows import Frame, Look, Row

CURSOR = "┃"
_MORE = "…"
_Span = tuple[int, int]


def spans(
    line: Line, selected: _Span | None, found: re.Pattern[str] | None, differing: Sequence[_Span]
) -> Iterator[tuple[_Span, str]]:
    """What of a line is marked, and the name of the style."""
    yield from ((span, "differs") for span in differing)
    if found is not None:
        yield from ((match.span(), "found") for match in found.finditer(line.text))
    if selected is not None:
        start, end = selected
        yield (start, len(line.text) if end < 0 else end), "selected"


def marked(strip: Strip, row: Row, line: Line, span: _Span, style: Style) -> Strip:
    """Characters of a line in another style."""
    over = Style(bgcolor=style.bgcolor, color=style.color, underline=style.underline)
    for piece in row.pieces:
        start, end = max(span[0], piece.start), min(span[1], piece.end)
        if start < end:
            first = piece.column + cell_len(line.text[piece.start : start])
            last = first + cell_len(line.text[start:end])
            before, inside, after = strip.divide([first, last, strip.cell_length])
            segments = [Segment(s.text, (s.style or Style()) + over) for s in inside]
            strip = Strip.join([before, Strip(segments, inside.cell_length), after])
    return strip


def with_caret(strip: Strip, column: int, size: int) -> Strip:
    """A row with the caret on so many cells, in their own colours the other way round."""
    before, inside, after = strip.divide([column, column + size, strip.cell_length])
    segments = [Segment(s.text, (s.style or Style()) + Style(reverse=True)) for s in inside]
    return Strip.join([before, Strip(segments, inside.cell_length), after])


def cut(strip: Strip, frame: Frame, shift: int, look: Look) -> Strip:
    """What of a long row is in view where it is moved by so many columns, with a mark where there
    is more."""
    start = frame.margin + shift
    end = min(strip.cell_length, frame.view + shift)
    more = Strip([Segment(_MORE, look("more"))], 1)
    before, after = [more] if shift else [], [more] if end < strip.cell_length else []
    inside = strip.crop(start + len(before), end - len(after))
    return Strip.join([strip.crop(0, frame.margin), *before, inside, *after])


def with_cursor(strip: Strip, look: Look) -> Strip:
    """A row that the cursor is on."""
    sign = Strip([Segment(CURSOR, look("cursor"))], 1)
    return Strip.join([sign, strip.crop(1, strip.cell_length)])


def with_keys(strip: Strip, frame: Frame, keys: str, look: Look) -> Strip:
    """A rule that says at its right end what keys do on its block."""
    said = Strip([Segment(f" {keys}", look("footer"))])
    end = frame.margin + frame.width
    start = end - said.cell_length
    if not keys or said.cell_length > frame.width // 2:
        return strip
    return Strip.join([strip.crop(0, start), said, strip.crop(end, strip.cell_length)])


def closes(lines: Sequence[Line], number: int) -> bool:
    """Whether a line is the rule below a code block."""
    line, below = lines[number], lines[number + 1 : number + 2]
    return line.kind is Kind.RULE and not any(one.block == line.block for one in below)


def with_places(row: Row, line: Line, number: int, width: int) -> Strip:
    """A row that says where each of its characters stands, by which Textual's mouse selects: as
    (x, y), y being the number of the line."""

    def cells(n: int, x: int) -> Iterator[Segment]:
        style = Style.from_meta({"offset": (x, number)})
        return (Segment(" ", style) for _ in range(n))

    segments: list[Segment] = []
    at, x = 0, row.pieces[0].start if row.pieces else 0
    for piece in row.pieces:
        segments += cells(piece.column - at, x)
        text = line.text[piece.start : piece.end]
        segments.append(Segment(text, Style.from_meta({"offset": (piece.start, number)})))
        at, x = piece.column + cell_len(text), piece.end
    return Strip([*segments, *cells(max(width, row.strip.cell_length) - at, x)])


def below_all(line: Line, number: int, width: int) -> Strip:
    """The same of a row below the last one: the end of its line."""
    style = Style.from_meta({"offset": (len(line.text), number)})
    return Strip([Segment(" ", style) for _ in range(width)], width)
