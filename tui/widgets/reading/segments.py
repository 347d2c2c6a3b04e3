"""Cuts streamed markdown into segments that are drawn apart.

The last segment is parsed and drawn again at each update; of bounded size, it costs the same
however long the answer is. Cuts are made only where the look does not change: between blocks,
between list items, and between lines of a fence or rows of a table (whose opening lines are
repeated in the next segment).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

BLOCK_CHARS = 1200  # a segment is closed at the next block after so many characters
LIST_CHARS = 160  # the same between two items of a list, which is costlier to draw
FENCE_LINES = 24  # a fence is continued in the next segment after so many lines,
FENCE_LINES_MAX = 36  # sooner at a line that starts at the margin, at the latest after so many
TABLE_ROWS = 30  # a table is continued in the next segment after so many rows
LINE_CHARS = 2000  # a line without an end: a paragraph is continued in the next segment
_UNDECIDED = 12  # characters that show what a line is, if it begins with one of the marks
_MARKS = "`~-*+#0123456789"

_FENCE = re.compile(r"^( *)(`{3,}|~{3,})(.*)")
_ITEM = re.compile(r"^ ?(?:[-*+]|\d{1,9}[.)])\s")
_HEADING = re.compile(r"^#{1,6}\s")
_BELOW_HEADER = re.compile(r"^\|[\s|:-]*-[\s|:-]*$")


@dataclass(frozen=True, slots=True)
class Piece:
    """Text for the current segment, or for a `fresh` one. `joined`: it continues the block that
    the segment before it ended in, so no space belongs between the two; of its text, the first
    `repeated` characters are that block's opening, which is in the segment before it already."""

    text: str
    fresh: bool = False
    joined: bool = False
    repeated: int = 0


class Segmenter:
    """Fed with text as it comes; gives back the pieces to draw."""

    def __init__(self) -> None:
        self._held = ""  # the start of a line that is not decided yet
        self._in_line = False  # the current line is decided and partly given out
        self._line_chars = 0
        self._chars = 0  # in the current segment
        self._begun = False  # the first segment exists
        self._blank = True  # the line before was blank
        self._list = False  # the current block is a list at the margin
        self._row = ""  # the line before, if it may be a row of a table
        self._header = ""  # the first two lines of the table that we are in
        self._table_rows = 0
        self._fence = ""  # the marks that opened the fence we are in
        self._fence_opening = ""  # its whole opening line
        self._fence_lines = 0
        self._fence_closed = False

    def feed(self, text: str, final: bool = False) -> list[Piece]:
        """The pieces to draw now. `final` gives out what was held back."""
        pieces: list[Piece] = []
        for part in (
            (self._held + text).splitlines(keepends=True)
            if not self._in_line
            else (text.splitlines(keepends=True))
        ):
            self._held = ""
            ended = part.endswith(("\n", "\r"))
            if self._in_line:
                self._more(part, pieces)
            elif ended or final or self._decided(part):
                self._start_line(part, pieces)
            else:
                self._held = part
                break
            self._in_line = not ended
        return [piece for piece in _merged(pieces) if piece.text]

    def _decided(self, part: str) -> bool:
        """Whether the beginning of a line shows what the line is. A table row is drawn when it is
        whole: half a row would be another table."""
        bare = part.lstrip()
        if bare.startswith("|") and not self._fence:
            return False
        return len(part) >= _UNDECIDED or (bare != "" and bare[0] not in _MARKS)

    def _start_line(self, line: str, pieces: list[Piece]) -> None:
        self._line_chars = 0
        bare = line.rstrip()
        margin = bool(bare) and not line[0].isspace()
        if self._fence:
            self._row = self._header = ""
            self._fence_line(line, bare, margin, pieces)
            return
        if self._table_line(line, bare, pieces):
            return
        fence = _FENCE.match(bare)
        if fence and "`" not in fence[3] and (not self._list or margin):
            self._fence = fence[2]
            self._fence_opening = bare + "\n"
            self._fence_lines = 0
            self._list = False
            self._emit(line, pieces, fresh=self._begun)
        elif fence and "`" not in fence[3]:  # inside a list: it cannot be cut
            self._fence, self._fence_opening = fence[2], ""
            self._emit(line, pieces)
        else:
            item = bool(_ITEM.match(line))
            fresh = joined = False
            if self._fence_closed and self._begun:
                fresh = True
            elif item and self._list and self._chars >= LIST_CHARS:
                fresh, joined = True, not self._blank
            elif margin and not item and self._chars >= BLOCK_CHARS:
                fresh = self._blank or bool(_HEADING.match(line))
            if bare:
                if margin and not item and (self._blank or _HEADING.match(line)):
                    self._list = False
                self._list = self._list or (item and (self._blank or self._list or margin))
            self._emit(line, pieces, fresh=fresh, joined=joined)
        self._blank = not bare

    def _table_line(self, line: str, bare: str, pieces: list[Piece]) -> bool:
        """Gives out a row of a table that is to be continued in the next segment."""
        row, self._row = self._row, line if bare.startswith("|") and line[0] == "|" else ""
        if not self._row:
            self._header, self._table_rows = "", 0
        elif self._header:
            self._table_rows += 1
            if self._table_rows > TABLE_ROWS:
                self._table_rows = 1
                self._emit(
                    self._header + line, pieces, fresh=True, joined=True, repeated=len(self._header)
                )
                return True
        elif row and _BELOW_HEADER.match(bare):
            self._header = row + line
        return False

    def _fence_line(self, line: str, bare: str, margin: bool, pieces: list[Piece]) -> None:
        mark = bare.strip()
        if mark.startswith(self._fence) and not mark.strip(self._fence[0]):
            self._emit(line, pieces)
            self._fence_closed = bool(self._fence_opening)
            self._fence = ""
            self._blank = True
            return
        self._fence_lines += 1
        full = self._fence_lines > FENCE_LINES and (margin or self._fence_lines > FENCE_LINES_MAX)
        if full and self._fence_opening and bare:
            self._fence_lines = 1
            opening = self._fence_opening
            self._emit(opening + line, pieces, fresh=True, joined=True, repeated=len(opening))
        else:
            self._emit(line, pieces)

    def _more(self, part: str, pieces: list[Piece]) -> None:
        self._line_chars += len(part)
        if self._line_chars > LINE_CHARS and (not self._fence or self._fence_opening):
            self._line_chars = 0
            opening = self._fence_opening if self._fence else ""
            at = part.find(" ") + 1
            self._emit(part[:at], pieces)
            self._emit(opening + part[at:], pieces, fresh=True, joined=True, repeated=len(opening))
        else:
            self._emit(part, pieces)

    def _emit(
        self,
        text: str,
        pieces: list[Piece],
        fresh: bool = False,
        joined: bool = False,
        repeated: int = 0,
    ) -> None:
        self._fence_closed = False
        if not self._begun:
            fresh, self._begun = True, True
        self._chars = len(text) if fresh else self._chars + len(text)
        pieces.append(Piece(text, fresh, joined and fresh, repeated))


def _merged(pieces: list[Piece]) -> list[Piece]:
    merged: list[Piece] = []
    for piece in pieces:
        if merged and not piece.fresh:
            last = merged[-1]
            merged[-1] = replace(last, text=last.text + piece.text)
        else:
            merged.append(piece)
    return merged
