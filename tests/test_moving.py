"""Other plans for a model that is loaded, as one tuning gives them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.giants import LLAMA_8B, giant, giant_path, gpu, machine
from tuner.machine.machine import Machine
from tuner.planning.plan import Plan
from tuner.tuning import Tuning
from tuner.units import GIB
from tuner.wishes import LaunchRequest, Wishes


@pytest.fixture(scope="module")
def loaded() -> tuple[Tuning, Plan]:
    request = LaunchRequest(giant_path(LLAMA_8B), Wishes(n_ctx=16_384), use_profile=False)
    found = Tuning(request, giant(LLAMA_8B), machine(gpu(8.0)))
    return found, found.plan()


def here(gib: float) -> Machine:
    return machine(gpu(gib))


def test_another_cache_is_a_whole_plan(loaded: tuple[Tuning, Plan]) -> None:
    """Of the machine as it is now, with all that a report says of one."""
    it, plan = loaded
    assert plan.chosen.settings.type_k == "f16"
    q8_0 = it.reshaped(plan, here(7.5), types=("q8_0", "q8_0"))
    assert isinstance(q8_0, Plan)
    assert q8_0.machine == here(7.5)
    assert q8_0.chosen.settings == replace(plan.chosen.settings, type_k="q8_0", type_v="q8_0")
    assert q8_0.shapes[0].types == "f16"
    assert all(c.footprint.uses[0].total < 7 * GIB for c in q8_0.fallbacks)
    refused = it.reshaped(plan, here(7.5), n_ctx=120_000, types=("q8_0", "q8_0"))
    assert isinstance(refused, str)


def test_less_memory_and_more(loaded: tuple[Tuning, Plan]) -> None:
    it, plan = loaded
    less = it.smaller(plan, here(6.6))
    assert less is not None
    assert less.chosen.settings.n_gpu_layers == plan.chosen.settings.n_gpu_layers
    assert less.chosen.settings.type_k != "f16"
    nothing = machine(gpu(1.0), ram=2.0)
    assert it.smaller(plan, nothing) is None
    few = it.smaller(plan, here(3.0))
    assert few is not None
    more = it.better(few, here(8.0))
    assert more is not None
    assert more.chosen.speed.decode_tps > few.chosen.speed.decode_tps
    assert it.better(plan, here(9.0)) is None


def test_what_ran_out_is_not_planned_with_again() -> None:
    """In the same session: no state of the conversation, and no other cache, lies where a load had
    no room."""
    request = LaunchRequest(giant_path(LLAMA_8B), use_profile=False)
    it = Tuning(request, giant(LLAMA_8B), machine(ram=32))
    plan = it.plan()
    assert it.load_request(plan.chosen.settings).kept_bytes > GIB
    smaller = it.ran_out(plan, "unable to allocate CPU buffer")
    assert smaller is not None
    taken = smaller.chosen.footprint.host.total
    assert taken < plan.chosen.footprint.host.total
    assert smaller.machine.host.budget == taken
    assert smaller.kept.size == 0 == it.load_request(smaller.chosen.settings).kept_bytes
    longest = smaller.shapes[0]
    assert (longest.types, longest.n_ctx) == ("f16", smaller.chosen.settings.n_ctx)
    rungs = [smaller]
    while (following := it.ran_out(rungs[-1], "unable to allocate CPU buffer")) is not None:
        rungs.append(following)
    assert len(rungs) == len(plan.fallbacks)
