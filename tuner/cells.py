"""Text in the cells of a terminal, where a wide character takes two and a mark above one none.

By Unicode's East Asian Width and general category, as terminals without emoji sequences do.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_ENDING = "..."  # of a text that is cut
_WORD = re.compile(r"( *)([^ ]+)")


def cells(text: str) -> int:
    """How many cells a text takes on one line."""
    return len(text) if text.isascii() else sum(map(_cells_of, text))


def clip(text: str, width: int) -> str:
    """The text, or its beginning and an ending that says so, in at most `width` cells."""
    if cells(text) <= width:
        return text
    ending = _ENDING[:width]
    return _beginning(text, width - len(ending)) + ending


def pad(text: str, width: int, *, right: bool = False) -> str:
    """The text with spaces up to `width` cells, before it where it stands to the `right`."""
    spaces = " " * (width - cells(text))
    return spaces + text if right else text + spaces


def wrap(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` cells, which are cut at spaces, and within a word only
    where it is longer than a line. Other whitespace than a space stands for itself."""
    lines: list[str] = []
    line = ""
    for gap, found in _WORD.findall(text):
        word = found
        if line and cells(line) + len(gap) + cells(word) <= width:
            line += gap + word
            continue
        if line:
            lines.append(line)
        while cells(word) > width:
            start = _beginning(word, width) or word[0]
            lines.append(start)
            word = word[len(start) :]
        line = word
    return [*lines, line] if line or not lines else lines


def _beginning(text: str, width: int) -> str:
    taken = 0
    for i, char in enumerate(text):
        taken += _cells_of(char)
        if taken > width:
            return text[:i]
    return text


@lru_cache(maxsize=4096)
def _cells_of(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
