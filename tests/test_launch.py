"""From a path to a running model: stages, retries, and the whole of it for real."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from bench.oracle import rpc_available
from tests.support.gguf_files import tiny_llama
from tests.support.giants import GEMMA_27B, LLAMA_8B, giant, giant_path, gpu, machine
from tests.support.launches import ASK, launcher, run
from tests.support.standin_gpu import standin_gpu
from tuner.demo import demo_model_path
from tuner.engine.client import EngineClient
from tuner.engine.protocol import Done, Message, Sampling, Text
from tuner.errors import EngineCancelled, EngineError, FileError, NoFitError
from tuner.gguf.header import read_header
from tuner.launch import Launcher, Ready, Retry, Stage
from tuner.machine import measure as devices
from tuner.machine.machine import Machine
from tuner.machine.nvidia import Reading
from tuner.model.model import describe
from tuner.planning import Plan
from tuner.planning.advice import Advice
from tuner.planning.planner import make_plan
from tuner.profiles.profiles import Profiles
from tuner.units import GIB, MIB
from tuner.wishes import LaunchRequest, Wishes


def test_a_launch_tells_its_stages_and_ends_ready(
    tiny_model: Path, tmp_path: Path, pretend: Machine
) -> None:
    """Stages come in order, loading with a fraction, and the model then answers."""
    start = launcher(tiny_model, tmp_path, load_seconds=0.2, text="Hi there")
    events, running = run(start.start())
    fractions = [e.fraction for e in events if isinstance(e, Stage) and e.fraction is not None]
    assert fractions == sorted(fractions)
    assert len(fractions) > 2
    answer = list(running.generate(ASK, Sampling()))
    assert "".join(e.text for e in answer if isinstance(e, Text)) == "Hi there"
    assert isinstance(answer[-1], Done)
    running.close()


@pytest.mark.parametrize(("name", "goes_back"), [(GEMMA_27B, False), (LLAMA_8B, True)])
def test_a_window_does_not_go_back_though_no_checkpoint_is_planned(
    name: str, goes_back: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one found no room."""
    asked = Wishes(n_ctx=8192, type_k="f16", type_v="f16", n_ubatch=512, n_gpu_layers=9)
    where = machine(gpu(12), ram=64)
    host = make_plan(giant(name), where, asked).chosen.footprint.host
    tight = replace(where.host, free=host.total - host.checkpoint + where.host.reserve)
    monkeypatch.setattr(devices, "measure", lambda **_: replace(where, host=tight))
    _, running = run(launcher(giant_path(name), tmp_path, asked).start())
    running.close()
    assert running.plan.chosen.footprint.host.checkpoint == 0
    assert running.goes_back is goes_back


