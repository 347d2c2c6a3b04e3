"""A GPU that costs more than it gives is left alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.giants import GEMMA_27B, LLAMA_8B, QWEN_30B_A3B, giant, gpu, machine
from tuner.machine.machine import Machine
from tuner.memory.footprint import Footprint
from tuner.planning.fewer_gpus import with_fewer_gpus, without
from tuner.planning.planner import make_plan
from tuner.planning.solver import Solver
from tuner.wishes import Wishes

GIANTS = (LLAMA_8B, QWEN_30B_A3B, GEMMA_27B)


@cache
def score(name: str, where: Machine) -> float:
    plan = make_plan(giant(name), where, Wishes())
    return plan.chosen.score if plan.chosen.fits else float("-inf")


@pytest.mark.parametrize("name", GIANTS)
@pytest.mark.parametrize("gib", [1.0, 1.1, 1.25, 1.5, 2.0, 3.0])
def test_a_tiny_gpu_is_never_worse_than_none(name: str, gib: float) -> None:
    """Where a search with it finds less than the CPU alone, it is left out, and that is said."""
    alone = machine(ram=32)
    with_it = machine(gpu(gib, bandwidth=60e9), ram=32)
    plan = make_plan(giant(name), with_it, Wishes())
    assert plan.chosen.score >= score(name, alone) - 1e-9
    found = Solver(giant(name), with_it).best(Wishes())
    left_out = not plan.machine.gpus
    assert left_out == (found is None or plan.chosen.score > found.score + 1e-9)
    assert left_out == any("GPU0 (Test GPU) is left out" in text for text in plan.reasons)
    assert [g.id for g in plan.machine.unusable] == (["GPU0"] if left_out else [])
    assert len(plan.chosen.footprint.uses) == len(plan.machine.devices)


def test_a_gpu_is_left_out_in_one_of_these_cases() -> None:
    """The law above is not kept for want of a case."""
    plans = [
        make_plan(giant(LLAMA_8B), machine(gpu(gib, bandwidth=60e9), ram=32), Wishes())
        for gib in (1.0, 1.5)
    ]
    assert any(not plan.machine.gpus for plan in plans)
    assert any(plan.machine.gpus for plan in plans)


@given(
    name=st.sampled_from(GIANTS),
    large=st.floats(4, 24),
    small=st.floats(1.1, 3),
    bandwidth=st.floats(50e9, 900e9),
)
@settings(max_examples=6, deadline=None, derandomize=True)
def test_a_second_small_gpu_is_never_worse_than_none(
    name: str, large: float, small: float, bandwidth: float
) -> None:
    both = machine(gpu(large), gpu(small, 1, bandwidth=bandwidth))
    assert score(name, both) >= score(name, machine(gpu(large))) - 1e-9


def test_no_better_plan_without_a_gpu_is_passed_over() -> None:
    """Only what cannot be better is not looked for: here RAM is faster than the second GPU and
    slower than the first, so that some experts are best on the one side and some on the other."""
    where = machine(gpu(6), gpu(24, 1, bandwidth=40e9), gpu(2, 2, bandwidth=40e9), ram=64)
    solver = Solver(giant(QWEN_30B_A3B), where)
    best = solver.on(without(where, [where.gpus[2]])).best(Wishes())
    assert best is not None
    nothing_there = best.footprint.uses[1]
    assert not nothing_there.weights
    uses = (best.footprint.uses[0], nothing_there, nothing_there, best.footprint.host)
    worse = replace(best, score=best.score - 1e-3, footprint=Footprint(uses))
    left_out = [gpus for _, gpus in with_fewer_gpus(solver, Wishes(), worse)]
    assert (where.gpus[2],) in left_out


def test_which_of_equal_cards_is_left_out_is_not_tried() -> None:
    """Four cards that differ by nothing but their places leave one question, not four."""
    where = machine(*(gpu(24, i) for i in range(4)))
    tried = [gpus for _, gpus in with_fewer_gpus(Solver(giant(LLAMA_8B), where), Wishes(), None)]
    assert [len(gpus) for gpus in tried] == [3, 4, 1]


def test_what_fits_is_not_given_up_for_what_would_be_faster_without_a_gpu() -> None:
    """Wishes that leave nothing to decide are calculated whether they fit or not: without a slow
    GPU that holds little they are faster, but more than the other has."""
    wishes = Wishes(n_ctx=8192, type_k="f16", type_v="f16", n_gpu_layers=33)
    both = machine(gpu(5.8), gpu(8.0, 1, bandwidth=60e9))
    plan = make_plan(giant(LLAMA_8B), both, wishes)
    assert plan.chosen.fits
    assert plan.machine.gpus == both.gpus


def test_a_flag_that_would_have_all_gpus_back_is_not_told_without_them() -> None:
    """Each alternative of a plan that leaves GPUs out is what its flag really gives."""
    slow = replace(gpu(16, 1), bandwidth=50e9)
    model, where = giant(LLAMA_8B), machine(gpu(8), slow, ram=32)
    plan = make_plan(model, where, Wishes())
    assert [g.id for g in plan.machine.unusable] == ["GPU1"]
    assert plan.alternatives
    for c in plan.alternatives:
        flag, value = c.note.split()
        wish = {
            "--prefer": lambda v: Wishes(prefer=v),
            "--kv": lambda v: Wishes(type_k=v, type_v=v),
            "--ctx": lambda v: Wishes(n_ctx=int(v)),
        }[flag](value)
        asked = make_plan(model, where, wish)
        assert asked.chosen.settings == c.settings, c.note


def test_what_the_user_gives_a_gpu_is_kept() -> None:
    """Layers or a split that are asked for are not taken from it."""
    where = machine(gpu(1.25, bandwidth=60e9), ram=32)
    plan = make_plan(giant(QWEN_30B_A3B), where, Wishes(n_gpu_layers=1))
    assert plan.machine.gpus == where.gpus
    two = machine(gpu(12), gpu(1.5, 1, bandwidth=60e9))
    plan = make_plan(giant(LLAMA_8B), two, Wishes(tensor_split=(20.0, 1.0)))
    assert plan.machine.gpus == two.gpus


@pytest.mark.parametrize(
    ("name", "fast", "slow"), [(GEMMA_27B, 12, 6), (LLAMA_8B, 4.5, 4), (QWEN_30B_A3B, 12, 8)]
)
def test_slow_gpus_may_have_nothing_to_do(name: str, fast: float, slow: float) -> None:
    """What is best with the wished context is found where the context is open, too: the fast GPUs
    with room left for it."""
    where = machine(gpu(fast, bandwidth=936e9), gpu(slow, 1, bandwidth=360e9), gpu(fast, 2), ram=64)
    solver = Solver(giant(name), where)
    found, wished = solver.best(Wishes()), solver.best(Wishes(n_ctx=32_768))
    assert found is not None
    assert wished is not None
    assert wished.settings.tensor_split[1] == 0
    objective = solver.objective(Wishes())
    assert found.score >= solver.score(wished.settings, objective) - 1e-9
