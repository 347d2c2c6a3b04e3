"""A short form of `bench/faults.py`: each kind of fault with a few seeds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench import faults


@pytest.mark.parametrize(
    ("play", "n"), [(faults.play_database, 24), (faults.play_profile, 120)], ids=["db", "profiles"]
)
def test_nothing_falls_and_nothing_is_lost_in_silence(play: Callable[[int], str], n: int) -> None:
    """No exception comes out, and every loss was told; other seeds: python -m bench.faults."""
    counts, fallen = faults.play_all(play, range(10_000, 10_000 + n))
    assert not fallen, "\n".join(f"seed {seed}: {trace}" for seed, trace in fallen.items())
    assert sum(counts.values()) == n
    assert len(counts) > 1, "the faults are all of one kind"
