"""Which of two numbers of threads decodes faster, tried at a load."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from tuner.engine.protocol import Timed

SECONDS = 1.5  # for all of it
_ROUNDS = 12  # tokens with each number, at most,
_LEAST_ROUNDS = 3  # and at least, for an answer
_WORTH = 0.95  # the other number must take less than this share of the time
_UNDISTURBED = 0.75  # of their cores, that the threads must have had


def faster(
    usual: int, other: int, decode: Callable[[int], None]
) -> tuple[int, tuple[Timed, ...]] | None:
    """The better number of threads, the usual one unless the other is clearly faster, and what was
    timed; None where it cannot be told now: tokens take too long, or other programs had the cores.

    `decode` computes a token with so many threads. They take turns, so that what disturbs the one
    disturbs the other.
    """
    times: dict[int, list[float]] = {usual: [], other: []}
    until = time.monotonic() + SECONDS
    cpu = time.process_time()
    wanted = 0.0  # seconds of cores, had nobody else been there
    for done in range(_ROUNDS):
        if time.monotonic() > until:
            if done < _LEAST_ROUNDS:
                return None
            break
        for n_threads, each in times.items():
            start = time.perf_counter()
            decode(n_threads)
            each.append(time.perf_counter() - start)
            wanted += n_threads * each[-1]
    if time.process_time() - cpu < _UNDISTURBED * wanted:
        return None
    better = other if median(times[other]) < _WORTH * median(times[usual]) else usual
    return better, tuple(
        Timed(0, len(each), len(each) * median(each), float(n_threads), n_threads)
        for n_threads, each in times.items()
    )
