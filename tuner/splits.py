"""How offloaded layers are shared among several GPUs.

llama.cpp gives contiguous runs of layers to the GPUs in order, by cumulated `tensor_split`
(`load_tensors`, src/llama-model.cpp). A split that names the counts themselves gives exactly
these counts: item `i` goes to the first GPU whose cumulated count exceeds `i`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tuner.machine import Device

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
    total: int, gpus: Sequence[Device], fits_on: Callable[[Counts, int], bool]
) -> list[Counts]:
    """Splits of `total` items worth a look, each at most once and in a fixed order.

    `fits_on(counts, g)` tells whether GPU g stays within its budget. The fastest GPUs filled
    first, then shares by budget, then the GPUs filled in order. Whether the whole of a candidate
    fits is for the caller to check.
    """
    n = len(gpus)
    if n <= 1:
        return [(total,) * n]
    by_speed = sorted(range(n), key=lambda g: (-gpus[g].bandwidth, g))
    orders = dict.fromkeys((tuple(by_speed), tuple(range(n)), tuple(reversed(range(n)))))
    fastest, *others = (_filled(total, order, fits_on, n) for order in orders)
    shared = proportional(total, [g.budget for g in gpus])
    return list(dict.fromkeys([fastest, shared, *others]))


def _filled(
    total: int, order: Sequence[int], fits_on: Callable[[Counts, int], bool], n: int
) -> Counts:
    """Each GPU in `order` takes as much as it can hold of what is left; the last takes the rest."""
    counts = [0] * n
    left = total
    for place, g in enumerate(order):
        if place == n - 1:
            counts[g] = left
            break
        rest_on = order[place + 1]
        low, high = 0, left
        while low < high:
            middle = (low + high + 1) // 2
            counts[g], counts[rest_on] = middle, left - middle
            if fits_on(tuple(counts), g):
                low = middle
            else:
                high = middle - 1
        counts[g], counts[rest_on] = low, 0
        left -= low
    return tuple(counts)
