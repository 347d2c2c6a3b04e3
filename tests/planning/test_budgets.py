"""Budgets: bytes per device and per pool that several share, each rule on numbers of its own."""

from __future__ import annotations

import pytest

from tests.support.giants import gpu, machine, unified
from tuner.memory.footprint import DeviceUse, Footprint
from tuner.planning.budgets import Budgets, free_ram
from tuner.units import GIB, MIB

CARD = Budgets((100, 50))
SHARED = Budgets((100, 120, 130), ((0, 1),))


def test_a_machine_of_cards_has_a_limit_per_device() -> None:
    where = machine(gpu(24), gpu(12, 1))
    assert Budgets.of(where) == Budgets(tuple(d.budget for d in where.devices))


def test_shared_memory_is_one_limit_more() -> None:
    where = unified(10, 12, total=16)
    gpu_limit, host_limit, both = Budgets.of(where).limits
    assert (gpu_limit, host_limit) == tuple(d.budget for d in where.devices)
    assert both == host_limit
    assert Budgets.of(where).shared == ((0, 1),)


@pytest.mark.parametrize(
    ("totals", "short", "missing"),
    [
        ([100, 30], [0, 0, 0], [0, 0, 0]),
        ([90, 41], [0, 0, 1], [0, 0, 1]),
        ([20, 125], [0, 5, 15], [0, 0, 15]),
        ([110, 0], [10, 0, 0], [10, 0, 0]),
        ([140, 0], [40, 0, 10], [40, 0, 0]),
    ],
)
def test_what_is_short_and_what_is_missing(
    totals: list[int], short: list[int], missing: list[int]
) -> None:
    assert SHARED.short(totals) == short
    assert SHARED.missing(totals) == missing
    assert SHARED.hold(totals) == (not any(short))
    assert (SHARED.room(totals, 0) >= 0) == (short[0] == short[2] == 0)


def test_cards_are_short_each_for_itself() -> None:
    assert CARD.short([110, 60]) == CARD.missing([110, 60]) == [10, 10]
    assert CARD.charged([1, 2]) == [1, 2]
    assert CARD.room([70, 0], 0) == 30


def test_budgets_after_a_load_that_failed() -> None:
    """A share of what a card had or was given; of shared memory what is left beside weights."""
    uses = (DeviceUse("GPU0", weights=60, kv_cache=20), DeviceUse("host", weights=10, compute=10))
    failed = Footprint(uses)
    assert CARD.tighter(0.5, 0.5, failed, 1).limits == (40, 50)
    assert SHARED.tighter(0.5, 0.5, failed, 1).limits == (40, 120, 60 + 10 + 15)
    assert SHARED.tighter(0.5, 1.0, failed, 1).limits == (40, 120, 100)
    empty = Footprint((DeviceUse("GPU0", overhead=5), DeviceUse("host", weights=10)))
    assert CARD.tighter(0.5, 0.5, empty, 1).limits == (50, 50)


def test_more_memory_is_more_where_a_gpu_draws() -> None:
    assert CARD.grown(7, 1).limits == (107, 50)
    assert SHARED.grown(7, 1).limits == (107, 127, 137)
    assert Budgets((50,)).grown(7, 0).limits == (57,)


def test_only_what_is_free_of_the_ram_is_spared() -> None:
    """Not of a card; of a pool with what the firmware set apart."""
    assert free_ram(machine(gpu(24), ram=10)) == (None, 10 * GIB)
    where = unified(10, 8, carved_out=2)
    assert free_ram(where) == (None, 8 * GIB, 10 * GIB)
    capped = Budgets.of(where).at_most((None, 4 * GIB, 6 * GIB))
    assert capped.limits == (10 * GIB - 512 * MIB, 4 * GIB, 6 * GIB)
