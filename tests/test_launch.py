"""From a path to a running model: verification, the ladder, profiles, what is learned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.gguf_files import tiny_llama
from tests.support.giants import LLAMA_8B, giant, giant_path, gpu, machine
from tests.support.headers import made_up
from tests.support.scripted_worker import scripted_worker
from tests.support.standin_gpu import rpc_available, standin_gpu
from tuner.demo import demo_model_path
from tuner.engine.client import EngineClient
from tuner.engine.protocol import Done, Load, Loaded, Message, Progress, Sampling, Text
from tuner.errors import EngineCancelled, EngineError, NoFitError
from tuner.gguf.header import read_header
from tuner.launch import Launcher, Ready, Retry, Running, Stage
from tuner.machine import measure as devices
from tuner.machine.machine import Machine
from tuner.memory.footprint import Buffer
from tuner.memory.mapped_weights import mapped_weights
from tuner.memory.placement import place
from tuner.memory.reported import device_index, reported_footprint
from tuner.planning.plan import Plan
from tuner.planning.planner import make_plan
from tuner.profiles.actual import differences
from tuner.profiles.profiles import Profiles
from tuner.settings import Settings
from tuner.units import GIB, MIB
from tuner.wishes import LaunchRequest, Wishes

ASK = [Message("user", "Hello?")]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "tiny.gguf")


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """This machine, as measured, has one GPU of 8 GiB."""
    where = machine(gpu(8))
    monkeypatch.setattr(devices, "measure", lambda **_: where)
    return where


def launcher(
    path: Path, tmp_path: Path, wishes: Wishes | None = None, **script: object
) -> Launcher:
    client = EngineClient(tmp_path / "engine.log", command=scripted_worker(**script))
    return Launcher(LaunchRequest(path, wishes or Wishes(), threads=1), client)


def run(it: Iterator[object]) -> tuple[list[object], Running]:
    events = list(it)
    assert isinstance(events[-1], Ready)
    return events, events[-1].running


def test_a_launch_tells_its_stages_and_ends_ready(
    model: Path, tmp_path: Path, pretend: Machine
) -> None:
    """Stages come in order, loading with a fraction, and the model then answers."""
    start = launcher(model, tmp_path, load_seconds=0.2, text="Hi there")
    events, running = run(start.start())
    fractions = [e.fraction for e in events if isinstance(e, Stage) and e.fraction is not None]
    assert fractions == sorted(fractions)
    assert len(fractions) > 2
    answer = list(running.generate(ASK, Sampling()))
    assert "".join(e.text for e in answer if isinstance(e, Text)) == "Hi there"
    assert isinstance(answer[-1], Done)
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


def test_nothing_fits_is_an_error_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launch ends with the bytes missing and flags that would fit."""
    monkeypatch.setattr(devices, "measure", lambda **_: machine(gpu(8)))
    wishes = Wishes(n_ctx=131_072, type_k="f16", type_v="f16", n_gpu_layers=99)
    with pytest.raises(NoFitError, match=r"bytes\).*What would fit: --ctx"):
        list(launcher(giant_path(LLAMA_8B), tmp_path, wishes).start())


def test_a_launch_can_be_cancelled(model: Path, tmp_path: Path, pretend: Machine) -> None:
    """Cancel ends a load that runs."""
    start = launcher(model, tmp_path, load_seconds=20)
    events = start.start()
    while not getattr(next(events), "fraction", None):
        pass
    start.cancel()
    with pytest.raises(EngineCancelled):
        list(events)
    start.client.close()


# ------------------------------------------------------------------ profiles


def test_what_worked_is_saved_and_used_again(model: Path, tmp_path: Path, pretend: Machine) -> None:
    """The second launch keeps the settings of the first; the profile holds what was measured."""
    _, running = run(launcher(model, tmp_path, text="word " * 40).start())
    list(running.generate(ASK, Sampling()))
    running.close()
    saved = Profiles().list()
    assert [p.settings for p in saved] == [running.plan.chosen.settings]
    assert saved[0].decode_tps
    assert saved[0].predicted
    _, again = run(launcher(model, tmp_path).start())
    again.close()
    assert again.plan.chosen.settings == running.plan.chosen.settings


