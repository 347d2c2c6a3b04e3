"""What holds of every plan, over models and machines that nobody picked (`random_plans.py`)."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from itertools import permutations

from hypothesis import assume, given
from hypothesis import strategies as st

from tests.planning.test_planner import kept, law
from tests.planning.test_solver import brute_force
from tests.support.giants import gpu, machine
from tests.support.random_plans import Made, cards, cases, numbered, wishes
from tuner.errors import UsageError
from tuner.machine.machine import Device, Machine
from tuner.planning.plan import Plan
from tuner.planning.planner import make_plan
from tuner.planning.solver import UBATCHES, Solver
from tuner.planning.speed import CHAT_DEPTH, Offload, SpeedModel
from tuner.units import GIB
from tuner.wishes import PREFERENCES, Wishes

SLACK = 1e-9  # scores that differ by less are alike
Case = tuple[Made, Machine]


def score(made: Made, where: Machine) -> float:
    chosen = make_plan(made.model, where, Wishes()).chosen
    return chosen.score if chosen.fits else -math.inf


def grown(device: Device, more: int) -> Device:
    return replace(device, total=device.total + more, free=device.free + more)


@given(data=st.data(), case=cases(2, most_layers=8))
@law(12)
def test_more_memory_never_makes_a_plan_worse(data: st.DataObject, case: Case) -> None:
    """More RAM, more of one GPU's own, or one GPU more, however small."""
    made, where = case
    more = data.draw(st.integers(1, int(made.model.size_bytes)))
    gpus = list(where.gpus)
    what = data.draw(st.sampled_from(["RAM", *range(len(gpus)), "another"]))
    host = grown(where.host, more) if what == "RAM" else where.host
    if isinstance(what, int):
        gpus[what] = grown(gpus[what], more)
    if what == "another":
        assume(not any(one.unified for one in gpus))
        gpus.append(data.draw(cards(made.model)))
    larger = replace(where, host=host, gpus=numbered(gpus))
    assert score(made, larger) >= score(made, where) - SLACK


@given(case=cases(), asked=wishes)
@law(6)
def test_a_wish_is_kept_by_all_that_is_offered(case: Case, asked: Wishes) -> None:
    made, where = case
    asked = asked.for_model(made.model)
    try:
        plan = make_plan(made.model, where, asked)
    except UsageError:  # cache types that the engine does not take together
        return
    wished = asked.settings
    if asked.use_extra_bufts:  # which nobody wishes: a plan may do without
        del wished["use_extra_bufts"]
    for c in kept(plan):
        assert {name: getattr(c.settings, name) for name in wished} == wished


@given(case=cases(most_gpus=2), first=wishes)
@law(3)
def test_offers_do_not_depend_on_the_order_in_which_they_are_asked_for(
    case: Case, first: Wishes
) -> None:
    """Nor on what the same solver was asked before."""
    made, where = case
    solver = Solver(made.model, where)
    with suppress(UsageError):
        offers(make_plan(made.model, where, first, solver=solver), ORDERS[1])
    expected = offers(make_plan(made.model, where, Wishes()), ORDERS[0])
    plan = make_plan(made.model, where, Wishes(), solver=solver)
    assert offers(plan, ORDERS[-1]) == expected


ORDERS = tuple(permutations(("alternatives", "fallbacks", "one_more_gib")))


def offers(plan: Plan, order: tuple[str, ...]) -> dict[str, object]:
    return {"chosen": plan.chosen, **{name: getattr(plan, name) for name in order}}


@given(
    case=cases(1, most_layers=3, widths=(512, 1024), contexts=(4608,)),
    prefer=st.sampled_from(PREFERENCES),
    kv=st.sampled_from([None, "q8_0"]),
)
@law(8)
def test_the_answer_is_that_of_brute_force(case: Case, prefer: str, kv: str | None) -> None:
    """Over one GPU or none, with memory of its own or the RAM's."""
    made, where = case
    solver = Solver(made.model, where)
    asked = Wishes(prefer=prefer, type_k=kv, type_v=kv)
    found, expected = solver.best(asked), brute_force(solver, asked)
    assert (found and round(found.score, 9)) == (expected and round(expected, 9))


@given(
    case=cases(2, contexts=(131_072,)),
    a=st.integers(16_384, 60_000),
    more=st.integers(256, 60_000),
    prefer=st.sampled_from(PREFERENCES),
)
@law(10)
def test_a_longer_context_is_never_faster(case: Case, a: int, more: int, prefer: str) -> None:
    """With the same cache types and batch; where they are free no plan gains by it."""
    made, where = case
    solver = Solver(made.model, where)
    fixed = Wishes(type_k="q8_0", type_v="q8_0", n_ubatch=512, prefer=prefer)
    for wish in (Wishes(prefer=prefer), fixed):
        short, long = (solver.best(replace(wish, n_ctx=n)) for n in (a, a + more))
        if long is None:
            continue
        assert short is not None
        assert short.score >= long.score - SLACK
        if wish is fixed:
            assert short.speed.turn_seconds <= long.speed.turn_seconds * (1 + SLACK)
            decoding = [c.speed.decode_tps_at[CHAT_DEPTH] for c in (long, short)]
            assert decoding[0] <= decoding[1] * (1 + SLACK)


