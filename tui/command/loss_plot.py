"""Pairs of cache types in the terminal, by their size and what they lose."""

from __future__ import annotations

from math import log10

import plotext

from tuner.memory.cache_losses import CacheLosses, PairLoss
from tuner.report.losses import size_share

HEIGHT = 18  # lines
_LEAST_LOSS = 1e-4  # nats per token: a logarithm wants more than nothing
_TICKS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_ROOM = 0.12  # of the cache's size beside the outermost names


def loss_plot(losses: CacheLosses, width: int) -> str:
    """The pairs that no other beats in both stand with their names, the others as points."""
    pairs = [pair for pair in losses.pairs if pair.loss > 0]
    best = {pair for pair in pairs if not any(_beats(other, pair) for other in pairs)}
    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, HEIGHT)
    others = [pair for pair in pairs if pair not in best]
    if others:
        places = zip(*map(_place, others), strict=True)
        figure.draw(figure.signal(*map(list, places), marker="·"))
    for pair in best:
        name = f"{pair.type_k}/{pair.type_v}"
        figure.draw(figure.text(*_place(pair), name, alignment="center"))
    shares = [100 * size_share(pair) for pair in pairs]
    heights = [log10(max(pair.loss, _LEAST_LOSS)) for pair in pairs]
    low = max((t for t in _TICKS[:-1] if log10(t) <= min(heights)), default=_TICKS[0])
    high = min((t for t in _TICKS if t > low and log10(t) >= max(heights)), default=_TICKS[-1])
    figure.ruler("x").lim(min(shares) - 100 * _ROOM, max(shares) + 100 * _ROOM)
    figure.ruler("y").lim(log10(low), log10(high))
    ticks = [t for t in _TICKS if low <= t <= high]
    figure.ruler("y").ticks([log10(t) for t in ticks], [f"{t:g}" for t in ticks])
    figure.label("size of the cache, % of f16")
    figure.label("loss", "y")
    lines = str(plotext.uncolorize(str(figure.build()))).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n") + "\n"


def _place(pair: PairLoss) -> tuple[float, float]:
    return 100 * size_share(pair), log10(max(pair.loss, _LEAST_LOSS))


def _beats(one: PairLoss, other: PairLoss) -> bool:
    """Smaller and loses less, or as good in one of the two."""
    mine, theirs = (size_share(one), one.loss), (size_share(other), other.loss)
    return mine != theirs and mine[0] <= theirs[0] and mine[1] <= theirs[1]
