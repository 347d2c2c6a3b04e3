"""Where the rows of a conversation stand, and which of them are in view.

Only rows in view are made; of the rest it is guessed how many there are. What the view holds on to
is a row, not a number of rows: where a guess above it comes true, the number changes and the view
does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

from tui.widgets.entries import Entry
from tui.widgets.parts import Part
from tui.widgets.reading.rows import Frame, Look, Row

KEPT = 200  # parts whose rows are remembered
_WALK = 3  # views, within which scrolling counts rows and does not guess them

Shown = tuple[Part, Row]


class Page:
    """The entries, in a frame that is so many rows high. Follows the end, or holds the row at its
    upper edge. After `place`: the `view`, at row `y` of `height` rows about, and whether the end is
    in it."""

    def __init__(self, look: Look, changed: Callable[[], None]) -> None:
        """`changed` is called when an entry has become another one."""
        self.entries: list[Entry] = []
        self.frame: Frame | None = None
        self.rows = 0  # of the view
        self.following = True
        self.view: list[Shown] = []
        self.y = self.height = 0
        self.ends_here = True
        self.drawn: dict[Part, None] = {}  # whose rows are remembered, the newest last
        self._look = look
        self._tell = changed
        self._next_serial = 0
        self._top: Part | None = None  # the part at the upper edge of the view,
        self._top_row = 0  # and which of its rows is there

    # ------------------------------------------------------------ entries

    def serial(self) -> int:
        """A number for another entry."""
        self._next_serial += 1
        return self._next_serial

    def append(self, entry: Entry) -> None:
        """Puts an entry below all others."""
        entry.at = len(self.entries)
        self.entries.append(entry)

    def clear(self) -> None:
        """Takes all entries away."""
        self.entries.clear()
        self.drawn.clear()
        self._top = None

    def remove(self, gone: Sequence[Entry]) -> None:
        """Takes some entries away."""
        if self._top is not None and self._top.entry in gone:
            kept = [e for e in self.entries[: self._top.entry.at] if e not in gone]
            self._top = kept[-1].parts[-1] if kept and kept[-1].parts else None
            self._top_row = 0
        self.entries = [entry for entry in self.entries if entry not in gone]
        for at, entry in enumerate(self.entries):
            entry.at = at
        for part in [part for part in self.drawn if part.entry in gone]:
            del self.drawn[part]

    def changed(self, entry: Entry) -> None:
        """An entry has other parts than before."""
        if self._top is not None and self._top.entry is entry and self._top not in entry.parts:
            parts = entry.parts
            self._top = parts[min(self._top.serial, len(parts) - 1)] if parts else None
            self._top_row = 0
        self._tell()

    def draw(self, part: Part) -> list[Row]:
        """The rows of a part, made now if they are not there."""
        assert self.frame is not None
        rows = part.rows
        if rows is None:
            known = part.height
            rows = part.drawn(self.frame, self._look)
            if len(rows) != known:
                part.entry.measured()
        self.drawn.pop(part, None)
        self.drawn[part] = None
        return rows

    # ------------------------------------------------------------ the view

    def place(self) -> None:
        """Finds out which rows are in view, and makes them."""
        assert self.frame is not None
        if self._top is None or self.following:
            self._to_last_rows()
        self.view = self._rows_below_top()
        if len(self.view) < self.rows and self._top is not self._first_part():
            self._to_last_rows()  # what was below became shorter
            self.view = self._rows_below_top()
        self._forget_far()
        tops = [0, *accumulate(entry.rows_about(self.frame) for entry in self.entries)]
        self.y = self._top_row
        if self._top is not None:
            above = self._top.entry.parts[: self._top.serial]
            self.y += tops[self._top.entry.at] + sum(p.rows_about(self.frame) for p in above)
        self.height = max(tops[-1], self.y + len(self.view))
        last = self.view[-1] if self.view else None
        self.ends_here = last is None or (
            last[0] is self._last_part() and last[1] is self.draw(last[0])[-1]
        )

    def scroll(self, rows: int, y: int) -> None:
        """The upper edge is so many rows from where it was, at row `y` of all."""
        if abs(rows) <= _WALK * self.rows:
            self._step(rows)
        else:
            self._jump(y)

    def to_start(self) -> None:
        """The first row is at the upper edge."""
        self.following = False
        self._top, self._top_row = self._first_part(), 0

    def bring_into_view(self, part: Part, n: int, above: int) -> None:
        """Shows the row `n` of a part, with so many rows above it, unless it is in view already."""
        wanted = self.draw(part)[n]
        at = next((y for y, (_, row) in enumerate(self.view) if row is wanted), self.rows)
        if at >= max(1, self.rows - above):
            self.following = False
            self._top, self._top_row = part, n
            self._step(-above)

    def nudge(self, part: Part, n: int) -> None:
        """Shows the row `n` of a part, moving no further than that takes."""
        wanted = self.draw(part)[n]
        if any(row is wanted for _, row in self.view):
            return
        top = self._top
        above = top is not None and (part.entry.at, part.serial, n) < (
            top.entry.at, top.serial, self._top_row)  # fmt: skip
        self.following = False
        self._top, self._top_row = part, n
        if not above:
            self._step(1 - self.rows)

    def reframe(self, frame: Frame, rows: int) -> None:
        """Another frame, or another look: all rows are made again. The line at the upper edge stays
        there."""
        held = self._held() if self.frame is not None else None
        self.frame, self.rows, self.view = frame, rows, []
        for entry in self.entries:
            entry.resized()
        if held is not None:
            part, line, x = held
            self._top, self._top_row = part, self._row_of(part, line, x)

    def _held(self) -> tuple[Part, int, int] | None:
        """The line at the upper edge of the view, and the character that its row begins with."""
        if self.following or self._top is None or self._top.rows is None:
            return None
        row = self._top.rows[min(self._top_row, len(self._top.rows) - 1)]
        return self._top, row.line, row.pieces[0].start if row.pieces else -1

    def _row_of(self, part: Part, line: int, x: int) -> int:
        found = 0
        for n, row in enumerate(self.draw(part)):
            if row.line == line:
                if not row.pieces and x < 0:
                    return n
                if row.pieces and row.pieces[0].start <= max(x, 0):
                    found = n
        return found

    def _step(self, rows: int) -> None:
        """Moves the upper edge by so many rows, which are made."""
        part, row = self._top, self._top_row + rows
        while part is not None and row < 0:
            above = self._neighbour(part, -1)
            if above is None:
                row = 0
                break
            part = above
            row += len(self.draw(part))
        while part is not None and row >= len(self.draw(part)):
            below = self._neighbour(part, 1)
            if below is None:
                row = len(self.draw(part)) - 1
                break
            row -= len(self.draw(part))
            part = below
        self._top, self._top_row = part, max(0, row)

    def _jump(self, y: int) -> None:
        """Moves the upper edge to about this row of all."""
        assert self.frame is not None
        for entry in self.entries:
            rows = entry.rows_about(self.frame)
            if y < rows:
                for part in entry.parts:
                    rows = part.rows_about(self.frame)
                    if y < rows:
                        self._top, self._top_row = part, min(y, len(self.draw(part)) - 1)
                        return
                    y -= rows
                return
            y -= rows

    def _to_last_rows(self) -> None:
        part, rows = self._last_part(), 0
        while part is not None:
            rows += len(self.draw(part))
            above = self._neighbour(part, -1)
            if rows >= self.rows or above is None:
                break
            part = above
        self._top, self._top_row = part, max(0, rows - self.rows)

    def _rows_below_top(self) -> list[Shown]:
        part, row = self._top, self._top_row
        view: list[Shown] = []
        while part is not None and len(view) < self.rows:
            rows = self.draw(part)
            view += ((part, one) for one in rows[row : row + self.rows - len(view)])
            row = max(0, row - len(rows))
            part = self._neighbour(part, 1)
        return view

    def _forget_far(self) -> None:
        """Rows that were not seen for long are made again when they are."""
        if len(self.drawn) > KEPT:
            seen = {part for part, _ in self.view}
            for part in list(self.drawn)[: len(self.drawn) - KEPT]:
                if part not in seen:
                    del self.drawn[part]
                    part.let_go()

    def _neighbour(self, part: Part, step: int) -> Part | None:
        """The part above (-1) or below (1)."""
        parts = part.entry.parts
        at = part.serial + step
        if 0 <= at < len(parts):
            return parts[at]
        n = part.entry.at + step
        while 0 <= n < len(self.entries):
            if parts := self.entries[n].parts:
                return parts[0] if step > 0 else parts[-1]
            n += step
        return None

    def _first_part(self) -> Part | None:
        return next((e.parts[0] for e in self.entries if e.parts), None)

    def _last_part(self) -> Part | None:
        return next((e.parts[-1] for e in reversed(self.entries) if e.parts), None)