@given(case=cases(2))
@law(8)
def test_one_gib_more_announces_nothing_worse(case: Case) -> None:
    made, where = case
    plan = make_plan(made.model, where, Wishes())
    mine, more = plan.chosen, plan.one_more_gib
    if more:
        assert more.settings.n_ctx >= mine.settings.n_ctx
        assert more.quality.loss <= mine.quality.loss
        assert more.speed.turn_seconds <= 1.02 * mine.speed.turn_seconds


@given(case=cases(1), prefer=st.sampled_from(PREFERENCES))
@law(10)
def test_no_preference_gives_up_much_of_one_speed_for_a_little_of_the_other(
    case: Case, prefer: str
) -> None:
    """Twice the speed of prompts, or of decoding, is to be had for no less than a twentieth of the
    other, with this context and these cache types."""
    made, where = case
    solver = Solver(made.model, where)
    found = solver.best(Wishes(prefer=prefer))
    assume(found is not None)
    assert found is not None
    s = found.settings
    for n_ubatch in UBATCHES:
        other = solver.best(Wishes(s.n_ctx, type_k=s.type_k, type_v=s.type_v, n_ubatch=n_ubatch))
        if other:
            gains = (
                other.speed.prompt_tps / found.speed.prompt_tps,
                other.speed.decode_tps / found.speed.decode_tps,
            )
            assert not (max(gains) > 2 and min(gains) > 0.95)


@given(case=cases(), data=st.data(), factor=st.floats(1, 8))
@law(40)
def test_the_same_settings_are_no_slower_on_faster_devices(
    case: Case, data: st.DataObject, factor: float
) -> None:
    """Bandwidth, FLOP/s and PCIe of a GPU, bandwidth and FLOP/s of the host. More cores read
    prompts no slower; decoding may be, since more threads meet at each layer's barriers."""
    made, where = case
    n = made.model.n_items
    layers = data.draw(st.integers(0, n)) if where.gpus else 0
    ends = sorted(data.draw(st.integers(0, layers)) for _ in where.gpus[1:])
    counts = (
        tuple(b - a for a, b in zip((0, *ends), (*ends, layers), strict=True)) if where.gpus else ()
    )
    offload = Offload(layers, data.draw(st.integers(0, n)), counts)
    n_ubatch, depth = data.draw(st.sampled_from(UBATCHES)), data.draw(st.integers(0, 8192))

    def seconds(on: Machine) -> tuple[float, float]:
        speed = SpeedModel(made.model, on)
        return speed.decode_seconds(offload, depth), speed.prompt_seconds(offload, n_ubatch, depth)

    def faster(device: Device, name: str) -> Device:
        return replace(device, **{name: getattr(device, name) * factor})

    before = seconds(where)
    others = [replace(where, host=faster(where.host, name)) for name in ("bandwidth", "flops")]
    for i, name in (
        (i, name)
        for i in range(len(where.gpus))
        for name in ("bandwidth", "flops", "pcie_bandwidth")
    ):
        gpus = list(where.gpus)
        gpus[i] = faster(gpus[i], name)
        others.append(replace(where, gpus=tuple(gpus)))
    for other in others:
        assert all(b <= a * (1 + SLACK) for a, b in zip(before, seconds(other), strict=True))
    more_cores = seconds(replace(where, physical_cores=math.ceil(where.physical_cores * factor)))
    assert more_cores[1] <= before[1] * (1 + SLACK)


def machine_of(sizes: list[tuple[int, int]], ram: int) -> Machine:
    """GPUs of so many bytes and GB/s, and so many bytes of RAM."""
    gpus = [replace(gpu(size / GIB, bandwidth=gb * 1e9), flops=gb * 80e9) for size, gb in sizes]
    return machine(*numbered(gpus), ram=ram / GIB)


def test_two_gpus_that_are_of_no_use_are_left_out_together() -> None:
    """Leaving out one of them saves nothing: what a second device costs the first stays."""
    made = Made("dense", 7, 1024, 1, 64, 6144)
    three = machine_of([(GIB, 300), (GIB, 60), (GIB, 60)], 1_423_742_669)
    plan = make_plan(made.model, three, Wishes())
    assert [one.id for one in plan.machine.gpus] == ["GPU0"]
    assert any("GPU1 (Test GPU) and GPU2 (Test GPU) are left out" in why for why in plan.reasons)
    assert plan.chosen.score >= score(made, replace(three, gpus=three.gpus[:1])) - SLACK


def test_a_smaller_batch_may_be_what_a_faster_split_needs() -> None:
    """With the context fixed, too: a search does not end with the largest batch that fits."""
    made = Made("dense", 9, 2048, 2, 128, 131_072)
    where = machine_of([(1_232_729_947, 300), (1_428_777_183, 60)], 2_502_411_525)
    asked = Wishes(n_ctx=17_652, prefer="speed")
    solver = Solver(made.model, where)
    found = solver.best(asked)
    assert found is not None
    for n_ubatch in UBATCHES:
        other = solver.best(replace(asked, n_ubatch=n_ubatch))
        assert other is None or found.score >= other.score - SLACK
