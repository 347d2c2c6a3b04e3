"""The faster of two numbers of threads, by a clock that the test turns."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tuner.engine import thread_trial
from tuner.engine.thread_trial import faster


@dataclass
class Clock:
    """Wall and CPU time that pass only where a token is computed."""

    seconds: dict[int, float]  # of a token, by the number of threads
    share: float = 1.0  # of their cores, that the threads get
    wall: float = 0.0
    cpu: float = 0.0
    used: list[int] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.wall

    def perf_counter(self) -> float:
        return self.wall

    def process_time(self) -> float:
        return self.cpu

    def decode(self, n_threads: int) -> None:
        self.used.append(n_threads)
        self.wall += self.seconds[n_threads]
        self.cpu += self.share * n_threads * self.seconds[n_threads]


@pytest.mark.parametrize(
    ("seconds", "share", "answer"),
    [
        ({8: 0.010, 16: 0.008}, 1.0, 16),
        ({8: 0.010, 16: 0.0099}, 1.0, 8),  # hardly faster
        ({8: 0.010, 16: 0.020}, 1.0, 8),
        ({8: 0.010, 16: 0.008}, 0.5, None),  # other programs had half of the cores
        ({8: 0.900, 16: 0.800}, 1.0, None),  # so slow that one token each is all there is time for
    ],
)
def test_the_other_must_be_clearly_faster(
    seconds: dict[int, float], share: float, answer: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take turns, and all of it takes no longer than it may and a pair of tokens."""
    clock = Clock(seconds, share)
    monkeypatch.setattr(thread_trial, "time", clock)
    found = faster(8, 16, clock.decode)
    assert (found and found[0]) == answer
    for timed in found[1] if found else ():
        assert timed.seconds / timed.n_tokens == pytest.approx(seconds[timed.n_threads])
    assert clock.used[:2] == [8, 16]
    assert clock.used[::2] == [8] * (len(clock.used) // 2)
    assert clock.wall <= thread_trial.SECONDS + sum(seconds.values())
