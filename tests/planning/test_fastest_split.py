"""The least that any split takes is that of the best one."""

from __future__ import annotations

from itertools import accumulate, combinations_with_replacement, pairwise
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.giants import GEMMA_27B, QWEN_30B_A3B, giant, gpu, machine
from tuner.planning.fastest_split import Space, least_seconds
from tuner.planning.solver import Solver
from tuner.settings import Settings

sizes = st.lists(st.integers(0, 9), min_size=1, max_size=7)
spaces = st.lists(st.builds(Space, st.integers(0, 25), st.integers(0, 9)), min_size=1, max_size=3)


@given(
    data=st.data(),
    items=sizes,
    rooms=spaces,
    costs=st.lists(st.sampled_from([0.0, 0.5, 3.0]), min_size=3),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_it_is_that_of_all_splits_one_by_one(
    data: st.DataObject, items: list[int], rooms: list[Space], costs: list[float]
) -> None:
    n = len(items)
    first = data.draw(st.integers(0, n - 1))
    held = [0, *accumulate(items)]
    times = st.lists(st.integers(0, 9).map(float), min_size=n, max_size=n)
    seconds = [[0.0, *accumulate(data.draw(times))] for _ in rooms]
    each = costs[: len(rooms)]

    def cost(space: Space, passed: list[float], beside: float, start: int, end: int) -> float:
        if start == end:
            return 0.0
        room = max(space.layers, space.output) if start == n - 1 else space.layers
        return passed[end] - passed[start] + beside if held[end] - held[start] <= room else inf

    splits = combinations_with_replacement(range(first, n + 1), len(rooms) - 1)
    best = min(
        sum(
            cost(space, passed, beside, start, end)
            for space, passed, beside, (start, end) in zip(
                rooms, seconds, each, pairwise((first, *cuts, n)), strict=True
            )
        )
        for cuts in splits
    )
    assert least_seconds(first, held, rooms, seconds, each) == best


@pytest.mark.parametrize("name", [GEMMA_27B, QWEN_30B_A3B])
def test_what_items_hold_is_no_more_than_a_gpu_is_charged(name: str) -> None:
    """Weights, cache and compute buffer: whatever split fits, there is room for."""
    solver = Solver(giant(name), machine(gpu(24), gpu(24, 1)))
    fitting, n = solver.fitting, solver.n_items
    for base in (Settings(4096), Settings(32_768, "q8_0", "q8_0", n_cpu_moe=n // 3)):
        for counts in ((n, 0), (n - 1, 1), (n // 2, n - n // 2), (5, 7), (0, 3)):
            s = base.with_offload(sum(counts), base.n_cpu_moe).with_split(tuple(map(float, counts)))
            totals, held = fitting.estimator.totals(s), fitting.estimator.held(s)
            start = n - sum(counts)
            for gpu_at, (count, space) in enumerate(zip(counts, fitting.spaces(s), strict=True)):
                left = fitting.budgets.limits[gpu_at] - totals[gpu_at]
                here = held[start + count] - held[start]
                room = space.output if start == n - 1 else space.layers
                assert not count or room - here >= left
                start += count
