"""Where a line is cut to fit a width."""

from __future__ import annotations

from rich.cells import cell_len, get_character_cell_size

_WIDE = 2  # cells of a character that may stand at the beginning of a row, whatever is before it
_NEVER_FIRST = set("、。，．！？；：）」』】〉》”’…,.!?;:)]}%")


def wrap(text: str, width: int) -> list[tuple[int, int]]:
    """The rows [start, end) of characters, each of at most `width` cells (one character at least),
    cut at spaces, which are left out, or beside wide characters; within a word only where it is
    longer than a row."""
    width = max(1, width)
    if text.isascii():
        return [(0, len(text))] if len(text) <= width else _wrap_ascii(text, width)
    return [(0, len(text))] if cell_len(text) <= width else _wrap_any(text, width)


def _wrap_ascii(text: str, width: int) -> list[tuple[int, int]]:
    rows: list[tuple[int, int]] = []
    at = 0
    while len(text) - at > width:
        cut = text.rfind(" ", at + 1, at + width + 1)
        if cut <= at or not text[at:cut].strip(" "):
            cut = at + width
        rows.append((at, _end(text, at, cut)))
        at = cut
        while at < len(text) and text[at] == " ":
            at += 1
    if at < len(text) or not rows:
        rows.append((at, len(text)))
    return rows


def _wrap_any(text: str, width: int) -> list[tuple[int, int]]:
    rows: list[tuple[int, int]] = []
    at = cells = 0
    may_cut = 0  # the last place in this row where it may be cut
    n = 0
    while n < len(text):
        char = text[n]
        size = get_character_cell_size(char)
        if n > at and (
            (text[n - 1] == " " and char != " ")
            or (size == _WIDE and char not in _NEVER_FIRST)
            or (get_character_cell_size(text[n - 1]) == _WIDE and char not in _NEVER_FIRST)
        ):
            may_cut = n
        if cells + size > width and n > at and char != " ":
            cut = may_cut if may_cut > at else n
            rows.append((at, _end(text, at, cut)))
            at = may_cut = n = cut
            cells = 0
            continue
        cells += size
        n += 1
    rows.append((at, len(text)))
    return rows


def _end(text: str, start: int, end: int) -> int:
    """Without the spaces at the end of a row."""
    return max(start, start + len(text[start:end].rstrip(" ")))


def fitted(text: str, width: int) -> str:
    """The beginning of a text, with a mark where there is more."""
    if cell_len(text) <= width:
        return text
    while text and cell_len(text) > width - 1:
        text = text[:-1]
    return text + "…" if width > 0 else ""
