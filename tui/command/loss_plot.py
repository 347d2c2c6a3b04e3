"""Pairs of cache types in the terminal, by their size and what they lose."""

from __future__ import annotations

from math import log10

import plotext

from tuner.memory.cache_losses import CacheLosses, PairLoss
from tuner.report.losses import size_share

HEIGHT = 18  # lines
_TICKS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_ROOM = 0.4  # of the width that the points take, for names beside the leftmost
_FRAME, _NAME = 6, 9  # cells that the frame takes, about, and a name


def loss_plot(losses: CacheLosses, width: int) -> str:
    """A point for each pair. Of those in a line that no other beats in both, the smallest has its
    name to the left, where no point is."""
    pairs = [pair for pair in losses.pairs if pair.loss > 0]
    points = {pair: (100 * size_share(pair), _height(pair.loss)) for pair in pairs}
    sizes, heights = zip(*points.values(), strict=True)
    span = max(sizes) - min(sizes) or 1.0
    left, right = min(sizes) - _ROOM * span, max(sizes) + span / 20
    low = max((t for t in _TICKS[:-1] if log10(t) <= min(heights)), default=_TICKS[0])
    high = min((t for t in _TICKS if t > low and log10(t) >= max(heights)), default=_TICKS[-1])
    ticks = [t for t in _TICKS if low <= t <= high]

    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, HEIGHT)
    figure.ruler("x").lim(left, right)
    shares = [share for share in range(0, 101, 10) if left < share < right]
    figure.ruler("x").ticks(shares, [f"{share} %" for share in shares])
    figure.ruler("y").lim(log10(low), log10(high))
    figure.ruler("y").ticks([log10(t) for t in ticks], [f"{t:g}" for t in ticks])
    figure.label("size of the cache, of f16")
    figure.label("loss", "y")
    figure.draw(figure.signal(list(sizes), list(heights), marker="●"))
    line, cell = (log10(high) - log10(low)) / (HEIGHT - _FRAME), (right - left) / (width - _FRAME)
    best = [pair for pair in pairs if not any(_beats(other, pair) for other in pairs)]
    named: list[tuple[float, float]] = []
    for pair in sorted(best, key=size_share):
        x, y = points[pair]
        if all(abs(x - a) > _NAME * cell or abs(y - b) > line for a, b in named):
            named.append((x, y))
            name = f"{pair.type_k}/{pair.type_v}"
            figure.draw(figure.text(x - 2 * cell, y, name, alignment="right"))
    lines = str(plotext.uncolorize(str(figure.build()))).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n") + "\n"


def _height(loss: float) -> float:
    return log10(min(max(loss, _TICKS[0]), _TICKS[-1]))


def _beats(one: PairLoss, other: PairLoss) -> bool:
    """Smaller and loses less, or as good in one of the two."""
    mine, theirs = (size_share(one), one.loss), (size_share(other), other.loss)
    return mine != theirs and mine[0] <= theirs[0] and mine[1] <= theirs[1]
