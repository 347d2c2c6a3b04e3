"""Settings tried out by hand: the laws of a step, and that all figures are the solver's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.explorers import explorer_of
from tests.support.giants import GEMMA_27B, LLAMA_8B, QWEN_30B_A3B, giant, gpu, machine, unified
from tuner.machine.machine import Machine
from tuner.planning import constraints
from tuner.planning.explorer import Explorer
from tuner.planning.planner import make_plan
from tuner.planning.solver import Solver
from tuner.settings import OnGpus, Settings, on_gpus
from tuner.units import size_text
from tuner.wishes import Wishes

MACHINES = {
    "card": machine(gpu(12)),
    "cards": machine(gpu(8), gpu(6, 1)),
    "Metal": unified(16, 24),
    "CPU": machine(),
}
CASES = [*((LLAMA_8B, where) for where in MACHINES), (QWEN_30B_A3B, "card"), (GEMMA_27B, "cards")]


def explorer(name: str, where: Machine, wishes: Wishes | None = None) -> Explorer:
    return explorer_of(giant(name), where, wishes)


@cache
def explored(name: str, where: str) -> Explorer:
    return explorer(name, MACHINES[where])


def dial(of: Explorer, label: str) -> int:
    return [d.label for d in of.dials].index(label)


def wandered(of: Explorer, steps: list[tuple[int, int]]) -> Iterator[Settings]:
    """All settings on a way of steps: (a dial, by how many values)."""
    now = of.start
    yield now
    for place, by in steps:
        now = of.step(now, of.dials[place % len(of.dials)], by)
        yield now


steps = st.lists(st.tuples(st.integers(0, 6), st.integers(-9, 9)), max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(CASES), steps, st.integers(0, 5), st.sampled_from([-1, 1]))
def test_a_step_and_one_back_return(
    case: tuple[str, str], way: list[tuple[int, int]], place: int, by: int
) -> None:
    of = explored(*case)
    *_, here = wandered(of, way)
    turned = of.dials[place % len(of.dials)]
    there = of.step(here, turned, by)
    assert there == here or of.step(there, turned, -by) == here


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(CASES), steps)
def test_whatever_is_shown_can_be_asked_of_the_engine(
    case: tuple[str, str], way: list[tuple[int, int]]
) -> None:
    """No step leads to a pair of types that it refuses, and each changes one dial alone."""
    of = explored(*case)
    for at in wandered(of, way):
        assert constraints.refusal(of.model, at, of.machine_of(at)) is None
        assert at == replace(at, tensor_split=())
        for turned in of.dials:
            assert turned.value(at) in turned.values


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(CASES), steps)
def test_the_figures_are_those_of_the_solver(
    case: tuple[str, str], way: list[tuple[int, int]]
) -> None:
    """Of another solver, that was never asked anything else: exact footprint, speed, whether it
    fits, and where memory is missing."""
    of = explored(*case)
    *_, here = wandered(of, way)
    shown = of.exactly(of.weighed(here))
    assert replace(shown.settings, tensor_split=()) == here
    fresh = Solver(of.model, of.machine_of(here)).like(shown)
    told = fresh.calculate(Wishes.of_settings(shown.settings))
    assert shown.footprint == fresh.exactly(told).footprint
    assert shown.speed == told.speed
    assert shown.quality == told.quality
    assert shown.fits == fresh.fitting.fits(shown.footprint) == (not of.missing(shown))


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_it_begins_with_the_plan_whose_split_it_keeps(case: tuple[str, str]) -> None:
    of = explored(*case)
    plan = of.survey()
    shown = of.exactly(of.weighed(of.start))
    assert (shown.settings, shown.footprint) == (plan.chosen.settings, plan.chosen.footprint)
    for other in plan.alternatives:
        assert of.weighed(of.know(other.settings)).settings == other.settings


def test_who_is_shown_the_survey_computes_nothing() -> None:
    """Its alternatives are there: the thread that draws waits for none, and disturbs no search."""
    surveyor = Solver(giant(LLAMA_8B), MACHINES["card"])
    of = Explorer(Solver(surveyor.model, surveyor.machine), surveyor, Wishes(), Settings(4096))
    plan = of.survey()
    done = surveyor.work.steps
    assert plan.alternatives
    assert surveyor.work.steps == done


def test_each_dial_has_the_values_that_make_sense() -> None:
    """Contexts as people name them, and the plan's own between them; what there is nothing of has
    no dial."""
    of = explorer(QWEN_30B_A3B, machine(gpu(12)))
    assert [d.label for d in of.dials] == [
        "context", "K cache", "V cache", "GPU layers", "experts in RAM", "batch",
    ]  # fmt: skip
    contexts = of.dials[0].values
    assert {4096, 6144, 8192, 12288, 16384, 24576, 32768, 40960, of.start.n_ctx} <= {*contexts}
    assert list(contexts) == sorted(contexts)
    assert contexts[-1] == giant(QWEN_30B_A3B).n_ctx_train
    assert of.dials[3].values == tuple(range(50))
    assert [d.label for d in explored(LLAMA_8B, "CPU").dials] == [
        "context", "K cache", "V cache", "batch",
    ]  # fmt: skip


def test_a_gpu_can_be_left_out_and_taken_in() -> None:
    """Each set of several GPUs, all of them last; one that the plan leaves out can be tried, and
    with it too it is the solver's figures."""
    of = explored(LLAMA_8B, "cards")
    gpus = of.dials[dial(of, "GPUs")]
    assert gpus.values == (("GPU0",), ("GPU1",), ("GPU0", "GPU1"))
    assert gpus.value(of.start) == ("GPU0", "GPU1")
    alone = of.step(of.start, gpus, -1)
    assert alone == on_gpus(of.start, ("GPU1",))
    shown = of.exactly(of.weighed(alone))
    assert [use.device for use in shown.footprint.uses] == ["GPU1", "host"]
    assert of.of(shown) == alone
    assert of.step(alone, gpus, 1) == of.start
    assert "GPUs" not in [d.label for d in explored(LLAMA_8B, "card").dials]
    flag = explorer(LLAMA_8B, MACHINES["cards"], Wishes(tensor_split=(1, 1)))
    assert "GPUs" not in [d.label for d in flag.dials]


