"""A GPU that draws from the RAM: no byte is promised twice, and none is lost."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planning.test_solver import brute_force, tiny_moe
from tests.support.giants import (
    GEMMA_27B,
    LLAMA_8B,
    QWEN_30B_A3B,
    giant,
    gpu,
    machine,
    unified,
)
from tuner.machine.machine import Machine
from tuner.planning.budgets import Budgets
from tuner.planning.objective import WISHED_CONTEXT
from tuner.planning.plan import Candidate
from tuner.planning.planner import make_plan
from tuner.planning.solver import Solver
from tuner.report.json import report_json
from tuner.report.text import report_text
from tuner.units import GIB, MIB
from tuner.wishes import PREFERENCES, Wishes

GIANTS = (LLAMA_8B, QWEN_30B_A3B, GEMMA_27B)
M2 = unified(10.7, 12, total=16)


def over(candidate: Candidate, where: Machine) -> list[str]:
    """The devices and pools that a plan takes too much of, counted anew from the devices."""
    totals = [use.total for use in candidate.footprint.uses]
    found = [
        d.id
        for d, used in zip(where.devices, totals, strict=True)
        if used > max(0, d.free - d.reserve)
    ]
    in_ram = [i for i, d in enumerate(where.devices) if d.unified or d.kind == "host"]
    free = where.host.free + sum(g.carved_out_free for g in where.gpus)
    reserve = max(where.devices[i].reserve for i in in_ram)
    if sum(totals[i] for i in in_ram) > max(0, free - reserve):
        found.append("RAM")
    return found


@pytest.mark.parametrize("name", GIANTS)
def test_a_mac_is_never_given_more_than_it_has(name: str) -> None:
    """16 GiB, 12 of them free: of these the GPU may have 10.7, and no one more than 10.4."""
    chosen = make_plan(giant(name), M2, Wishes()).chosen
    taken = sum(use.total for use in chosen.footprint.uses)
    assert chosen.fits == (taken <= 12 * GIB - int(1.6 * GIB))
    if chosen.fits:
        assert over(chosen, M2) == []


def test_a_small_model_on_a_mac_is_all_on_its_gpu() -> None:
    chosen = make_plan(giant(LLAMA_8B), M2, Wishes()).chosen
    assert chosen.fits
    assert chosen.settings.n_gpu_layers == 33
    assert chosen.settings.n_ctx >= 16_384


def test_the_working_set_is_a_limit_inside_the_ram() -> None:
    """64 GiB with 60 free, of which Metal gives its GPU 20: the rest is for the CPU."""
    where = unified(20, 60, total=64)
    chosen = make_plan(giant(QWEN_30B_A3B), where, Wishes(n_ctx=65_536, type_k="f16")).chosen
    assert chosen.fits
    assert over(chosen, where) == []
    assert chosen.footprint.uses[0].total <= 20 * GIB - 512 * MIB
    assert sum(chosen.footprint.totals) > 20 * GIB


def test_a_carve_out_is_used_beside_the_ram() -> None:
    """8 GiB of RAM and 24 set apart: more than either, and more than half of what there is."""
    where = unified(28, 8, backend="Vulkan", carved_out=24)
    chosen = make_plan(giant(QWEN_30B_A3B), where, Wishes(n_ctx=16_384)).chosen
    assert chosen.fits
    assert chosen.footprint.uses[0].total > 17 * GIB
    assert over(chosen, where) == []


@st.composite
def machines(draw: st.DrawFn, most_gpus: int = 2) -> Machine:
    """One GPU, or two, that draw from the RAM, or one beside one that does not."""
    free = draw(st.floats(2, 40))
    apart = draw(st.sampled_from([0.0, 0.0, 0.5, 4.0]))
    limit = apart + draw(st.floats(0.5, 40))
    backend = draw(st.sampled_from(["Metal", "Vulkan", "CUDA"]))
    where = unified(limit, free, total=free + 4, backend=backend, carved_out=apart)
    gpus = where.gpus
    if most_gpus == 1:
        return where
    if draw(st.booleans()):
        other = replace(gpu(draw(st.floats(1, 12)), 1, backend="RPC"), kind="rpc")
        gpus = (replace(other, id="GPU0"), replace(gpus[0], id="GPU1"))
    elif draw(st.booleans()):
        gpus = (gpus[0], replace(gpus[0], id="GPU1", carved_out=0, carved_out_free=0))
    return replace(where, gpus=gpus)


@given(
    name=st.sampled_from(GIANTS),
    where=machines(),
    prefer=st.sampled_from(PREFERENCES[:2]),
    n_ctx=st.sampled_from([None, 2048, 16384]),
)
@settings(max_examples=12, deadline=None, derandomize=True)
def test_no_pool_is_ever_over_its_budget(
    name: str, where: Machine, prefer: str, n_ctx: int | None
) -> None:
    solver = Solver(giant(name), where)
    found = solver.best(Wishes(prefer=prefer, n_ctx=n_ctx))
    if found is not None:
        assert over(found, where) == []
        assert found.fits


@given(
    name=st.sampled_from(GIANTS),
    where=machines(most_gpus=1),
    more=st.floats(0.01, 8),
    what=st.sampled_from(["ram", "limit", "both"]),
)
@settings(max_examples=10, deadline=None, derandomize=True)
def test_more_memory_never_gives_a_worse_plan(
    name: str, where: Machine, more: float, what: str
) -> None:
    size = int(more * GIB)
    host, gpus = where.host, where.gpus
    if what != "limit":
        host = replace(host, total=host.total + size, free=host.free + size)
    if what != "ram":
        gpus = tuple(replace(g, total=g.total + size, free=g.free + size) for g in gpus)
    before = Solver(giant(name), where).best(Wishes())
    after = Solver(giant(name), replace(where, host=host, gpus=gpus)).best(Wishes())
    if before is not None:
        assert after is not None
        assert after.score >= before.score - 1e-9


def test_the_answer_is_that_of_brute_force(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Over budgets of GPU, host and both together that bind one after the other."""
    whole = Solver(tiny_moe(tmp_path_factory.mktemp("tiny")), unified(8, 8))
    rng = random.Random(11)
    shared = whole.budgets.shared
    binding = set()
    for _ in range(20):
        host = int(rng.uniform(20, 130) * MIB)
        on_gpu = int(rng.uniform(130, 260) * MIB)
        both = int(rng.uniform(180, 330) * MIB)
        solver = whole.with_budgets(Budgets((on_gpu, host, both), shared))
        found, expected = solver.best(Wishes()), brute_force(solver, Wishes())
        assert (found and round(found.score, 9)) == (expected and round(expected, 9))
        alone = whole.with_budgets(Budgets((on_gpu, host, on_gpu + host), shared)).best(Wishes())
        binding.add(found and alone and found.settings == alone.settings)
    assert {True, False} <= binding, "the pool binds in some, and in some it does not"


