"""The laws of a whole plan, over models, machines and wishes nobody picked."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.giants import AYA_35B, GEMMA_27B, LLAMA_8B, QWEN_30B_A3B, giant, gpu, machine
from tuner.errors import UsageError
from tuner.machine.machine import Machine
from tuner.memory.estimator import Estimator
from tuner.memory.footprint import Footprint
from tuner.planning.plan import Candidate, Plan
from tuner.planning.planner import make_plan
from tuner.planning.solver import Solver
from tuner.settings import Settings
from tuner.units import GIB
from tuner.wishes import PREFERENCES, Wishes

GIANTS = (LLAMA_8B, AYA_35B, QWEN_30B_A3B, GEMMA_27B)

card = st.lists(st.floats(1, 26), max_size=1)  # or none
wishes_of_one_gpu = st.builds(
    Wishes,
    n_ctx=st.sampled_from([None, None, 1000, 8192]),
    type_k=st.sampled_from([None, None, "f16", "q8_0"]),
    type_v=st.sampled_from([None, None, "f16", "q5_1"]),
    n_gpu_layers=st.sampled_from([None, None, 0, 9, 99]),
    n_cpu_moe=st.sampled_from([None, None, 0, 7]),
    n_ubatch=st.sampled_from([None, None, 64, 1024]),
    flash_attn=st.sampled_from([None, None, "on", "auto"]),
    use_extra_bufts=st.booleans(),
    prefer=st.sampled_from(PREFERENCES),
)


def law(examples: int) -> settings:
    """The same examples on every run, so many of them."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )


def machine_of(gibs: list[float], ram: float) -> Machine:
    return machine(*(gpu(gib, i) for i, gib in enumerate(gibs)), ram=ram)


def within(candidate: Candidate, where: Machine, more: int = 0) -> bool:
    """Every device keeps its reserve, the GPUs having so many bytes more."""
    uses = zip(candidate.footprint.uses, where.devices, strict=True)
    return all(u.total <= d.budget + (more if d.kind == "gpu" else 0) for u, d in uses)


def kept(plan: Plan) -> list[Candidate]:
    """All of a plan that must keep the wishes."""
    others = plan.alternatives if plan.chosen.fits else ()
    return [plan.chosen, *others, *plan.fallbacks]


@given(name=st.sampled_from(GIANTS), gibs=card, ram=st.floats(3, 64))
@law(12)
@example(name=LLAMA_8B, gibs=[6.0, 3.0], ram=32)
def test_nothing_of_a_plan_is_over_budget(name: str, gibs: list[float], ram: float) -> None:
    """What is called fitting fits: the choice, what else is possible, what to fall back on, what
    1 GiB more would give; and the choice by its exact footprint."""
    where = machine_of(gibs, ram)
    plan = make_plan(giant(name), where, Wishes())
    assert plan.chosen.fits == within(plan.chosen, where)
    assert plan.chosen.footprint == Estimator(giant(name), where).exact(plan.chosen.settings)
    for c in (*plan.alternatives, *plan.fallbacks):
        assert c.fits
        assert within(c, where)
    if gibs and plan.one_more_gib:
        assert within(plan.one_more_gib, where, more=GIB)


@given(name=st.sampled_from(GIANTS), gib=st.floats(2, 26), wishes=wishes_of_one_gpu)
@law(10)
def test_every_wish_is_kept(name: str, gib: float, wishes: Wishes) -> None:
    """By the choice whether it fits or not, by its alternatives and its fallbacks."""
    plan = make_plan(giant(name), machine(gpu(gib)), wishes)
    asked = wishes.for_model(giant(name))
    assert plan.wishes == asked
    for c in kept(plan):
        for field in asked.fixed:
            assert getattr(c.settings, field) == getattr(asked, field), (field, c)
        assert c.settings.use_extra_bufts == asked.use_extra_bufts


@pytest.mark.parametrize("split", [(1.0, 1.0), (3.0, 1.0), (0.0, 1.0)])
def test_a_wished_split_is_kept(split: tuple[float, ...]) -> None:
    """Over two GPUs, by everything that is offered."""
    where = machine(gpu(24), gpu(12, 1))
    plan = make_plan(giant(LLAMA_8B), where, Wishes(tensor_split=split, n_ctx=8192))
    assert {c.settings.tensor_split for c in kept(plan)} == {split}


@given(
    name=st.sampled_from(GIANTS),
    gibs=card,
    more=st.floats(0, 8),
    ram=st.floats(3, 64),
    more_ram=st.floats(0, 32),
)
@law(10)
def test_more_memory_never_makes_a_plan_worse(
    name: str, gibs: list[float], more: float, ram: float, more_ram: float
) -> None:
    """Of the GPU or of the host: what fitted fits, and its score does not fall."""
    small = make_plan(giant(name), machine_of(gibs, ram), Wishes()).chosen
    large_machine = machine_of([g + more for g in gibs], ram + more_ram)
    large = make_plan(giant(name), large_machine, Wishes()).chosen
    if small.fits:
        assert large.fits
        assert large.score >= small.score - 1e-9