def test_a_profile_that_still_fits_is_kept(model: Path, tmp_path: Path, pretend: Machine) -> None:
    """Other settings that were saved, fit and are about as good stay, and the report says so."""
    _, running = run(launcher(model, tmp_path).start())
    running.close()
    profiles = Profiles()
    profile = profiles.list()[0]
    other = replace(profile.settings, n_ubatch=256)
    profiles.save(replace(profile, settings=other, saved_at=""))
    _, again = run(launcher(model, tmp_path).start())
    again.close()
    assert again.plan.chosen.settings == other
    assert "kept as saved" in " ".join(again.plan.reasons)


def test_a_profile_that_no_longer_fits_is_planned_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less memory than when it was saved: a new plan, and the reason shown."""
    monkeypatch.setattr(devices, "measure", lambda **_: machine(gpu(8)))
    path = giant_path(LLAMA_8B)
    _, running = run(launcher(path, tmp_path).start())
    running.close()
    monkeypatch.setattr(devices, "measure", lambda **_: machine(gpu(4)))
    _, again = run(launcher(path, tmp_path).start())
    again.close()
    assert again.plan.chosen.fits
    assert again.plan.chosen.settings != running.plan.chosen.settings
    assert "no longer fits" in " ".join(again.plan.reasons)


def test_a_profile_of_other_gpus_is_planned_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers saved for a GPU are not asked of a machine that has none now."""
    monkeypatch.setattr(devices, "measure", lambda **_: machine(gpu(8)))
    path = giant_path(LLAMA_8B)
    _, running = run(launcher(path, tmp_path).start())
    running.close()
    monkeypatch.setattr(devices, "measure", lambda **_: machine())
    _, again = run(launcher(path, tmp_path).start())
    again.close()
    assert again.settings.n_gpu_layers == 0
    assert "other GPUs" in " ".join(again.plan.reasons)


def test_no_profile_writes_nothing(model: Path, tmp_path: Path, pretend: Machine) -> None:
    """--no-profile leaves no trace."""
    start = launcher(model, tmp_path)
    start.request = replace(start.request, use_profile=False)
    _, running = run(start.start())
    running.close()
    assert not Profiles().list()


def test_a_death_by_instruction_is_remembered(
    model: Path, tmp_path: Path, pretend: Machine
) -> None:
    """After the engine died of repacked weights once, the next plan does without them."""
    start = launcher(model, tmp_path, die_in="extra_bufts", die_by="SIGILL")
    _, running = run(start.start())
    running.close()
    assert Profiles().machine_facts().use_extra_bufts is False
    assert "repacked" in " ".join(running.warnings)
    _, again = run(launcher(model, tmp_path).start())
    again.close()
    assert again.settings.use_extra_bufts is False


def test_a_gpu_that_others_have_filled_is_left_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card without room is named as left out, also to the engine, and the model runs on the
    CPU instead of not at all."""
    full = replace(gpu(24), free=700 * MIB)
    roomy, left_out = devices._roomy((full, gpu(24, 1)))
    assert [g.id for g in roomy] == ["GPU1"]
    assert [g.id for g in left_out] == ["GPU0"]
    where = replace(machine(), left_out=left_out)
    monkeypatch.setattr(devices, "measure", lambda **_: where)
    start = launcher(tiny_llama(tmp_path / "tiny.gguf"), tmp_path)
    asked: list[Load] = []
    load = start.client.load

    def loading(request: Load) -> Iterator[Progress | Loaded]:
        asked.append(request)
        return load(request)

    monkeypatch.setattr(start.client, "load", loading)
    _, running = run(start.start())
    running.close()
    assert asked[0].left_out == ("CUDA0",)


def test_the_driver_s_share_is_learned(
    model: Path, tmp_path: Path, pretend: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What NVML saw a load take beyond its buffers is the overhead of the next plan."""
    readings = iter([{"GPU0": 1 * GIB}, {"GPU0": 1 * GIB + 300 * MIB}])
    monkeypatch.setattr("tuner.launch.gpu_used_bytes", lambda _: next(readings))
    monkeypatch.setattr(devices, "gpu_used_bytes", lambda _: next(readings))
    _, running = run(launcher(model, tmp_path).start())
    running.close()
    (overhead,) = Profiles().machine_facts().gpu_overhead.values()
    use = running.actual.footprint.uses[0]
    assert overhead == 300 * MIB - (use.total - use.overhead)


# ------------------------------------------------------------------ predicted and actual


def plan_8b(gib: float = 8, wishes: Wishes | None = None) -> Plan:
    return make_plan(giant(LLAMA_8B), machine(gpu(gib)), wishes or Wishes())


