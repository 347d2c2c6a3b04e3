"""How offloaded layers are shared among several GPUs.

llama.cpp gives contiguous runs of layers to the GPUs in order, by cumulated `tensor_split`
(`load_tensors`, src/llama-model.cpp). A split that names the counts themselves gives exactly
these counts: item `i` goes to the first GPU whose cumulated count exceeds `i`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tuner.machine.machine import Device

Counts = tuple[int, ...]


def proportional(total: int, weights: Sequence[float]) -> Counts:
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


def candidates(
    total: int, gpus: Sequence[Device], room: Callable[[Counts, int, bool], int]
) -> list[Counts]:
    """Splits of `total` items worth a look, each at most once and in a fixed order.

    `room(counts, g, exact)` is what GPU g has left of its budget, in bytes, or, more quickly, what
    it would have without its compute buffer. The fastest GPUs filled
    first, then shares by budget, then the GPUs filled in order. Whether the whole of a candidate
    fits is for the caller to check.
    """
    n = len(gpus)
    if n <= 1:
        return [(total,) * n]
    by_speed = sorted(range(n), key=lambda g: (-gpus[g].bandwidth, g))
    orders = dict.fromkeys((tuple(by_speed), tuple(range(n)), tuple(reversed(range(n)))))
    fastest, *others = (_filled(total, order, room, n) for order in orders)
    shared = proportional(total, [g.budget for g in gpus])
    return list(dict.fromkeys([fastest, shared, *others]))


def _filled(
    total: int, order: Sequence[int], room: Callable[[Counts, int, bool], int], n: int
) -> Counts:
    """Each GPU in `order` takes as much as it can hold of what is left; the last takes the rest."""
    counts = [0] * n
    left = total
    for place, g in enumerate(order[:-1]):
        rest_on = order[place + 1]

        def at(count: int, g: int = g, rest_on: int = rest_on, left: int = left) -> Counts:
            counts[g], counts[rest_on] = count, left - count
            return tuple(counts)

        # The next guess is what has room if the compute buffer is like that of the last one.
        low, high, compute = 0, left, 0
        while low < high:
            guess, end = low, high
            while guess < end:
                middle = (guess + end + 1) // 2
                if room(at(middle), g, False) >= compute:
                    guess = middle
                else:
                    end = middle - 1
            guess = max(guess, low + 1)
            exact = room(at(guess), g, True)
            compute = room(at(guess), g, False) - exact
            if exact >= 0:
                low = guess
            else:
                high = guess - 1
        counts[g], counts[rest_on] = low, 0
        left -= low
    counts[order[-1]] = left
    return tuple(counts)