@given(name=st.sampled_from(GIANTS), gibs=card, wishes=wishes_of_one_gpu)
@law(5)
def test_the_same_question_has_the_same_answer(
    name: str, gibs: list[float], wishes: Wishes
) -> None:
    """To the last number and word, also by a solver that has answered other questions before."""
    model, where = giant(name), machine_of(gibs, 48)
    first = make_plan(model, where, wishes)
    solver = Solver(model, where)
    for other in (Wishes(), Wishes(prefer="speed", n_ctx=4096)):
        make_plan(model, where, other, solver=solver)
    assert make_plan(model, where, wishes, solver=solver) == first
    assert make_plan(model, where, wishes) == first


@given(name=st.sampled_from(GIANTS), gibs=card)
@law(6)
def test_a_plan_s_settings_as_wishes_give_that_plan(name: str, gibs: list[float]) -> None:
    """Settings that leave nothing open are calculated, not searched: the same bytes."""
    where = machine_of(gibs, 48)
    chosen = make_plan(giant(name), where, Wishes()).chosen
    again = make_plan(giant(name), where, Wishes.of_settings(chosen.settings)).chosen
    assert again.settings == chosen.settings
    assert again.footprint == chosen.footprint


@given(name=st.sampled_from(GIANTS), gib=st.floats(1, 12))
@law(6)
def test_margins_are_left_free(name: str, gib: float) -> None:
    """Bytes that the engine was seen to need beyond what is computed are not planned with."""
    where = machine(gpu(gib + 1), ram=64)
    plan = make_plan(giant(name), where, Wishes(), margins=(GIB // 2, GIB))
    for c in (plan.chosen, *plan.fallbacks) if plan.chosen.fits else ():
        gpu_use, host_use = c.footprint.uses
        assert gpu_use.total + GIB // 2 <= where.gpus[0].budget
        assert host_use.total + GIB <= where.host.budget


# ------------------------------------------------------------------ what is offered instead


# ------------------------------------------------------------------ wishes that cannot be kept


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        (Wishes(tensor_split=(1.0, 1.0, 1.0)), "3 shares"),
        (Wishes(tensor_split=(0.0,)), "a share above 0"),
        (Wishes(type_v="q8_0", flash_attn="off"), "flash attention"),
        (Wishes(type_k="q3_k"), "is no type"),
    ],
)
def test_a_wish_that_the_engine_would_refuse_is_a_usage_error(wishes: Wishes, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_plan(giant(LLAMA_8B), machine(gpu(24), gpu(12, 1)), wishes)


def test_a_split_without_a_gpu_is_passed_over() -> None:
    """It has no effect, which is a warning and no error."""
    plan = make_plan(giant(LLAMA_8B), machine(), Wishes(tensor_split=(1.0, 1.0), n_ctx=4096))
    assert plan.chosen.settings.tensor_split == ()


def test_settings_are_what_plans_are_made_of() -> None:
    """A search that copied settings field by field would lose one; none is lost."""
    odd = replace(Wishes(), flash_attn="auto", use_extra_bufts=False, n_ubatch=64)
    for c in kept(make_plan(giant(QWEN_30B_A3B), machine(gpu(12)), odd)):
        s: Settings = c.settings
        assert (s.flash_attn, s.use_extra_bufts, s.n_ubatch) == ("auto", False, 64)


def test_what_never_fits_exactly_is_not_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little memory is planned with, the exact footprint is a byte over: no plan fits,
    and the search ends."""
    where = machine(gpu(24))
    exact = Estimator.exact

    def over(estimator: Estimator, s: Settings) -> Footprint:
        first, *others = exact(estimator, s).uses
        missing = where.gpus[0].budget + 1 - first.total
        return Footprint((replace(first, overhead=first.overhead + missing), *others))

    monkeypatch.setattr(Estimator, "exact", over)
    plan = make_plan(giant(LLAMA_8B), where, Wishes(n_gpu_layers=33))
    assert not plan.chosen.fits
    assert "1 bytes" in plan.reasons[0]


@pytest.mark.parametrize("type_k", ["iq4_nl", None])
def test_a_type_without_a_kernel_is_refused_with_the_reason(type_k: str | None) -> None:
    """The GPU's own, as where the settings are weighed."""
    wishes = Wishes(type_k=type_k, type_v="iq4_nl")
    with pytest.raises(UsageError, match="CUDA has no attention kernel for iq4_nl"):
        make_plan(giant(LLAMA_8B), machine(gpu(10)), wishes)