@pytest.mark.parametrize("reserve", [2, 5])
def test_a_reserve_is_kept_of_the_pool(reserve: int) -> None:
    where = replace(M2, gpus=(replace(M2.gpus[0], reserve=reserve * GIB),))
    chosen = make_plan(giant(LLAMA_8B), where, Wishes()).chosen
    assert chosen.fits
    assert sum(chosen.footprint.totals) <= (12 - reserve) * GIB


def test_what_is_short_is_said_of_the_pool() -> None:
    """Each byte that is missing is counted once."""
    plan = make_plan(giant(GEMMA_27B), M2, Wishes())
    assert not plan.chosen.fits
    (reason,) = plan.reasons
    missing = sum(plan.chosen.footprint.totals) - M2.limits[-1].budget
    assert "the RAM that GPU0 and host share is short by" in reason
    assert f"({missing:,} bytes)" in reason
    assert "host is short" not in reason
    assert plan.chosen.lacking(Budgets.of(M2)) == missing


def test_what_two_limits_lack_is_told_once() -> None:
    """More layers than the GPU's limit inside a RAM that is too small as well."""
    wishes = Wishes(n_ctx=4096, type_k="f16", type_v="f16", n_gpu_layers=63)
    plan = make_plan(giant(GEMMA_27B), M2, wishes)
    reason = plan.reasons[0]
    assert reason.count("bytes)") == 1
    short = plan.chosen.short(Budgets.of(M2))
    assert plan.chosen.lacking(Budgets.of(M2)) == max(short)


def test_after_a_load_that_failed_the_pool_is_tighter() -> None:
    plan = make_plan(giant(LLAMA_8B), M2, Wishes())
    assert plan.fallbacks
    failed = before = plan.chosen.footprint
    for c in plan.fallbacks:
        assert over(c, M2) == []
        assert sum(c.footprint.totals) < sum(failed.totals)
        assert c.footprint.uses[0].total < before.uses[0].total
        before = c.footprint


def test_one_gib_more_is_more_of_the_ram() -> None:
    """Of a model that just fits with little context."""
    where = unified(6.5, 7, total=8)
    plan = make_plan(giant(LLAMA_8B), where, Wishes())
    assert plan.chosen.fits
    assert plan.one_more_gib is not None
    assert sum(plan.one_more_gib.footprint.totals) <= where.limits[-1].budget + GIB
    assert sum(plan.one_more_gib.footprint.totals) > where.limits[-1].budget


def test_context_that_nobody_asked_for_leaves_half_of_the_ram() -> None:
    where = unified(30, 32, total=36)
    solver = Solver(giant(LLAMA_8B), where)
    chosen = make_plan(giant(LLAMA_8B), where, Wishes(), solver=solver).chosen
    assert WISHED_CONTEXT < chosen.settings.n_ctx < 131_072
    usual = chosen.settings.with_context(WISHED_CONTEXT)
    taken = sum(solver.weigh(usual, solver.objective(Wishes())).footprint.totals)
    assert sum(chosen.footprint.totals) <= taken + (32 * GIB - taken) // 2


def test_the_report_has_one_bar_for_what_is_shared() -> None:
    plan = make_plan(giant(LLAMA_8B), M2, Wishes())
    text = report_text(plan)
    assert text.count(" free of ") == 1
    assert "12.0 GiB free of 16.0 GiB" in text
    assert "at most 10.2 GiB" in text
    found = report_json(plan)["machine"]
    assert [d["pool"] for d in found["devices"]] == ["RAM", "RAM"]
    (ram,) = found["pools"]
    assert (ram["name"], ram["total"], ram["free"]) == ("RAM", 16 * GIB, 12 * GIB)
    assert ram["budget"] == 12 * GIB - ram["reserve"]


def test_cards_have_a_bar_each() -> None:
    plan = make_plan(giant(LLAMA_8B), machine(gpu(8)), Wishes())
    assert report_text(plan).count(" free of ") == 2
    assert [p["name"] for p in report_json(plan)["machine"]["pools"]] == ["GPU0", "RAM"]
    assert Budgets.of(plan.machine).shared == ()


def test_a_whole_wish_is_calculated_against_the_pool() -> None:
    """Parts that fit each device alone and not the RAM that both are."""
    wishes = Wishes(n_ctx=4096, type_k="f16", type_v="f16", n_gpu_layers=20)
    where = unified(10.7, 5.5, total=16)
    chosen = make_plan(giant(LLAMA_8B), where, wishes).chosen
    assert over(chosen, where) == ["RAM"]
    assert not chosen.fits
