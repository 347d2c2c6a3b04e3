"""The engine's word on a plan, before anything is loaded."""

from __future__ import annotations

import pytest

from tests.support.giants import LLAMA_8B, giant, gpu, machine, unified
from tuner.errors import EngineError
from tuner.memory.footprint import Buffer, DeviceUse, Footprint
from tuner.planning.plan import Plan
from tuner.planning.planner import make_plan
from tuner.planning.reasons import reasons_for, warnings_for
from tuner.planning.solver import Solver
from tuner.planning.verify import MAX_ROUNDS, verified
from tuner.settings import Settings
from tuner.units import GIB, MIB
from tuner.wishes import Wishes

Buffers = tuple[Buffer, ...]


def plan_8b(gib: float = 8, wishes: Wishes | None = None) -> Plan:
    return make_plan(giant(LLAMA_8B), machine(gpu(gib)), wishes or Wishes())


def says(gpu_compute: int, host_compute: int = 50 * MIB) -> Buffers:
    return (Buffer("CUDA0", "compute", gpu_compute), Buffer("CUDA_Host", "compute", host_compute))


def test_the_engine_s_figures_replace_the_computed_ones() -> None:
    """One dry run, and the footprint says where it comes from."""
    asked: list[Settings] = []

    def dry_run(settings: Settings) -> Buffers:
        asked.append(settings)
        return says(130 * MIB)

    plan = verified(plan_8b(), dry_run)
    assert len(asked) == 1
    assert plan.chosen.footprint.source == "dry run"
    assert plan.chosen.footprint.uses[0].compute == 130 * MIB
    assert plan.chosen.footprint.uses[0].weights == plan_8b().chosen.footprint.uses[0].weights


def test_a_broken_budget_is_planned_again() -> None:
    """Where the engine needs more than there is, the next plan leaves room for it."""
    first = plan_8b()
    plan = verified(first, lambda _: says(900 * MIB))
    assert plan.chosen.fits
    use = plan.chosen.footprint.uses[0]
    assert use.compute == 900 * MIB
    assert use.total <= plan.machine.gpus[0].budget
    assert plan.chosen.settings != first.chosen.settings
    assert "planned again" in " ".join(plan.reasons)


def test_the_solver_of_the_plan_plans_again_alike() -> None:
    """What a solver has computed already changes nothing but the time."""
    where = machine(gpu(8))
    solver = Solver(giant(LLAMA_8B), where)
    plan = make_plan(giant(LLAMA_8B), where, Wishes(), solver=solver)
    again = verified(plan, lambda _: says(900 * MIB), solver)
    assert again == verified(plan_8b(), lambda _: says(900 * MIB))


def test_an_engine_that_always_needs_more_than_there_is_ends() -> None:
    """After a few dry runs the plan is called what it is: one that does not fit."""
    asked: list[Settings] = []

    def dry_run(settings: Settings) -> Buffers:
        asked.append(settings)
        return says((8 + 2 * len(asked)) * GIB)

    plan = verified(plan_8b(), dry_run)
    assert not plan.chosen.fits
    assert 1 <= len(asked) <= MAX_ROUNDS
    assert "planned again" in " ".join(plan.reasons)


def test_a_broken_budget_of_the_host_is_named() -> None:
    """The reason says on which device the memory was missing."""
    plan = verified(plan_8b(), lambda _: says(130 * MIB, 60 * GIB))
    assert "more on host than there is" in " ".join(plan.reasons)


def test_what_shared_ram_lacks_is_told_once() -> None:
    """A host and a GPU that draw from the same RAM lack the same bytes."""
    plan = make_plan(giant(LLAMA_8B), unified(10.7, 12, total=16), Wishes())
    told = verified(plan, lambda _: says(130 * MIB, 14 * GIB)).reasons
    (once,) = [text for text in told if "dry run needs" in text]
    assert "more on host" not in once


def test_a_refusal_moves_to_the_next_alternative() -> None:
    """The engine's no becomes a reason, and another pair of cache types is taken."""
    first = plan_8b()

    def dry_run(settings: Settings) -> Buffers:
        if settings.type_k == first.chosen.settings.type_k:
            raise EngineError("refused", "the engine does not support this")
        return says(100 * MIB)

    plan = verified(first, dry_run)
    assert plan.chosen.settings.type_k != first.chosen.settings.type_k
    assert "does not support this" in " ".join(plan.reasons)


def test_nothing_is_said_of_what_was_refused() -> None:
    """Reasons and warnings are those of the plan that was taken, and nothing like the refused one
    is offered beside it."""
    first = plan_8b()
    refused = first.chosen.settings.type_k

    def dry_run(settings: Settings) -> Buffers:
        if settings.type_k == refused:
            raise EngineError("refused", "the engine does not support this")
        return says(100 * MIB)

    plan = verified(first, dry_run)
    chosen = plan.chosen.settings
    asked = Wishes(type_k=chosen.type_k, type_v=chosen.type_v)
    solver = Solver(plan.model, plan.machine)
    found = solver.exactly(solver.weigh(chosen, solver.objective(asked)))
    assert plan.reasons[:-1] == reasons_for(solver, asked, found)
    assert f"engine refuses K {refused}" in plan.reasons[-1]
    assert not set(first.reasons[1:]) & set(plan.reasons)
    assert set(warnings_for(plan.model, found, plan.machine, asked)) <= set(plan.warnings)
    offered = (*plan.alternatives, *plan.fallbacks)
    assert offered
    assert all(c.settings.type_k != refused and c.settings != chosen for c in offered)


def test_what_lives_beside_the_model_keeps_its_compute_buffers() -> None:
    """The engine's dry run knows nothing of a projector."""
    where = machine(gpu(8))
    beside = Footprint((DeviceUse("GPU0", weights=GIB, compute=200 * MIB), DeviceUse("host")))
    solver = Solver(giant(LLAMA_8B), where, (beside,))
    plan = make_plan(giant(LLAMA_8B), where, Wishes(), solver=solver)
    told = verified(plan, lambda _: says(130 * MIB), solver).chosen.footprint
    assert told.uses[0].compute == 330 * MIB
    assert told.uses[0].weights == plan.chosen.footprint.uses[0].weights


def test_what_a_margin_leaves_no_room_for_is_told() -> None:
    """Where nothing fits but for what the engine was seen to need, that is what is missing."""
    plan = make_plan(giant(LLAMA_8B), machine(ram=6), Wishes(), margins=[4 * GIB])
    assert not plan.chosen.fits
    assert "host is short by" in plan.reasons[0]


def test_an_engine_that_refuses_everything_is_an_error() -> None:
    """No alternative left: the engine's own words."""

    def never(_: Settings) -> Buffers:
        raise EngineError("refused", "not this model")

    with pytest.raises(EngineError, match="not this model"):
        verified(plan_8b(), never)


def test_an_engine_that_fails_is_asked_no_more() -> None:
    """Only a refusal is a reason to try something else."""
    asked: list[Settings] = []

    def crash(settings: Settings) -> Buffers:
        asked.append(settings)
        raise EngineError("crashed", "gone")

    with pytest.raises(EngineError, match="gone"):
        verified(plan_8b(), crash)
    assert len(asked) == 1
