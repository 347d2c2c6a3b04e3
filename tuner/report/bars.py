"""The bar of a pool of memory: what fills it, in the order and with the marks of every bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tuner.machine.machine import Pool
from tuner.memory.footprint import DeviceUse, Footprint


class Part(NamedTuple):
    """What fills a stretch of a bar."""

    label: str
    mark: str
    color: str  # ANSI
    kinds: tuple[str, ...] = ()  # of memory; none: what a plan does not take

    def size(self, use: DeviceUse) -> int:
        """Its bytes on a device."""
        return sum(getattr(use, kind) for kind in self.kinds)


# What a plan takes, in the order of the bar; people are shown one cache, whatever it is made of.
TAKEN = (
    Part("weights", "█", "34", ("weights",)),
    Part("cache", "▓", "36", ("kv_cache", "recurrent_state")),
    Part("compute", "▒", "35", ("compute",)),
    Part("overhead", "░", "33", ("overhead", "growth")),
    Part("checkpoint", "▪", "36", ("checkpoint",)),
)
PARTS = (*TAKEN, Part("in use", "×", "31"), Part("reserve", "-", "2"), Part("free", "·", "2"))


def sizes(pool: Pool, footprint: Footprint) -> tuple[int, ...]:
    """Bytes of each of `PARTS` in a pool, all its devices together."""
    uses = [footprint.uses[i] for i in pool.devices]
    in_use = max(0, pool.total - pool.free)
    left = max(0, pool.total - in_use - sum(use.total for use in uses))
    reserve = min(pool.reserve, left)
    return (*(sum(map(part.size, uses)) for part in TAKEN), in_use, reserve, left - reserve)


def lengths(sizes: Sequence[int], total: int, width: int) -> list[int]:
    """Cells of each part of a bar of `width`, by largest remainder; what is there at all gets at
    least one cell."""
    shown = [max(0, s) for s in sizes]
    scale = max(sum(shown), total, 1)
    taken = [max(1, int(s / scale * width)) if s else 0 for s in shown]
    free = len(taken) - 1
    while sum(taken) > width:
        taken[taken.index(max(taken))] -= 1
    fill = free if taken[free] else taken.index(max(taken))
    taken[fill] += width - sum(taken)
    return taken
