"""The part of the transcript that is selected: where it begins and ends, and what it says.

A place is a pair (y, x): y numbers the lines of all messages in their order, whatever the width and
whatever streams in or is scrolled away; x is a character of that line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from textual.geometry import Offset
from textual.selection import Selection

from tui.widgets.entries import Entry
from tui.widgets.parts import Part
from tui.widgets.reading.lines import Kind, Line

_PARTS, _LINES = 20, 20  # bits
_MARKS = re.compile(r"[\s>]*(?:[-*+]\s+|\d{1,9}[.)]\s+)?")
_Place = tuple[int, int]


def line_number(part: Part, line: int) -> int:
    """The y of a line."""
    return ((part.entry.serial << _PARTS) | part.serial) << _LINES | line


def part_and_line(y: int) -> tuple[int, int]:
    """The part of its entry, and the line of that, which a y numbers."""
    return (y >> _LINES) & ((1 << _PARTS) - 1), y & ((1 << _LINES) - 1)


def selected_text(entries: Sequence[Entry], selection: Selection) -> str:
    """What is selected, as it was written: whole lines with their marks and the blank lines between
    them; of a line that is selected in part, what is drawn of it."""
    first = (selection.start.y, selection.start.x) if selection.start is not None else (-1, 0)
    last = (selection.end.y, selection.end.x) if selection.end is not None else (1 << 99, 0)
    if first[0] == last[0]:
        return _within_a_line(entries, first, last)
    texts = (_of_entry(entry, first, last) for entry in _between(entries, first, last))
    return "\n\n".join(text for text in texts if text)


def _between(entries: Iterable[Entry], first: _Place, last: _Place) -> Iterator[Entry]:
    shift = _PARTS + _LINES
    return (e for e in entries if first[0] >> shift <= e.serial <= last[0] >> shift)


def _within_a_line(entries: Sequence[Entry], first: _Place, last: _Place) -> str:
    for entry in _between(entries, first, last):
        for part in entry.parts:
            for n, line in enumerate(part.parsed().lines):
                if line_number(part, n) == first[0]:
                    return line.text[max(0, first[1]) : max(0, last[1])]
    return ""


def _of_entry(entry: Entry, first: _Place, last: _Place) -> str:
    return "".join(_of_part(part, first, last) for part in entry.parts).strip("\n")


def _of_part(part: Part, first: _Place, last: _Place) -> str:
    lowest = line_number(part, 0)
    highest = line_number(part, (1 << _LINES) - 1)
    if highest < first[0] or lowest > last[0] or not part.source:
        return ""
    if first[0] < lowest and last[0] > highest:
        return part.source
    lines = part.parsed().lines
    before = after = ""
    start, end = part.repeated, len(part.text)
    for n, line in enumerate(lines):
        y = line_number(part, n)
        if y == first[0]:
            whole = first[1] <= 0
            before = "" if whole else line.text[first[1] :]
            start = max(start, line.start if whole else line.end)
        if y == last[0]:
            if last[1] >= len(line.text):
                end = line.end
            else:
                after = _mark(part, line) + line.text[: max(0, last[1])]
                end = line.start
    return before + part.text[start : max(start, end)] + after


def _mark(part: Part, line: Line) -> str:
    """What stands before a line in the source: the mark of an item or a quote."""
    if line.kind is not Kind.TEXT or not line.first:
        return ""
    found = _MARKS.match(part.text[line.start : line.end])
    return found[0] if found else ""


def around(part: Part, number: int, x: int, *, whole: bool) -> Selection:
    """The word that a character is in, or its whole line: of code, the whole block."""
    lines = part.parsed().lines
    first = last = number
    if whole:
        while first and _same_code(lines[number], lines[first - 1]):
            first -= 1
        while last + 1 < len(lines) and _same_code(lines[number], lines[last + 1]):
            last += 1
        start, end = 0, len(lines[last].text)
    else:
        words = re.finditer(r"\w+|[^\w\s]+|\s+", lines[number].text)
        start, end = next((w.span() for w in words if w.start() <= x < w.end()), (x, x))
    return Selection(Offset(start, line_number(part, first)), Offset(end, line_number(part, last)))


def _same_code(line: Line, other: Line) -> bool:
    return line.kind is other.kind is Kind.CODE and line.block == other.block
