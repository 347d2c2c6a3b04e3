"""How wide the columns of a table are, and what stands in its rows."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

from tui.widgets.reading.lines import Table

BETWEEN = " │ "
_LEAST = 6  # cells; narrower, a column is not read but spelled


def widths(table: Table, width: int) -> tuple[int, ...]:
    """The cells of each column, as wide as its widest text; the widest columns give way where the
    table is wider than `width`."""
    n_columns = max(map(len, table.rows), default=0)
    found = [
        max((cell_len(row[n].text) for row in table.rows if n < len(row)), default=0) or 1
        for n in range(n_columns)
    ]
    room = width - len(BETWEEN) * (n_columns - 1)
    while sum(found) > room:
        widest = max(found)
        if widest <= _LEAST:
            break
        n_widest = found.count(widest)
        next_to_it = max((w for w in found if w < widest), default=0)
        spare = -(-(sum(found) - room) // n_widest)
        narrower = max(next_to_it, widest - spare, _LEAST)
        found = [narrower if w == widest else w for w in found]
    left = room - sum(found)  # where all gave way at once, some of them by one cell too much
    for n in range(n_columns):
        natural = max((cell_len(row[n].text) for row in table.rows if n < len(row)), default=0)
        if left > 0 and found[n] < natural:
            found[n], left = found[n] + 1, left - 1
    return tuple(found)


def offsets(align: str, taken: int, width: int) -> tuple[int, int]:
    """The spaces before and after a text of a cell."""
    spare = max(0, width - taken)
    before = {"right": spare, "center": spare // 2}.get(align, 0)
    return before, spare - before


def rule(columns: Sequence[int]) -> str:
    """What stands below the header."""
    return "─┼─".join("─" * column for column in columns)
