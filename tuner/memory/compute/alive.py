"""What is alive at once in a device's buffer: no allocator does with less.

Sizes are sums of terms (`terms.py`), and so is what is alive after any step of a tape. Of all these
sums few can be the largest, so that the least a buffer must hold costs a hundredth of a replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import ge, mul

from tuner.memory.compute.allocator import shrunk
from tuner.memory.compute.terms import Terms

_Sum = tuple[int, ...]  # a coefficient for each place


class Alive:
    """The sums of what is alive at once that may be the largest."""

    __slots__ = ("_sums",)

    def __init__(self, steps: Sequence[int], sizes: Sequence[Terms], places: Sequence[int]) -> None:
        """A tape (`allocator.Tape`) with sizes left open; `places`: those that they have."""
        self._sums = _largest(_peaks(steps, [_coefficients(size, places) for size in sizes]))

    def least(self, by_place: Sequence[float]) -> int:
        """Bytes that a buffer must have, for these values of the places."""
        return int(max((sum(map(mul, alive, by_place)) for alive in self._sums), default=0))


def _coefficients(size: Terms, places: Sequence[int]) -> _Sum:
    known = dict(size)
    return tuple([known.get(place, 0) for place in places])


def _peaks(steps: Sequence[int], sizes: Sequence[_Sum]) -> set[_Sum]:
    """What is alive after each step behind which something is given back."""
    alive: list[int] = [0] * len(sizes[0]) if sizes else []
    taken: list[_Sum] = []
    found = set()
    rising = False
    for step in steps:
        if step >= 0:
            size = sizes[step]
            taken.append(size)
            for place, more in enumerate(size):
                alive[place] += more
        else:
            if rising:
                found.add(tuple(alive))
            if cut := shrunk(step):
                block, left = cut
                for place, (had, has) in enumerate(zip(taken[block], sizes[left], strict=True)):
                    alive[place] -= had - has
                taken[block] = sizes[left]
            else:
                for place, less in enumerate(taken[~step]):
                    alive[place] -= less
        rising = step >= 0
    if rising:
        found.add(tuple(alive))
    return found


def _largest(sums: set[_Sum]) -> list[_Sum]:
    """Those that are not below another in every place: values of places are never negative."""
    kept: list[_Sum] = []
    for alive in sorted(sums, key=sum, reverse=True):
        if not any(all(map(ge, other, alive)) for other in kept):
            kept.append(alive)
    return kept
