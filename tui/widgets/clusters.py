"""Emoji that are written with several characters and drawn as one, in the cells of one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.cells import split_graphemes
from rich.segment import Segment
from textual.strip import Strip

# What makes one of several: a joiner, the look of an emoji, a tone of skin, the letters of a flag.
_MARK = re.compile("[\u200d\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]")


def clusters(line: str) -> Iterator[tuple[int, int]]:
    """Where they stand in a line: characters [start, end). A letter with its accents is none: one
    may want to take an accent back."""
    if _MARK.search(line) is not None:
        for start, end, _ in split_graphemes(line)[0]:
            if end - start > 1 and _MARK.search(line, start, end) is not None:
                yield start, end


def column_at(line: str, cells: int) -> int:
    """How many characters of a line are drawn before its cell of this number."""
    taken = 0
    for start, _, width in split_graphemes(line)[0]:
        taken += width
        if taken > cells:
            return start
    return len(line)


def joined(strip: Strip) -> Strip:
    """The strip with each of them in one style, that of its beginning: a terminal draws the pieces
    apart where a change of style stands between them."""
    text = strip.text
    spans = list(clusters(text))
    if not spans:
        return strip
    whole: list[Segment] = []
    begin = at = 0
    for segment in strip:
        at += len(segment.text)
        end = next((end for start, end in spans if start < at < end), at)
        if begin < end:
            whole.append(Segment(text[begin:end], segment.style))
            begin = end
    return Strip(whole)
