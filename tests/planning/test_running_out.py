"""Where memory ran out, and what is loaded then."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given

from tests.planning.test_planner import law
from tests.support.giants import AYA_35B, LLAMA_8B, giant, gpu, machine
from tests.support.random_plans import Made, cases, wishes
from tuner.errors import UsageError
from tuner.machine.machine import Machine
from tuner.planning.alternatives import LEAST, MAPPED
from tuner.planning.planner import make_plan
from tuner.planning.running_out import following, ran_out_on
from tuner.planning.solver import Solver
from tuner.settings import Settings
from tuner.wishes import Wishes

TWO = machine(gpu(12.0), gpu(12.0, 1))
BOTH = Settings(4096, n_gpu_layers=33, tensor_split=(16.0, 17.0))
SECOND = Settings(4096, n_gpu_layers=9, tensor_split=(0.0, 9.0))
HOST = 2


@pytest.mark.parametrize(
    ("words", "settings", "place"),
    [
        ("alloc_tensor_range: failed to allocate CUDA1 buffer of size 7", BOTH, 1),
        ("failed to allocate CUDA0 buffer of size 7", BOTH, 0),
        ("failed to allocate CUDA_Host buffer of size 7", BOTH, HOST),
        ("allocating 9 MiB on device 1: cudaMalloc failed: out of memory", BOTH, 0),
        ("unable to allocate CPU buffer", BOTH, HOST),
        ("the model process was killed (SIGKILL)", BOTH, HOST),
        ("std::bad_alloc", SECOND, HOST),
        ("failed to allocate compute buffers", SECOND, 1),
        ("failed to allocate compute buffers", Settings(4096), HOST),
        ("vk::Device::allocateMemory: ErrorOutOfDeviceMemory", BOTH, 0),
    ],
)
def test_the_engine_s_words_say_where(words: str, settings: Settings, place: int) -> None:
    assert ran_out_on(words, TWO, settings) == place


@given(case=cases(0), asked=wishes)
@law(15)
def test_without_a_gpu_each_rung_takes_less_of_the_ram(
    case: tuple[Made, Machine], asked: Wishes
) -> None:
    """And fits, and keeps the wishes; the last but one is the least that there is."""
    made, where = case
    try:
        plan = make_plan(made.model, where, asked)
    except UsageError:
        return
    if not plan.chosen.fits:
        return
    solver = Solver(plan.model, where)
    ladder = [plan.chosen, *plan.fallbacks]
    for one, other in pairwise(ladder):
        fewer = other.footprint.host.total < one.footprint.host.total
        assert fewer or other.note == MAPPED
        assert solver.exactly(other).fits
        fixed = asked.without("n_gpu_layers", "n_cpu_moe").settings
        fixed.pop("use_extra_bufts")
        assert all(getattr(other.settings, name) == value for name, value in fixed.items())


def test_all_that_can_be_given_up_is_given_up() -> None:
    """A smaller batch, a cheaper cache, less context, in between as the solver finds them best."""
    plan = make_plan(giant(LLAMA_8B), machine(ram=8), Wishes())
    *_, least, mapped = plan.fallbacks
    s = least.settings
    assert (s.n_ctx, s.type_k, s.type_v, s.n_ubatch) == (4096, "q4_0", "q4_0", 128)
    assert (least.note, mapped.note) == (LEAST, MAPPED)
    assert not mapped.settings.use_extra_bufts
    contexts = [c.settings.n_ctx for c in (plan.chosen, *plan.fallbacks)]
    assert contexts == sorted(contexts, reverse=True)
    beyond = make_plan(giant(LLAMA_8B), machine(ram=8), Wishes(n_ctx=8192))
    assert {c.settings.n_ctx for c in beyond.fallbacks} == {8192}


def test_where_the_ram_ran_out_less_of_it_is_taken() -> None:
    """Though the ladder for GPUs would take more; and nothing where nothing is to be tried."""
    plan = make_plan(giant(AYA_35B), machine(gpu(12.0)), Wishes())
    solver = Solver(plan.model, plan.machine)
    on_gpu, on_host = following(plan, 0, solver), following(plan, 1, solver)
    assert on_gpu == plan.fallbacks
    assert on_host
    taken = plan.chosen.footprint.host.total
    assert all(c.footprint.host.total < taken for c in on_host)
    assert following(plan.offering(fallbacks=()), 1, solver) == ()