def test_two_reports_are_made_one_after_the_other(
    tiny_model: Path, tmp_path: Path, pretend: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that is asked for while another is made waits: both go by the same solver."""
    _, running = run(launcher(tiny_model, tmp_path).start())
    second = Thread(target=running.report_text, args=(80,))
    advised: list[Plan] = []

    def advise(plan: Plan) -> Advice:
        advised.append(plan)
        if len(advised) == 1:
            second.start()
            second.join(0.1)
        return Advice()

    monkeypatch.setattr(running.tuning, "advise", advise)
    running.report_text(60)
    second.join()
    assert len(advised) == 1
    running.close()


@pytest.mark.parametrize("template", ["chatml", "file"])
def test_chatml_stands_in_the_status(
    tiny_model: Path, tmp_path: Path, pretend: Machine, template: str
) -> None:
    """From the load on, and as the last answer was asked."""
    _, running = run(launcher(tiny_model, tmp_path, template=template).start())
    assert running.status().startswith("ChatML · ") is (template == "chatml")
    running._format = "another"
    list(running.generate(ASK, Sampling()))
    assert running.status().startswith("ChatML · ") is (template == "chatml")
    running.close()


def test_memory_that_is_never_enough_ends_with_the_engine_s_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rung is tried and told; then the launch fails for what it is."""
    monkeypatch.setattr(devices, "measure", lambda **_: machine(gpu(8)))
    start = launcher(giant_path(LLAMA_8B), tmp_path, oom_over_ctx=1)
    retries: list[Retry] = []
    with pytest.raises(EngineError) as failure:
        retries.extend(e for e in start.start() if isinstance(e, Retry))
    assert failure.value.kind == "out_of_memory"
    start.client.close()


def test_the_ladder_is_walked_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every context over 30,000 tokens failing, the launch ends on a rung below that."""
    monkeypatch.setattr(devices, "measure", lambda **_: machine(gpu(8)))
    start = launcher(giant_path(LLAMA_8B), tmp_path, oom_over_ctx=30_000)
    events, running = run(start.start())
    retries = [e for e in events if isinstance(e, Retry)]
    assert retries
    assert "Out of memory" in retries[0].reason
    assert running.settings.n_ctx <= 30_000
    assert running.settings.n_gpu_layers == 33
    running.close()


def test_how_a_loaded_model_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in use on a GPU is held against what the engine has put there; the cache fills with
    its tokens; the deeper, the slower."""
    monkeypatch.setattr(devices, "measure", lambda **_: machine(gpu(12)))
    start = launcher(giant_path(LLAMA_8B), tmp_path)
    _, running = run(start.start())
    running.actual = replace(running.actual, footprint=running.plan.chosen.footprint)
    used = [12 * GIB]
    monkeypatch.setattr(
        "tuner.launch.running.gpu_readings", lambda _: {"GPU0": Reading(used[0], 12 * GIB, 60)}
    )
    assert running.vitals().vram == (12 * GIB, 12 * GIB)
    assert running.vitals().temperature == 60
    assert running.vitals().power is None
    assert not running.vitals().spilled
    used[0] = 2 * GIB  # less than the weights
    assert running.vitals().spilled
    filled, whole = running.cache_bytes(100)
    assert running.cache_bytes(running.settings.n_ctx) == (whole, whole)
    assert filled * running.settings.n_ctx == whole * 100
    assert 0 < running.expected_tps(30_000) < running.expected_tps(10)
    running.close()
    assert not running.vitals().spilled  # what it had is free again


def test_nothing_fits_is_an_error_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launch ends with the bytes missing and flags that would fit."""
    monkeypatch.setattr(devices, "measure", lambda **_: machine(gpu(8)))
    wishes = Wishes(n_ctx=131_072, type_k="f16", type_v="f16", n_gpu_layers=99)
    with pytest.raises(NoFitError, match=r"bytes\) more than GPU0.*It fits with --ctx \d+"):
        list(launcher(giant_path(LLAMA_8B), tmp_path, wishes).start())


def test_a_launch_can_be_cancelled(tiny_model: Path, tmp_path: Path, pretend: Machine) -> None:
    """Cancel ends a load that runs."""
    start = launcher(tiny_model, tmp_path, load_seconds=20)
    events = start.start()
    while not getattr(next(events), "fraction", None):
        pass
    start.cancel()
    with pytest.raises(EngineCancelled):
        list(events)
    start.client.close()


def test_a_file_that_changed_is_planned_again(
    tiny_model: Path, tmp_path: Path, pretend: Machine
) -> None:
    """With a word; not for ever."""
    events, running = run(launcher(tiny_model, tmp_path, changed=2).start())
    said = [event.reason for event in events if isinstance(event, Retry)]
    assert said == ["The file is another one. It is read and planned again."] * 2
    running.close()
    with pytest.raises(EngineError, match="another one") as caught:
        run(launcher(tiny_model, tmp_path, changed=100).start())
    assert caught.value.kind == "changed"


# ------------------------------------------------------------------ for real


@pytest.mark.skipif(os.name == "nt", reason="a file that is mapped cannot be cut there")
@pytest.mark.parametrize("stage", ["planning", "loading the model"])
@pytest.mark.parametrize("repacked", [True, False])
def test_a_file_cut_under_a_launch(tmp_path: Path, stage: str, repacked: bool) -> None:
    """Whatever the engine makes of it, the end is one sentence about the file."""
    path = tmp_path / "model.gguf"
    shutil.copy(demo_model_path(), path)
    Profiles().learn(lambda facts: replace(facts, use_extra_bufts=repacked))
    request = LaunchRequest(path, Wishes(n_ctx=512), threads=1)
    start = Launcher(request, EngineClient(tmp_path / "engine.log"))
    retries: list[Retry] = []

    def run_and_cut() -> None:
        for event in start.start():
            if isinstance(event, Retry):
                retries.append(event)
            if isinstance(event, Stage) and event.text == stage and path.stat().st_size > 40e6:
                os.truncate(path, 40_000_000)

    with start.client, pytest.raises(FileError, match="is incomplete") as caught:
        run_and_cut()
    assert caught.value.kind == "truncated"
    assert "planned again" in retries[-1].reason


@pytest.mark.parametrize("stage", ["planning", "loading the model"])
def test_a_file_replaced_under_a_launch(tmp_path: Path, stage: str) -> None:
    """Another model lies there when the engine looks, or comes while it reads: that one is planned,
    loaded and named, and the profile is its own."""
    path = tiny_llama(tmp_path / "model.gguf")
    shutil.copy(demo_model_path(), tmp_path / "new.gguf")
    if stage != "planning":
        path.unlink()
        shutil.copy(demo_model_path(), path)
    Profiles().learn(lambda facts: replace(facts, use_extra_bufts=False))
    request = LaunchRequest(path, Wishes(n_ctx=512), threads=1)
    start = Launcher(request, EngineClient(tmp_path / "engine.log"))
    retries: list[Retry] = []
    replaced = False
    with start.client:
        for event in start.start():
            if isinstance(event, Retry):
                retries.append(event)
            if isinstance(event, Stage) and event.text == stage and not replaced:
                replaced = True
                (tmp_path / "new.gguf").replace(path)
        assert isinstance(event, Ready)
        assert event.running.model.name == describe(read_header(demo_model_path())).name
    assert len(retries) == 1
    assert "planned again" in retries[0].reason
    (profile,) = Profiles().list()
    assert profile.fingerprint == event.running.model.fingerprint


def test_the_demo_model_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read, measure, plan, dry run, load, answer, remember: nothing scripted. What the engine
    allocated is within 2 % of what was predicted."""
    monkeypatch.setattr("tuner.launch.running.LEAST_CORES", 0.0)  # however busy this machine is
    request = LaunchRequest(demo_model_path(), Wishes(n_ctx=1024), threads=1)
    start = Launcher(request, EngineClient(tmp_path / "engine.log"))
    Profiles().learn(lambda facts: replace(facts, use_extra_bufts=False))
    _, running = run(start.start())
    with start.client:
        events = list(
            running.generate(
                [Message("user", "Tell me a story.")], Sampling(temperature=0, max_tokens=56)
            )
        )
        assert "".join(e.text for e in events if isinstance(e, Text)).strip()
        predicted, real = running.plan.chosen.footprint.host, running.actual.footprint.host
        assert real.kv_cache == predicted.kv_cache > 0
        assert real.compute == pytest.approx(predicted.compute, rel=0.05)
        expected = running.actual.expected.host
        assert real.weights == pytest.approx(expected.weights, rel=1e-4)  # mapped: the log rounds
        assert "Predicted and actual" in running.report_text(80)
    (profile,) = Profiles().list()
    assert profile.decode_tps


@pytest.mark.skipif(not rpc_available(), reason="the engine was built without RPC")
def test_layers_on_two_stand_in_gpus_end_to_end(tmp_path: Path) -> None:
    """The same with two devices beside the host: planned for, loaded there, answered from there."""
    Profiles().learn(lambda facts: replace(facts, use_extra_bufts=False))
    with standin_gpu() as first, standin_gpu() as second:
        request = LaunchRequest(
            demo_model_path(),
            Wishes(n_ctx=512, n_gpu_layers=20, tensor_split=(1.0, 1.0)),
            rpc_servers=(first, second),
            threads=1,
        )
        start = Launcher(request, EngineClient(tmp_path / "engine.log"))
        _, running = run(start.start())
        with start.client:
            events = list(
                running.generate([Message("user", "Hi")], Sampling(temperature=0, max_tokens=4))
            )
            assert isinstance(events[-1], Done)
            expected = running.actual.expected.host.weights  # the range of the file that is mapped
            assert running.actual.footprint.host.weights == pytest.approx(expected, rel=1e-4)
            for predicted, real in zip(
                running.plan.chosen.footprint.uses[:2],
                running.actual.footprint.uses[:2],
                strict=True,
            ):
                assert real.weights > 10 * MIB
                assert real.weights == pytest.approx(predicted.weights, rel=0.002)
                assert real.kv_cache == pytest.approx(predicted.kv_cache, abs=MIB // 100)  # log
                assert real.compute == pytest.approx(predicted.compute, rel=0.05)
    assert not {k for k in Profiles().list()[0].off_by if "compute" not in k}
