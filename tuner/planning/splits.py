"""How offloaded layers are shared among several GPUs.

llama.cpp gives contiguous runs of layers to the GPUs in order, by cumulated `tensor_split`
(`load_tensors`, src/llama-model.cpp). A split that names the counts themselves gives exactly
these counts: item `i` goes to the first GPU whose cumulated count exceeds `i`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from tuner.machine.machine import Device

Split = tuple[int, ...]  # items of each GPU


def proportional(total: int, weights: Sequence[float]) -> Split:
    """`total` items shared by weight, rounded so that nothing is lost (largest remainder)."""
    scale = sum(weights)
    if scale <= 0:
        weights, scale = [1.0] * len(weights), float(len(weights))
    shares = [total * w / scale for w in weights]
    counts = [int(s) for s in shares]
    by_remainder = sorted(range(len(weights)), key=lambda i: (counts[i] - shares[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return tuple(counts)


class Room(Protocol):
    """What GPUs have left of their budgets once they hold so many items each: bytes."""

    def without_compute(self, counts: Split, gpu: int) -> int:
        """The compute buffer counted as nothing: quickly."""

    def left(self, counts: Split, gpu: int) -> int:
        """All counted; negative where it lacks them."""

    def usual_compute(self, gpu: int) -> int:
        """A first guess of the compute buffer."""


def candidates(total: int, gpus: Sequence[Device], room: Room) -> list[Split]:
    """Splits of `total` items worth a look, each at most once and in a fixed order.

    The fastest GPUs filled first, then shares by budget, then the GPUs filled in order. Whether
    the whole of a candidate fits is for the caller to check.
    """
    n = len(gpus)
    if n <= 1:
        return [(total,) * n]
    by_speed = sorted(range(n), key=lambda g: (-gpus[g].bandwidth, g))
    orders = dict.fromkeys((tuple(by_speed), tuple(range(n)), tuple(reversed(range(n)))))
    fastest, *others = (_filled(total, order, room) for order in orders)
    shared = proportional(total, [g.budget for g in gpus])
    return list(dict.fromkeys([fastest, shared, *others]))


def could_fit(total: int, n_gpus: int, room: Room) -> bool:
    """Whether some split of `total` items has room for all but the compute buffers: each GPU takes
    as many as it can, so that the fewest are left for those behind it."""
    counts: Split = (total, *(0,) * (n_gpus - 1))
    for gpu, rest_on in pairwise(range(n_gpus)):
        filling = _Filling(counts, gpu, rest_on, counts[gpu], room)
        counts = filling.with_most(0, counts[gpu])
    return all(room.without_compute(counts, gpu) >= 0 for gpu in range(n_gpus))


def _filled(total: int, order: Sequence[int], room: Room) -> Split:
    """Each GPU in `order` takes as much as it can hold of what is left; the last takes the rest."""
    counts = (0,) * len(order)
    for gpu, rest_on in pairwise(order):
        left = total - sum(counts)
        counts = _Filling(counts, gpu, rest_on, left, room).fullest()
    left = total - sum(counts)
    return tuple(left if gpu == order[-1] else count for gpu, count in enumerate(counts))


@dataclass(frozen=True, slots=True)
class _Filling:
    """One GPU that takes some of the `left` items, the rest being on the next one."""

    counts: Split  # of the GPUs that are filled already
    gpu: int
    rest_on: int
    left: int
    room: Room

    def fullest(self) -> Split:
        """The counts with as many items on the GPU as it can hold, the rest on none yet."""
        low, high, compute = 0, self._most(0, self.left, 0), self.room.usual_compute(self.gpu)
        while low < high:
            # what there is room for if the compute buffer is like that of the last guess
            guess = max(self._most(low, high, compute), low + 1)
            counts = self._with(guess)
            room = self.room.without_compute(counts, self.gpu)
            if low and room < compute * 3 // 4:
                break  # one more item does not make the buffer that small
            left = self.room.left(counts, self.gpu)
            compute = room - left
            if left >= 0:
                low = guess
            else:
                high = guess - 1
        return tuple(low if gpu == self.gpu else n for gpu, n in enumerate(self.counts))

    def with_most(self, low: int, high: int) -> Split:
        """The counts with as many items on the GPU as it can hold without a compute buffer."""
        return self._with(self._most(low, high, 0))

    def _most(self, low: int, high: int, compute: int) -> int:
        """Between `low` and `high`, the most items that leave so many bytes for compute."""
        while low < high:
            middle = (low + high + 1) // 2
            if self.room.without_compute(self._with(middle), self.gpu) >= compute:
                low = middle
            else:
                high = middle - 1
        return low

    def _with(self, count: int) -> Split:
        counts = list(self.counts)
        counts[self.gpu], counts[self.rest_on] = count, self.left - count
        return tuple(counts)
