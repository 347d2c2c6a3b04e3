"""The check of a machine with a card, where there is none: models that it makes, what it takes for
off, and all of it on a stand-in GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.gpu_check import Check, memory_off, speed_off, ways
from bench.oracle import rpc_available
from bench.random_models import KINDS, write_model
from tests.report.test_receipt import receipt
from tests.support.giants import LLAMA_8B, QWEN_30B_A3B, giant
from tests.support.standin_gpu import rpc_server
from tuner.engine.protocol import Timed
from tuner.memory.footprint import Footprint
from tuner.model.model import read_model
from tuner.report.receipt import Timing
from tuner.units import GIB, MIB


@pytest.mark.parametrize("kind", KINDS)
def test_models_are_made_that_can_be_loaded(kind: str, tmp_path: Path) -> None:
    """Whole files that llama.cpp's loader would take, of the size that was asked for at most, and
    the same ones again where they are there already."""
    path = write_model(tmp_path, kind, 60 * MIB)
    model = read_model(path)
    assert 20 * MIB < model.size_bytes < 62 * MIB
    assert bool(model.moe_layers) == (kind == "experts")
    assert (model.hparams.n_swa > 0) == (kind == "window")
    before = path.stat()
    assert write_model(tmp_path, kind, 60 * MIB) == path
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_experts_are_moved_only_where_there_are_some() -> None:
    """And nothing is put on a GPU where there is none."""
    names = {way.name for way in ways(giant(QWEN_30B_A3B), gpus=1, quick=False)}
    assert {"half of the experts", "no experts", "on the CPU"} <= names
    assert "no experts" not in {way.name for way in ways(giant(LLAMA_8B), gpus=1, quick=False)}
    for way in ways(giant(QWEN_30B_A3B), gpus=0, quick=False):
        assert way.wishes.n_gpu_layers is None
        assert way.wishes.n_cpu_moe is None


def test_memory_beyond_3_percent_and_4_mib_is_off() -> None:
    told = receipt()
    first, *others = told.actual.expected.uses
    more = replace(first, compute=int(first.compute * 1.03) + 5 * MIB)
    far = replace(told.actual, footprint=Footprint((more, *others)))
    found = list(memory_off(replace(told, actual=far)))
    assert len(found) == 1
    assert found[0].startswith("GPU0 compute")
    near = Footprint((replace(first, compute=first.compute + 3 * MIB), *others))
    assert not list(memory_off(replace(told, actual=replace(told.actual, footprint=near))))


@pytest.mark.parametrize(
    ("predicted", "is_off"), [(100.0, False), (119.0, False), (121.0, True), (79.0, True)]
)
def test_decoding_beyond_a_fifth_is_off(predicted: float, is_off: bool) -> None:
    """Unless others had the cores."""
    pace = Timing(Timed(0, 100, 1.0, 1.0), predicted)
    told = replace(receipt(), prompts=(), decodes=(pace,))
    assert bool(list(speed_off(told))) is is_off
    assert not list(speed_off(replace(told, busy=True)))


@pytest.mark.skipif(not rpc_available(), reason="the engine has no RPC backend")
def test_the_whole_of_it_on_a_stand_in(tmp_path: Path) -> None:
    """Loads of two kinds, memory that really runs out, a process that is really killed: nothing but
    speed, which nobody can foretell of a stand-in, is off. What is taken of it is measured, before
    the load, after it, and after a long prompt."""
    path = write_model(tmp_path, "experts", MIB)
    with rpc_server(400 * MIB, told=GIB) as server:
        check = Check((server.address,), quick=True)
        check.model(path)
    assert check.n_looked_at == 4
    assert len(check.receipts) == 2
    layers = {r.plan.chosen.settings.n_gpu_layers for r in check.receipts}
    assert len(layers) == 2
    told = next(r.actual for r in check.receipts if r.plan.chosen.settings.n_gpu_layers == 2)
    buffers = told.footprint.uses[0].total
    assert buffers <= (told.taken[0] or 0) < buffers + MIB
    assert told.grown[0] is not None
    assert 2 in layers
    assert not [line for line in check.off if "prompt at" not in line and "decode at" not in line]
