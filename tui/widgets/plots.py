"""Small plots of columns, which any terminal can draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tui.widgets.lines import Compose, Row
from tuner.cells import pad

BLOCKS = " ▁▂▃▄▅▆▇█"
SCALE = 9  # cells for the number at the top of a plot


@dataclass(frozen=True, slots=True)
class Plot:
    """Values over time, the newest last. `now`: the last of them in words, `top`: what the height
    stands for, `scale` the same in words."""

    label: str
    now: str
    values: Sequence[float]
    top: float
    scale: str


def column(height: float, width: int) -> str:
    """One row of a column that is so many rows high from there on, a space beside it where it is
    wider than a cell."""
    body = BLOCKS[min(8, max(0, round(8 * height)))] * max(1, width - 1)
    return body.ljust(width)


def columns(values: Sequence[float], top: float, width: int, height: int) -> list[str]:
    """Rows of at most `width` columns, from the top; where there are more values, a column is the
    largest of some. Anything above nothing shows."""
    each = -(-len(values) // max(1, width))
    shown = [max(share) for share in _shares(values, max(1, each))]
    scale = height / top if top > 0 else 0.0
    tall = [max(value * scale, 1 / 8) if value > 0 else 0.0 for value in shown]
    return ["".join(column(tall_one - row, 1) for tall_one in tall) for row in range(height)][::-1]


def _shares(values: Sequence[float], n: int) -> list[Sequence[float]]:
    return [values[at : at + n] for at in range(0, len(values), n)]


def drawn(plots: Sequence[Plot], height: int) -> Compose:
    """The plots below each other, each with a line that says what it is; `height`: rows of each."""

    def compose(width: int) -> list[Row]:
        lines: list[Row] = []
        for plot in plots:
            label = pad(plot.label, SCALE + 2)
            lines.append(((label, "bold"), (plot.now, "$muted")))
            room = max(1, width - SCALE - 2)
            for n, row in enumerate(columns(plot.values, plot.top, room, height)):
                scale = f"{pad(plot.scale, SCALE, right=True)} ┤" if n == 0 else " " * SCALE + " │"
                lines.append(((scale, "$muted"), (row, "$text-secondary")))
        return lines

    return compose
