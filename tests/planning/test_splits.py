"""How layers are shared among GPUs: nothing lost, nobody overfilled that need not be."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.giants import GEMMA_27B, QWEN_30B_A3B, giant, gpu, machine
from tuner.planning.solver import Solver
from tuner.planning.splits import Split, candidates, proportional
from tuner.settings import Settings


@dataclass
class Space:
    """GPUs with room for so many items, fewer by the compute buffer of those that have any."""

    rooms: list[int]
    compute: int

    def without_compute(self, counts: Split, gpu: int) -> int:
        return self.rooms[gpu] - counts[gpu]

    def left(self, counts: Split, gpu: int) -> int:
        return self.without_compute(counts, gpu) - (self.compute if counts[gpu] else 0)

    def usual_compute(self, gpu: int) -> int:
        return self.compute // 2  # a guess need not be right


weights = st.lists(st.integers(0, 1 << 36), min_size=1, max_size=6)


@given(total=st.integers(0, 200), weights=weights)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_shares_are_whole_and_lose_nothing(total: int, weights: list[int]) -> None:
    """Each is within one of its exact share."""
    counts = proportional(total, weights)
    assert sum(counts) == total
    scale = sum(weights)
    for count, weight in zip(counts, weights, strict=True):
        exact = total * weight / scale if scale else total / len(weights)
        assert exact - 1 < count < exact + 1


@pytest.mark.parametrize("total", [0, 1, 33])
def test_one_gpu_takes_all(total: int) -> None:
    assert candidates(total, [gpu(8)], Space([0], 0)) == [(total,)]


@given(
    total=st.integers(1, 60),
    rooms=st.lists(st.integers(0, 40), min_size=2, max_size=4),
    compute=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_candidates_fill_what_has_room(total: int, rooms: list[int], compute: int) -> None:
    """Each shares out all layers, each is another, and where all layers have room in the GPUs one
    after the other, one of the candidates fits."""
    gpus = [gpu(8, i) for i in range(len(rooms))]
    room = Space(rooms, compute)
    found = candidates(total, gpus, room)
    assert len(set(found)) == len(found)
    assert all(sum(counts) == total and min(counts) >= 0 for counts in found)
    if sum(max(0, r - compute) for r in rooms) >= total:
        assert any(all(room.left(c, g) >= 0 for g in range(len(rooms))) for c in found)


@given(
    name=st.sampled_from([GEMMA_27B, QWEN_30B_A3B]),
    rooms=st.lists(st.floats(1.5, 20), min_size=2, max_size=3),
    n_gpu_layers=st.integers(2, 49),
    n_cpu_moe=st.integers(0, 30),
    n_ubatch=st.sampled_from([128, 2048]),
    kv=st.sampled_from(["f16", "q4_0"]),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_no_split_has_more_context_than_the_bound(
    name: str, rooms: list[float], n_gpu_layers: int, n_cpu_moe: int, n_ubatch: int, kv: str
) -> None:
    """What is said of all splits together holds of each that the search would look at."""
    where = machine(*(gpu(gib, i) for i, gib in enumerate(rooms)))
    fitting = Solver(giant(name), where).fitting
    moe = n_cpu_moe if name == QWEN_30B_A3B else 0
    base = Settings(4096, kv, kv, n_gpu_layers, moe, n_ubatch)
    contexts = list(range(4096, 131_073, 256))
    for split in fitting.splits(base, None):
        found = fitting.longest(base.with_split(split), contexts, contexts[-1])
        if found:
            assert found.n_ctx <= fitting.most_of_splits(base, contexts)
            assert found.n_ctx <= fitting.most_context(base, contexts)
            assert fitting.could_fit(base.with_context(found.n_ctx), None)
