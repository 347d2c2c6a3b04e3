"""When a loaded plan moves as memory comes and goes, and to what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.planning.test_planner import law
from tests.support.giants import LLAMA_8B, QWEN_30B_A3B, giant, gpu, machine
from tuner.machine.machine import Machine
from tuner.memory.footprint import DeviceUse, Footprint
from tuner.planning.plan import Candidate
from tuner.planning.planner import make_plan
from tuner.planning.rebalancing import (
    BACK_FOR,
    BETTER,
    MOST_BACK_FOR,
    REST,
    SPENT,
    TAKEN_FOR,
    Action,
    Watch,
    better,
    smaller,
)
from tuner.planning.solver import Solver
from tuner.units import GIB, MIB
from tuner.wishes import Wishes

MADE_FOR = machine(gpu(16.0))
RESERVE = MADE_FOR.gpus[0].reserve
EVERY = 2.0  # seconds


def here(gpu0: int, host: int | None = None) -> Machine:
    card = replace(MADE_FOR.gpus[0], free=gpu0)
    memory = replace(MADE_FOR.host, free=MADE_FOR.host.free if host is None else host)
    return replace(MADE_FOR, gpus=(card,), host=memory)


def filling(where: Machine) -> Footprint:
    """A plan that takes all that it may of the GPU."""
    return Footprint((DeviceUse("GPU0", weights=where.gpus[0].budget), DeviceUse("host")))


def moves(
    frees: Sequence[int], every: float = EVERY, answering: Sequence[bool] = ()
) -> Iterator[tuple[float, Action]]:
    """When a plan moves that always takes all it may, as these bytes are free one after another."""
    watch = Watch(filling(MADE_FOR), MADE_FOR, 0.0)
    for i, free in enumerate(frees):
        now, busy = every * i, i < len(answering) and answering[i]
        verdict = watch.read(now, here(free), answering=busy)
        if verdict.action != "stay":
            assert not busy
            assert verdict.machine is not None
            watch.moved(now, verdict.action, filling(verdict.machine), verdict.machine)
            yield now, verdict.action


FULL = MADE_FOR.gpus[0].free
some_memory = st.integers(FULL // 8, FULL + 4 * GIB)
runs = st.lists(st.tuples(some_memory, st.integers(1, 60)), max_size=30).map(
    lambda parts: [free for free, n in parts for _ in range(n)]
)


@given(runs, st.floats(0.5, 25))
@law(60)
def test_two_moves_have_a_rest_between_them(frees: list[int], every: float) -> None:
    """Whatever is read."""
    found = [now for now, _ in moves(frees, every)]
    assert all(b - a >= REST for a, b in pairwise(found))


@given(st.lists(st.integers(-(RESERVE - RESERVE // SPENT), 256 * MIB), max_size=300))
@law(40)
def test_what_a_reserve_is_for_moves_nothing(changes: list[int]) -> None:
    """Other programs may take three quarters of it, and give back what is hardly more."""
    more = max(256 * MIB, FULL // 50) - 1
    assert list(moves([FULL + min(change, more) for change in changes])) == []


@given(st.integers(1, 400), st.integers(1, 400))
@law(10)
def test_memory_that_comes_and_goes_is_trusted_ever_less(low: int, high: int) -> None:
    """Four hours, with less for `low` readings and all for `high` ones, in turn: a plan grows a few
    times at first, and then less than once an hour."""
    every = 10.0
    n = int(4 * 3600 / every)
    frees = [FULL // 2 if i % (low + high) < low else FULL for i in range(n)]
    grown = [now for now, action in moves(frees, every) if action == "grow"]
    assert len(grown) <= 9
    assert len([now for now in grown if now > 2 * 3600]) <= 3


@given(runs, st.data())
@law(30)
def test_nothing_moves_while_an_answer_is_written(frees: list[int], data: st.DataObject) -> None:
    answering = data.draw(st.lists(st.booleans(), min_size=len(frees), max_size=len(frees)))
    list(moves(frees, answering=answering))  # which looks at it
    assert list(moves(frees, answering=[True] * len(frees))) == []


def steps(frees: Sequence[int]) -> list[tuple[float, Action]]:
    return list(moves(frees))


def test_what_is_taken_must_stay_taken() -> None:
    n = int(TAKEN_FOR / EVERY)
    gone = FULL // 2
    assert steps([FULL, *[gone] * n, FULL]) == []
    assert steps([FULL, *[gone] * (n + 1)]) == [(TAKEN_FOR + EVERY, "shrink")]


def test_what_is_back_must_have_been_there_for_a_minute() -> None:
    """And is planned for with no more than was there all the time."""
    back, gone = FULL - GIB, FULL // 2
    watch = Watch(filling(here(gone)), here(gone), 0.0)
    frees = [back, *[back + GIB, back] * 40]
    for i, free in enumerate(frees):
        verdict = watch.read(EVERY * i, here(free))
        if verdict.action == "grow":
            break
    assert EVERY * i == BACK_FOR
    assert verdict.machine == here(back)


def test_a_gap_or_a_clock_that_jumps_begins_anew() -> None:
    watch = Watch(filling(MADE_FOR), MADE_FOR, 0.0)
    for now in (0.0, 3600.0, 7200.0, 100.0, 99.0):
        assert watch.read(now, here(FULL // 2)).action == "stay"


def test_what_is_tight_is_told_at_once() -> None:
    """While an answer is written, too: before the driver moves anything out."""
    watch = Watch(filling(MADE_FOR), MADE_FOR, 0.0)
    assert watch.read(0.0, here(FULL)).tight == ()
    assert watch.read(1.0, here(FULL // 2), answering=True).tight == ("GPU0",)
    short_of_ram = here(FULL, host=MADE_FOR.host.reserve // SPENT - 1)
    assert watch.read(2.0, short_of_ram).tight == ("host",)


def test_what_nobody_wants_is_not_asked_for_again() -> None:
    """Before there is clearly more."""
    watch = Watch(filling(here(FULL // 2)), here(FULL // 2), 0.0)
    asked = []
    for i in range(3000):
        now = EVERY * i
        verdict = watch.read(now, here(FULL if i < 2000 else FULL + GIB))
        if verdict.action == "grow":
            assert verdict.machine is not None
            asked.append(now)
            watch.refused(now, verdict.machine)
    assert len(asked) == 2
    assert asked[1] >= 2000 * EVERY


def test_the_wait_has_an_end() -> None:
    """However often memory was taken again, an hour of it is believed."""
    watch = Watch(filling(MADE_FOR), MADE_FOR, 0.0)
    now = 0.0
    for action, where in (("grow", MADE_FOR), ("shrink", here(FULL // 2))) * 20:
        watch.moved(now, action, filling(where), where)  # type: ignore[arg-type]
    while watch.read(now, here(FULL)).action == "stay":
        now += 10
        assert now <= MOST_BACK_FOR
    assert now == MOST_BACK_FOR


# ---------------------------------------------------------------- to what


def chosen(name: str, where: Machine, wishes: Wishes) -> Candidate:
    return make_plan(giant(name), where, wishes).chosen


def at(where: Machine, gib: float) -> Solver:
    return Solver(giant(LLAMA_8B), replace(where, gpus=(replace(gpu(gib)),)))


def test_a_smaller_cache_first_then_fewer_layers() -> None:
    """As much as other programs take."""
    where = machine(gpu(12.0))
    loaded = chosen(LLAMA_8B, where, Wishes(n_ctx=32_768)).settings
    assert (loaded.type_k, loaded.n_gpu_layers) == ("f16", 33)
    found = []
    for gib in (10.9, 8.5, 7.2, 5.0):
        plan = smaller(at(where, gib), Wishes(), loaded)
        assert plan is not None
        assert plan.fits
        found.append((plan.settings.type_k, plan.settings.n_gpu_layers, plan.settings.n_ctx))
    assert found[0] == ("f16", 33, 32_768)
    assert found[1] == ("q8_0", 33, 32_768)
    assert found[2][:2] == ("q4_0", 33)
    assert found[3][1] < 33


@pytest.mark.parametrize("wishes", [Wishes(type_k="f16", type_v="f16"), Wishes(n_ctx=32_768)])
def test_wishes_are_kept(wishes: Wishes) -> None:
    where = machine(gpu(12.0))
    loaded = chosen(LLAMA_8B, where, replace(wishes, n_ctx=32_768)).settings
    plan = smaller(at(where, 6.8), wishes, loaded)
    assert plan is not None
    assert wishes.type_k in (None, plan.settings.type_k)
    assert wishes.n_ctx in (None, plan.settings.n_ctx)
    fixed = Wishes.of_settings(loaded)
    assert smaller(at(where, 6.8), fixed, loaded) is None


def test_the_conversation_has_room_or_nothing_moves() -> None:
    where = machine(gpu(12.0))
    loaded = chosen(LLAMA_8B, where, Wishes(n_ctx=32_768)).settings
    for gib in (8.0, 6.0, 4.0):
        plan = smaller(at(where, gib), Wishes(), loaded, least=30_000)
        assert plan is not None
        assert plan.settings.n_ctx >= 30_000
    nothing = replace(machine(gpu(2.0), ram=3.0))
    assert smaller(Solver(giant(LLAMA_8B), nothing), Wishes(), loaded, least=30_000) is None


def test_a_better_plan_is_clearly_better() -> None:
    """More layers on the GPU are; a little more context is not."""
    small, large = machine(gpu(10.0)), machine(gpu(24.0))
    partial = chosen(QWEN_30B_A3B, small, Wishes())
    more = Solver(giant(QWEN_30B_A3B), large)
    found = better(more, Wishes(), partial.settings)
    assert found is not None
    assert found.speed.decode_tps > BETTER * partial.speed.decode_tps
    whole = chosen(LLAMA_8B, machine(gpu(11.0)), Wishes()).settings
    assert better(at(large, 12.0), Wishes(), whole) is None
    assert better(more, Wishes(), found.settings) is None
