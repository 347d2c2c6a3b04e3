"""What the cache of a loaded plan can become."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given

from tests.planning.test_planner import law
from tests.support.giants import AYA_35B, LLAMA_8B, QWEN_30B_A3B, giant, gpu, machine
from tests.support.random_plans import Made, cases, wishes
from tuner.errors import UsageError
from tuner.machine.machine import Machine
from tuner.planning.budgets import Budgets
from tuner.planning.plan import Plan
from tuner.planning.planner import make_plan, with_choice
from tuner.planning.solver import MOST_CONTEXT, Solver
from tuner.report.text import report_text, shapes_text
from tuner.settings import CONTEXT_PADDING
from tuner.wishes import Wishes


@given(case=cases(), asked=wishes)
@law(20)
def test_each_step_has_all_the_context_that_fits(case: tuple[Made, Machine], asked: Wishes) -> None:
    """To the last 256 tokens, where the weights lie; each has more than the one before, and is no
    more precise."""
    made, where = case
    try:
        plan = make_plan(made.model, where, asked)
    except UsageError:
        return
    if not plan.chosen.fits:
        assert plan.shapes == ()
        return
    estimator = Solver(plan.model, plan.machine).fitting.estimator
    budgets = Budgets.of(plan.machine)
    s, top = plan.chosen.settings, min(plan.model.n_ctx_train, MOST_CONTEXT)
    for shape in plan.shapes:
        here = replace(s, type_k=shape.type_k, type_v=shape.type_v, n_ctx=shape.n_ctx)
        assert budgets.hold(estimator.exact(here).totals)
        more = here.with_context(shape.n_ctx + CONTEXT_PADDING)
        assert shape.n_ctx >= top or not budgets.hold(estimator.exact(more).totals)
    for one, other in pairwise(plan.shapes):
        assert other.n_ctx > one.n_ctx
        assert other.quality.loss >= one.quality.loss
    own = [x for x in plan.shapes if (x.type_k, x.type_v) == (s.type_k, s.type_v)]
    better = [x for x in plan.shapes if x.quality.loss <= plan.chosen.quality.loss]
    assert max((x.n_ctx for x in own or better), default=s.n_ctx) >= s.n_ctx


def plan_of(name: str, gib: float, asked: Wishes | None = None, backend: str = "CUDA") -> Plan:
    where = machine(gpu(gib, backend=backend))
    return make_plan(giant(name), where, asked or Wishes())


def types(plan: Plan) -> list[str]:
    return [shape.types for shape in plan.shapes]


def test_in_words() -> None:
    """Of two that hardly differ the more precise one."""
    plan = plan_of(LLAMA_8B, 8.0)
    f16, q8_0, q4_0 = plan.shapes
    assert shapes_text(plan) == (
        f"With the weights where they are: a cache of f16 up to {f16.n_ctx:,} tokens, then q8_0 to "
        f"{q8_0.n_ctx:,}, then q4_0 to {q4_0.n_ctx:,}."
    )
    assert "With the weights where they are" in report_text(plan)
    plan = plan_of(QWEN_30B_A3B, 12.0)
    assert types(plan) == ["f16", "q8_0", "q4_0"]
    assert "q4_0" not in shapes_text(plan)


def test_a_kernel_that_copies_the_cache_is_none() -> None:
    """CUDA reads equal types as they are; others are no step there."""
    assert types(plan_of(AYA_35B, 24.0)) == ["q8_0", "q4_0"]
    assert "q8_0/q4_0" in types(plan_of(AYA_35B, 24.0, backend="Vulkan"))


@pytest.mark.parametrize("asked", [Wishes(flash_attn="off"), Wishes(n_ctx=512, type_k="f16")])
def test_what_was_fixed_of_it(asked: Wishes) -> None:
    """A transposed cache stays what it is; one that was asked for need not."""
    plan = plan_of(LLAMA_8B, 8.0, asked)
    assert plan.chosen.fits
    assert bool(plan.shapes) == (asked.flash_attn is None)


def test_they_are_those_of_what_is_loaded_instead() -> None:
    """Another choice has other shapes."""
    plan = plan_of(LLAMA_8B, 8.0)
    fewer = next(c for c in plan.fallbacks if c.settings.n_gpu_layers == 0)
    solver = Solver(plan.model, plan.machine)
    assert with_choice(plan, fewer, solver).shapes[0].n_ctx > plan.shapes[0].n_ctx
