"""What an estimator says beside the sizes: how sure it is, and what lives beside the model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as quickly
from hypothesis import strategies as st

from tests.support.giants import GEMMA_27B, LLAMA_8B, QWEN_30B_A3B, giant, gpu
from tests.support.giants import machine as desk
from tests.support.headers import machine, real_model, unpacked
from tuner.memory.compute.graph import Graph
from tuner.memory.compute.replica.model_graph import ModelGraph
from tuner.memory.compute.terms import Terms
from tuner.memory.estimator import Estimator
from tuner.memory.footprint import KINDS, DeviceUse, Footprint
from tuner.planning.planner import make_plan
from tuner.planning.solver import Solver
from tuner.settings import Settings
from tuner.units import GIB
from tuner.wishes import Wishes

# ------------------------------------------------------------------ how sure it is


@pytest.mark.parametrize(
    "error", [TypeError, KeyError, AttributeError, AssertionError, ZeroDivisionError, ValueError]
)
@pytest.mark.parametrize("flash_attn", ["on", "off"])
def test_what_no_graph_was_built_for_is_assumed(
    error: type[Exception], flash_attn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a builder stumbles over, in both fidelities; the plan says so too."""

    def stumble(*_: Any) -> Graph:
        raise error("no such layer")

    at = Settings(8192, n_gpu_layers=99, flash_attn=flash_attn)
    model = real_model(LLAMA_8B)
    known = Estimator(model, machine()).exact(at)
    assert known.source == "computed"
    monkeypatch.setattr(ModelGraph, "build", stumble)
    estimator = Estimator(model, machine())
    for footprint in (estimator.footprint(at), estimator.exact(at)):
        assert footprint.source == "assumed"
        for use, true in zip(footprint.uses, known.uses, strict=True):
            assert use.compute >= true.compute
    assert make_plan(model, desk(gpu(12)), Wishes()).chosen.footprint.source == "assumed"


def test_sizes_of_no_known_form_are_replayed_as_plain_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A graph that many settings cannot share is no reason to guess."""
    at = Settings(8192, n_gpu_layers=99)
    true = Estimator(real_model(LLAMA_8B), machine()).footprint(at)

    def beyond(size: int) -> Terms:
        return ((10_000, size),)

    monkeypatch.setattr("tuner.memory.compute.tapes.terms", beyond)
    assert Estimator(real_model(LLAMA_8B), machine()).footprint(at) == true


@pytest.mark.parametrize("backend", ["RPC", "CUDA", "Metal"])
@pytest.mark.parametrize("name", sorted(unpacked()[0]))
def test_many_settings_share_the_graphs_of_every_known_architecture(
    name: str, backend: str
) -> None:
    """Without this a search would still be right, by a graph for each of its thousand questions:
    so slow that it is a fault."""
    estimator = Estimator(real_model(name), machine(1, backend))
    half = estimator.model.n_layer_all // 2
    for on_gpu, experts, flash_attn in ((99, 0, "on"), (99, half, "on"), (half, 0, "off")):
        estimator.footprint(Settings(8192, "f16", "f16", on_gpu, experts, flash_attn=flash_attn))
    replays = estimator.compute.replays
    assert replays._opens
    assert replays._graphs
    assert None not in replays._graphs.values()


# ------------------------------------------------------------------ what lives beside the model

_sizes = st.integers(0, 3 * GIB)
_uses = st.builds(
    DeviceUse, st.sampled_from(["GPU0", "GPU1", "host"]), _sizes, _sizes, _sizes, _sizes, _sizes
)
_extra = st.lists(st.builds(Footprint, st.lists(_uses, max_size=3).map(tuple)), max_size=2)
_places = st.builds(
    Settings,
    n_ctx=st.integers(512, 100_000),
    n_gpu_layers=st.integers(0, 99),
    n_cpu_moe=st.sampled_from([0, 5]),
    tensor_split=st.just((1.0, 1.0)),
)


@quickly(max_examples=60, deadline=None)
@given(st.sampled_from([LLAMA_8B, QWEN_30B_A3B]), _places, _extra)
def test_what_lives_beside_the_model_is_added_by_device_and_kind(
    name: str, at: Settings, extra: list[Footprint]
) -> None:
    """To every answer: both fidelities and the sums, with and without the compute buffers."""
    alone, beside = (Estimator(real_model(name), machine(2), x) for x in ((), extra))
    of_extra = {
        (device, kind): sum(
            getattr(use, kind) for f in extra for use in f.uses if use.device == device
        )
        for device in ("GPU0", "GPU1", "host")
        for kind in KINDS
    }
    for ask in ("footprint", "exact"):
        pairs = zip(getattr(alone, ask)(at).uses, getattr(beside, ask)(at).uses, strict=True)
        for before, after in pairs:
            for kind in KINDS:
                more = getattr(after, kind) - getattr(before, kind)
                assert more == of_extra[before.device, kind]
    assert beside.totals(at) == [use.total for use in beside.footprint(at).uses]
    without = [use.total - use.compute for use in alone.footprint(at).uses]
    more = [sum(of_extra[device.id, kind] for kind in KINDS) for device in alone.machine.devices]
    assert beside.totals(at, "nothing") == [a + b for a, b in zip(without, more, strict=True)]


@quickly(max_examples=6, deadline=None, derandomize=True)
@given(
    name=st.sampled_from([LLAMA_8B, GEMMA_27B]),
    gibs=st.sampled_from([(8,), (24,), (12, 8)]),
    on_gpu=st.integers(0, 6 * GIB),
    on_host=st.integers(0, 20 * GIB),
)
def test_a_plan_leaves_room_for_what_lives_beside_the_model(
    name: str, gibs: tuple[int, ...], on_gpu: int, on_host: int
) -> None:
    """Choice, alternatives and fallbacks stay within the budgets with it, and it is in them."""
    extra = Footprint((DeviceUse("GPU0", weights=on_gpu), DeviceUse("host", kv_cache=on_host)))
    where = desk(*(gpu(gib, i) for i, gib in enumerate(gibs)))
    plan = make_plan(giant(name), where, Wishes(), solver=Solver(giant(name), where, (extra,)))
    assert not plan.chosen.fits or plan.fallbacks
    for c in (plan.chosen, *plan.alternatives, *plan.fallbacks) if plan.chosen.fits else ():
        assert c.footprint.uses[0].weights >= on_gpu
        assert c.footprint.host.kv_cache >= on_host
        for use, device in zip(c.footprint.uses, where.devices, strict=True):
            assert use.total <= device.budget


def test_what_lives_beside_the_model_is_as_good_as_memory_that_is_not_there() -> None:
    """The plan beside 3 GiB of another model is that of a GPU with 3 GiB less."""
    where = desk(gpu(10))
    extra = Footprint((DeviceUse("GPU0", weights=2 * GIB, compute=GIB),))
    beside = Solver(giant(LLAMA_8B), where, (extra,)).best(Wishes())
    smaller = Solver(giant(LLAMA_8B), desk(gpu(7))).best(Wishes())
    alone = Solver(giant(LLAMA_8B), where).best(Wishes())
    assert beside is not None
    assert smaller is not None
    assert alone is not None
    assert beside.settings == smaller.settings
    assert beside.score < alone.score


def test_bytes_on_a_device_that_is_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="GPU7"):
        Estimator(giant(LLAMA_8B), machine(), (Footprint((DeviceUse("GPU7", weights=1),)),))