def test_what_the_plan_leaves_out_is_on_the_dial() -> None:
    """Also the only GPU that there is."""
    weak = machine(gpu(1.0, bandwidth=60e9), ram=32)
    model = giant(LLAMA_8B)
    plan = make_plan(model, weak, Wishes())
    assert not plan.machine.gpus  # or this shows nothing
    start = on_gpus(plan.chosen.settings, ())
    of = Explorer(Solver(model, weak), Solver(model, weak), Wishes(), start)
    assert of.of(of.survey().chosen) == of.start
    gpus = of.dials[dial(of, "GPUs")]
    assert gpus.values == ((), ("GPU0",))
    layers = of.dials[dial(of, "GPU layers")]
    assert of.step(of.start, layers, 1) == of.start  # there is no GPU for them
    with_it = of.step(of.step(of.start, gpus, 1), layers, 1)
    assert (with_it.n_gpu_layers, gpus.value(with_it)) == (1, ("GPU0",))
    assert of.exactly(of.weighed(with_it)).footprint.uses[0].weights > 0
    back = of.step(with_it, gpus, -1)
    assert back == with_it  # it has a layer on a GPU


def test_a_larger_context_stays_on_its_gpus() -> None:
    model, where = giant(LLAMA_8B), MACHINES["cards"]
    start = on_gpus(explored(LLAMA_8B, "cards").start, ("GPU0",))
    of = Explorer(Solver(model, where), Solver(model, where), Wishes(), replace(start, n_ctx=4096))
    larger = of.larger()
    assert larger is not None
    assert isinstance(larger.settings, OnGpus)
    assert larger.settings.gpus == ("GPU0",)
    assert larger.settings.n_ctx > of.start.n_ctx


def test_types_that_must_be_alike_are_turned_together() -> None:
    of = explored(LLAMA_8B, "Metal")
    both = of.dials[dial(of, "KV cache")]
    turned = of.step(replace(of.start, type_k="f16", type_v="f16"), both, -1)
    assert (turned.type_k, turned.type_v) == ("q8_0", "q8_0")


def test_types_that_the_engine_refuses_are_passed_over() -> None:
    """Without flash attention V can be no quantized type, K can."""
    of = explorer(LLAMA_8B, machine(gpu(24)), Wishes(flash_attn="off"))
    v, k = of.dials[dial(of, "V cache")], of.dials[dial(of, "K cache")]
    assert of.step(of.start, v, -1) == of.start
    assert of.step(of.start, k, -1).type_k == "q8_0"


def test_what_a_flag_fixed_says_so_and_can_be_turned() -> None:
    of = explorer(LLAMA_8B, machine(gpu(12)), Wishes(n_ctx=5000, type_k="q8_0"))
    assert [d.label for d in of.dials if d.fixed] == ["context", "K cache"]
    assert of.start.n_ctx == 5000
    further = of.step(of.start, of.dials[0], 1)
    assert further.n_ctx == 6144
    assert of.step(further, of.dials[0], -1) == of.start


def test_what_does_not_fit_is_shown_with_the_bytes_that_are_missing() -> None:
    of = explorer(LLAMA_8B, machine(gpu(6)))
    over = replace(of.start, n_ctx=131_072, type_k="f16", type_v="f16", n_gpu_layers=33)
    shown = of.exactly(of.weighed(of.know(over)))
    assert not shown.fits
    lacking = shown.footprint.uses[0].total - of.machine.gpus[0].budget
    assert of.missing(shown) == f"GPU0 is short by {size_text(lacking)}"


def test_the_frontier_is_the_best_of_each_context() -> None:
    """As fast as can be, and what fits nowhere is not in it."""
    of = explored(QWEN_30B_A3B, "card")
    found = list(of.frontier())
    assert [c.settings.n_ctx for c in found] == sorted(c.settings.n_ctx for c in found)
    solver = Solver(of.model, of.machine)
    for c in found:
        best = solver.best(Wishes(n_ctx=c.settings.n_ctx))
        assert best is not None
        assert c.fits
        assert c.speed.decode_tps == best.speed.decode_tps
    tight = explorer(LLAMA_8B, machine(gpu(6), ram=2), Wishes(type_k="f16", type_v="f16"))
    assert max(c.settings.n_ctx for c in tight.frontier()) < tight.model.n_ctx_train


def test_only_a_described_gpu_cannot_be_loaded_to() -> None:
    assert explored(LLAMA_8B, "card").described
    assert not explored(LLAMA_8B, "CPU").described
    here = machine(replace(gpu(12), source="measured"))
    assert not explorer(LLAMA_8B, here).described
