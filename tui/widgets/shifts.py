"""How far the long lines of code, and the tables, of a transcript are moved sideways."""

from __future__ import annotations

from collections.abc import Sequence

from tui.widgets.entries import Item
from tui.widgets.parts import Part
from tui.widgets.reading.rows import Frame, Row

_STEP = 16  # columns by which they are moved at once
_TABLES = -1  # what stands for the block in an item: the tables of a message are moved together


def item_of(part: Part, row: Row) -> Item | None:
    """What is moved together: a code block, or the tables of a message."""
    message = part.entry.message
    if message is None:
        return None
    block = part.entry.block_of(part, part.line(row))
    return Item(message.id, _TABLES if block is None else block)


class Shifts:
    """Columns, for each block, by which its lines are moved to the left."""

    def __init__(self) -> None:
        self._columns: dict[Item, int] = {}

    def clear(self) -> None:
        """All lines are where they begin."""
        self._columns.clear()

    def of(self, part: Part, row: Row) -> int:
        """Columns by which this row is moved."""
        item = item_of(part, row)
        return self._columns.get(item, 0) if item is not None else 0

    def move(
        self,
        view: Sequence[tuple[Part, Row]],
        direction: int,
        chosen: Item | None,
        width: int,
    ) -> bool:
        """Moves a block to the left (-1) or to the right (1): the chosen one, or else the last one
        in view that has lines wider than `width`. False: there is none."""
        wide = [(item_of(part, row), row) for part, row in view if row.wide]
        items = [item for item, _ in reversed(wide) if item is not None]
        if chosen is not None and chosen.block is not None:
            items = [item for item in items if item == chosen]
        if not items:
            return False
        widest = max(row.strip.cell_length for item, row in wide if item == items[0])
        shift = self._columns.get(items[0], 0) + direction * _STEP
        self._columns[items[0]] = max(0, min(widest - width + 2, shift))
        return True

    def show(self, part: Part, row: Row, column: int, frame: Frame) -> None:
        """Moves a row so far that this column of it is in view."""
        item = item_of(part, row)
        if item is None:
            return
        least, most = column - frame.view + 3, column - frame.margin - 1
        shift = min(self._columns.get(item, 0), max(0, most))
        self._columns[item] = max(shift, least) if least > 0 else shift