def test_a_difference_over_two_percent_is_recorded() -> None:
    """Only what is off by more, with its sign."""
    plan = plan_8b()
    guess = plan.chosen.footprint
    gpu_use, host_use = guess.uses
    real = replace(
        guess,
        uses=(
            replace(gpu_use, compute=gpu_use.compute * 2, kv_cache=int(gpu_use.kv_cache * 1.01)),
            replace(host_use, weights=int(host_use.weights * 0.99)),
        ),
    )
    assert differences(guess, real) == {"GPU0 compute": -0.5}


def test_mapped_weights_are_a_range_of_the_file(tmp_path: Path) -> None:
    """From the embedding, first in the file, to the last tensor that stays in RAM; matrices in
    the CPU's own order are copies beside it."""
    n_embd, n_ff, layers = 256, 512, 4
    model = made_up(tmp_path / "m.gguf", n_embd=n_embd, n_ff=n_ff, n_layer=layers)
    tensors = {t.name: t for t in read_header(model.path).tensors}
    last = tensors["blk.0.ffn_down.weight"]
    upper = place(layers, 1, Settings(512, n_gpu_layers=layers))  # the first layer stays
    assert mapped_weights(model, upper, repacked=False) == last.offset + last.n_bytes
    whole = place(layers, 0, Settings(512))
    end = max(t.offset + t.n_bytes for t in tensors.values())
    assert mapped_weights(model, whole, repacked=False) == end
    matrices = sum(
        t.n_bytes for t in tensors.values() if len(t.shape) == 2 and "token_embd" not in t.name
    )
    norms = max(t.offset + t.n_bytes for t in tensors.values() if len(t.shape) == 1)
    with_copies = mapped_weights(model, whole, repacked=True)
    assert with_copies in (norms + matrices, None)  # None: not this kind of CPU


def test_engine_names_of_devices() -> None:
    """Each buffer is counted where it lies."""
    cuda = machine(gpu(8), gpu(8, 1)).gpus
    assert [device_index(n, cuda) for n in ("CUDA0", "CUDA1")] == [0, 1]
    for name in ("CPU", "CPU_Mapped", "CUDA_Host", "CPU_REPACK", "AMX"):
        assert device_index(name, cuda) == -1
    rpc = (replace(gpu(8, backend="RPC"), engine_name="RPC0[127.0.0.1:50052]"),)
    assert device_index("RPC0[127.0.0.1:50052]", rpc) == 0


def test_buffers_add_up_per_device() -> None:
    """Several buffers of a kind on one device are one figure; kinds not reported stay."""
    plan = plan_8b()
    buffers = [
        Buffer("CUDA0", "weights", 100), Buffer("CUDA0", "weights", 11),
        Buffer("CPU_Mapped", "weights", 7),
    ]  # fmt: skip
    got = reported_footprint(buffers, plan.machine, plan.chosen.footprint, "measured")
    assert [u.weights for u in got.uses] == [111, 7]
    assert got.uses[0].compute == plan.chosen.footprint.uses[0].compute


# ------------------------------------------------------------------ for real


def test_the_demo_model_end_to_end(tmp_path: Path) -> None:
    """Read, measure, plan, dry run, load, answer, remember: nothing scripted. What the engine
    allocated is within 2 % of what was predicted."""
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
def test_layers_on_the_stand_in_gpu_end_to_end(tmp_path: Path) -> None:
    """The same with a device beside the host: planned for, loaded there, answered from there."""
    Profiles().learn(lambda facts: replace(facts, use_extra_bufts=False))
    with standin_gpu() as server:
        request = LaunchRequest(
            demo_model_path(), Wishes(n_ctx=512, n_gpu_layers=20), rpc_servers=(server,), threads=1
        )
        start = Launcher(request, EngineClient(tmp_path / "engine.log"))
        _, running = run(start.start())
        with start.client:
            events = list(
                running.generate([Message("user", "Hi")], Sampling(temperature=0, max_tokens=4))
            )
            assert isinstance(events[-1], Done)
            predicted, real = (
                f.uses[0] for f in (running.plan.chosen.footprint, running.actual.footprint)
            )
            assert real.weights > 20 * MIB
            assert real.weights == pytest.approx(predicted.weights, rel=0.002)
            expected = running.actual.expected.host.weights  # the range of the file that is mapped
            assert running.actual.footprint.host.weights == pytest.approx(expected, rel=1e-4)
            assert real.kv_cache == pytest.approx(predicted.kv_cache, abs=MIB // 100)  # log lines
            assert real.compute == pytest.approx(predicted.compute, rel=0.05)
    assert not {k for k in Profiles().list()[0].off_by if "compute" not in k}
