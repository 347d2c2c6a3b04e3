"""The least that any split of layers over GPUs takes: a bound, exact but for what it is not told.

A split gives each GPU, in the engine's order, a run of items (layers, the output last). What an
item takes of a GPU's time depends on these two alone, so the best ends of the runs follow from
those before them, one GPU after the other, in one pass over the items each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes that a GPU has for items, at most."""

    layers: int  # where some of them are layers
    output: int  # where there is but the output


def least_seconds(
    first: int,
    held: Sequence[int],
    spaces: Sequence[Space],
    seconds: Sequence[Sequence[float]],
    each: Sequence[float],
) -> float:
    """Seconds that no split of the items from `first` on is below; inf where there is none.

    Args:
        first: how many items stay on the host.
        held: bytes that the first 0, 1, 2, ... items take on whatever GPU has them.
        spaces: of the GPUs, in the engine's order.
        seconds: of each GPU, what the first 0, 1, 2, ... items take there.
        each: seconds that each GPU costs beside them, if it has any item.
    """
    end = len(held) - 1
    least = [inf] * (end + 1)  # with the items up to here given away
    least[first] = 0.0
    for space, passed, beside in zip(spaces, seconds, each, strict=True):
        before, least = least, least.copy()
        starts: deque[int] = deque()  # of runs, each cheaper than those behind it
        cheapest = [cost - here for cost, here in zip(before, passed, strict=True)]
        for to in range(first + 1, end + 1):
            start = to - 1
            if before[start] < inf:
                while starts and cheapest[starts[-1]] >= cheapest[start]:
                    starts.pop()
                starts.append(start)
            while starts and held[to] - held[starts[0]] > space.layers:
                starts.popleft()
            if starts:
                least[to] = min(least[to], cheapest[starts[0]] + passed[to] + beside)
        if held[end] - held[end - 1] <= space.output:
            alone = before[end - 1] + passed[end] - passed[end - 1] + beside
            least[end] = min(least[end], alone)
    return least[end]
