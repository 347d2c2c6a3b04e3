"""What loads that ran out of memory teach, and for how long."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.planning.test_planner import law
from tests.support.giants import gpu, machine
from tuner.machine.usable import device_key
from tuner.profiles.shortfalls import BELIEVED, NOISE, Shortfall, after_a_load, within_what_worked
from tuner.units import GIB

HERE = machine(gpu(12.0), ram=64)
KEY = device_key(HERE.gpus[0])
NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
LEARNED = after_a_load({}, HERE, [6 * GIB, GIB], {0: 9 * GIB}, NOW)


def test_no_more_is_planned_than_worked() -> None:
    """For a week, and a warning says since when and how long."""
    found = within_what_worked(HERE, LEARNED, NOW + timedelta(days=2))
    assert found.gpus[0].budget == 6 * GIB
    assert found.host == HERE.host
    (said,) = found.warnings
    assert "GPU0: a load ran out of memory on 2026-05-04, so no more than 6.0 GiB" in said
    assert "until 2026-05-11" in said
    assert within_what_worked(HERE, LEARNED, NOW + BELIEVED) == HERE


@given(free=st.integers(0, 24 * GIB))
@law(60)
def test_it_never_gives_and_more_memory_still_is_more(free: int) -> None:
    card = replace(HERE.gpus[0], free=free, total=24 * GIB)
    now = within_what_worked(replace(HERE, gpus=(card,)), LEARNED, NOW).gpus[0]
    assert now.free == free
    assert now.budget <= card.budget
    assert now.budget == min(card.budget, 6 * GIB + max(0, free - 12 * GIB - 24 * GIB // NOISE))


def test_a_load_of_that_size_ends_it() -> None:
    assert after_a_load(LEARNED, HERE, [9 * GIB - 1, 0], {}, NOW) == LEARNED
    assert after_a_load(LEARNED, HERE, [9 * GIB, 0], {}, NOW) == {}


def test_a_failure_elsewhere_teaches_nothing_here() -> None:
    """Nor does one in whose place as much was loaded."""
    assert set(after_a_load({}, HERE, [6 * GIB, GIB], {1: 2 * GIB}, NOW)) == {device_key(HERE.host)}
    assert after_a_load({}, HERE, [6 * GIB, GIB], {0: 6 * GIB}, NOW) == {}


@pytest.mark.parametrize("at", ["", "yesterday", "2026-05-04"])
def test_a_date_that_makes_no_sense_is_none(at: str) -> None:
    known = {KEY: Shortfall(9 * GIB, 6 * GIB, 12 * GIB, at)}
    found = within_what_worked(HERE, known, NOW)
    assert (found == HERE) == (at != "2026-05-04")
