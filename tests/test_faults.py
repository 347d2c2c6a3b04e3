"""A short form of `bench/faults.py`: each kind of fault with a few seeds."""

from __future__ import annotations

import sys

import pytest

from bench import faults


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals, links and signals")
@pytest.mark.parametrize(
    ("what", "n"),
    [
        ("databases", 12), ("profiles", 40), ("worker", 1), ("chat", 1), ("one-shot", 1),
        ("homes", 3),
    ],
)  # fmt: skip
def test_nothing_falls_and_nothing_is_lost_in_silence(
    what: str, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No exception comes out, and every loss was told; other seeds: python -m bench.faults."""
    for name in ("CONFIG", "DATA", "LOG"):  # a play sets its own: for the time of the test
        monkeypatch.setenv(f"KVCHAT_{name}_DIR", "")
    play, _ = faults.PLAYS[what]
    counts, fallen = faults.play_all(play, range(10_000, 10_000 + n))
    assert not fallen, "\n".join(f"seed {seed}: {trace}" for seed, trace in fallen.items())
    assert sum(counts.values()) == n
