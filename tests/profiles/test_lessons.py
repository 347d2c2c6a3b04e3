"""What a load teaches, and that it is kept."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.gguf_files import tiny_llama
from tests.support.giants import LLAMA_8B, giant, giant_path, gpu, machine
from tests.support.launches import ASK, launcher, loaded, run
from tui.command.cli import main
from tuner.engine.protocol import MeasureSpeed, Message, Sampling, Timed
from tuner.engine_version import ENGINE_VERSION
from tuner.launch.running import Running
from tuner.machine import measure as devices
from tuner.machine import nvidia
from tuner.machine.machine import Machine
from tuner.machine.nvidia import Reading
from tuner.machine.overheads import Spread
from tuner.machine.usable import with_reserve
from tuner.memory.beside import growth_on
from tuner.profiles.lessons import known_beside
from tuner.profiles.profiles import Profiles
from tuner.settings import Settings
from tuner.tuning import Tuning
from tuner.units import GIB, MIB
from tuner.wishes import LaunchRequest


def test_what_worked_is_saved_and_used_again(
    tiny_model: Path, tmp_path: Path, pretend: Machine
) -> None:
    """The second launch keeps the settings of the first; the profile holds what was measured."""
    _, running = run(launcher(tiny_model, tmp_path, text="word " * 40).start())
    list(running.generate(ASK, Sampling()))
    running.close()
    saved = Profiles().list()
    assert [p.settings for p in saved] == [running.plan.chosen.settings]
    assert saved[0].decode_tps
    assert saved[0].predicted
    again = loaded(tiny_model, tmp_path)
    assert again.plan.chosen.settings == running.plan.chosen.settings


@pytest.mark.parametrize(("cpu_share", "kept"), [(0.99, True), (0.5, False)])
def test_the_speed_of_a_busy_machine_is_not_the_model_s(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpu_share: float, kept: bool
) -> None:
    """Where the engine's threads did not have their cores, nothing is learned of it."""
    monkeypatch.setattr(devices, "measure", lambda **_: machine())
    start = launcher(tiny_model, tmp_path, text="word " * 40, cpu_share=cpu_share)
    _, running = run(start.start())
    list(running.generate(ASK, Sampling()))
    running.close()
    (saved,) = Profiles().list()
    assert (saved.decode_tps is not None) is kept
    assert (running.actual.decode_tps is not None) is kept


def test_no_profile_writes_nothing(tiny_model: Path, tmp_path: Path, pretend: Machine) -> None:
    """--no-profile leaves no trace."""
    start = launcher(tiny_model, tmp_path)
    start.request = replace(start.request, use_profile=False)
    _, running = run(start.start())
    running.close()
    assert not Profiles().list()


def test_a_death_by_instruction_is_remembered(
    tiny_model: Path, tmp_path: Path, pretend: Machine
) -> None:
    """After the engine died of repacked weights once, the next plan does without them."""
    start = launcher(tiny_model, tmp_path, die_in="extra_bufts", die_by="SIGILL")
    _, running = run(start.start())
    running.close()
    assert Profiles().machine_facts().use_extra_bufts is False
    assert "repacked" in " ".join(running.warnings)
    again = loaded(tiny_model, tmp_path)
    assert again.settings.use_extra_bufts is False


def test_what_it_died_of_is_named_expires_and_can_be_forgotten(
    tiny_model: Path, tmp_path: Path, pretend: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lesson says why and what undoes it; another engine begins anew, and so does a user who
    wants to."""
    start = launcher(tiny_model, tmp_path, die_in="extra_bufts", die_by="SIGILL")
    run(start.start())[1].close()
    facts = Profiles().machine_facts()
    assert facts.extra_bufts_died_by == "SIGILL"
    assert facts.engine_version
    again = loaded(tiny_model, tmp_path)
    (reason,) = (r for r in again.plan.reasons if "SIGILL" in r)
    assert "kvchat --forget-machine" in reason
    Profiles().learn(lambda facts: replace(facts, engine_version="0.2.1"))
    assert loaded(tiny_model, tmp_path).settings.use_extra_bufts is True
    Profiles().learn(lambda _: facts)
    assert main(["--forget-machine"]) == 0
    assert "Forgot" in capsys.readouterr().err
    assert loaded(tiny_model, tmp_path).settings.use_extra_bufts is True
    assert main(["--forget-machine"]) == 0


def test_how_much_a_model_thinks_is_kept(
    tiny_model: Path, tmp_path: Path, pretend: Machine
) -> None:
    """As the flag said it the last time, or as it was changed since; where the template has no such
    level, as near as it has one."""

    def kept(think: str) -> str:
        _, running = run(launcher(tiny_model, tmp_path, think=think).start())
        running.close()
        return running.think

    start = launcher(tiny_model, tmp_path, think="off,high")
    assert run(start.start())[1].think == ""
    start.request = replace(start.request, think="medium")
    _, again = run(start.start())
    assert again.think == "medium"
    assert [kept(""), kept("off,high"), kept("off,low,medium")] == ["", "high", "medium"]
    again.remember_think("off")
    again.close()
    assert kept("off,high") == "off"
    assert Profiles().list()[0].settings == again.plan.chosen.settings


def test_the_flags_of_one_question_are_not_kept(
    tiny_model: Path, tmp_path: Path, pretend: Machine
) -> None:
    """What a chat's flags said stays as it was."""
    start = launcher(tiny_model, tmp_path)
    start.request = replace(start.request, think="high", sampling={"temperature": 0.2})
    run(start.start())[1].close()
    once = launcher(tiny_model, tmp_path)
    flags = {"temperature": 0.0, "top_k": 1}
    once.request = replace(once.request, think="off", sampling=flags, keeps_flags=False)
    _, running = run(once.start())
    assert running.sampling == Sampling(temperature=0.0, top_k=1)
    assert running.think == "off"
    (profile,) = Profiles().list()
    assert profile.sampling == {"temperature": 0.2}
    assert profile.think == "high"


def test_the_driver_s_share_is_learned(
    tiny_model: Path, tmp_path: Path, pretend: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What NVML saw a load take beyond its buffers is the overhead of the next plan; and from
    before the engine had opened the card on, which a dry run does."""
    card = replace(pretend.gpus[0], uuid="GPU-1")
    monkeypatch.setattr(devices, "measure", lambda **_: replace(pretend, gpus=(card,)))
    start = launcher(tiny_model, tmp_path)

    def readings(_: object, uuids: list[str]) -> dict[str, Reading]:
        used = GIB + 300 * MIB if start.client.alive else GIB
        return {uuid: Reading(used, 8 * GIB) for uuid in uuids}

    monkeypatch.setattr(nvidia, "readings", readings)
    _, running = run(start.start())
    running.close()
    ((overhead,),) = Profiles().machine_facts().overheads.values()
    use = running.actual.footprint.uses[0]
    assert overhead == 300 * MIB - (use.total - use.overhead)


LONG = [Message("user", "word " * 4000)]


@pytest.mark.parametrize("timed", [False, True])
def test_what_a_long_prompt_takes_is_learned_of_a_gpu_that_only_the_engine_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timed: bool
) -> None:
    """Once per load, after the first long prompt or --bench; the next plan of the model has it, as
    measured, and the report says what was predicted and what came."""
    where = machine(gpu(8, backend="Vulkan"))
    monkeypatch.setattr(devices, "measure", lambda **_: where)
    free = [size * MIB for size in (8000, 7900, 7700, 8000)]
    start = launcher(giant_path(LLAMA_8B), tmp_path, vram_free=",".join(map(str, free)), n_ctx=8192)
    _, running = run(start.start())
    try:
        list(running.generate(ASK, Sampling()))
        assert not Profiles().machine_facts().growths, "that was no long prompt"
        if timed:
            list(running.measure_speed(MeasureSpeed(512, (4096,), 4, 1.0)))
        for _ in range(2):
            list(running.generate(LONG, Sampling()))
        shorter = replace(running.settings, n_ctx=4096)
        _, reshaped = run(running.change(shorter, keep=None))
        assert reshaped.in_place
        assert reshaped.actual.grown == (200 * MIB,), "by the same process"
    finally:
        running.close()
    assert (running.actual.taken, running.actual.grown) == ((100 * MIB,), (200 * MIB,))
    assert running.actual.footprint.uses[0].growth == 200 * MIB
    assert re.search(r"GPU0 +growth +0 B +200 MiB", running.report_text(80))
    facts = Profiles().machine_facts()
    assert [*facts.overheads.values()] == [(100 * MIB,)]
    known = known_beside(facts, where.engine_version, giant(LLAMA_8B))
    (gpu0,) = (with_reserve(card, None, known) for card in where.gpus)
    assert (gpu0.overhead, gpu0.overhead_source) == (100 * MIB, "measured")
    assert growth_on(gpu0, giant(LLAMA_8B), 512) == Spread(200 * MIB, 200 * MIB)
    assert gpu0.growth.source(512) == "measured"


def test_a_driver_that_tells_the_size_of_a_device_for_what_is_free_teaches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor that a long prompt takes nothing, which would let larger micro-batches in."""
    monkeypatch.setattr(devices, "measure", lambda **_: machine(gpu(8, backend="Vulkan")))
    start = launcher(giant_path(LLAMA_8B), tmp_path, vram_free=8 * GIB, n_ctx=8192)
    _, running = run(start.start())
    try:
        list(running.generate(LONG, Sampling()))
    finally:
        running.close()
    assert running.actual.grown == (None,)
    facts = Profiles().machine_facts()
    assert (facts.overheads, facts.growths) == ({}, {})


def test_what_flags_say_of_the_sampling_is_kept(
    tiny_model: Path, tmp_path: Path, pretend: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next launch without flags samples alike, one with other flags adds to it, and what is
    for one run alone is not kept."""

    def sampled(**flags: object) -> Running:
        start = launcher(tiny_model, tmp_path)
        start.request = replace(start.request, sampling=flags)
        _, running = run(start.start())
        running.close()
        return running

    first = sampled(temperature=0.2, dry_sequence_breakers=("x",), seed=7)
    assert first.sampling == Sampling(temperature=0.2, dry_sequence_breakers=("x",), seed=7)
    kept = {"temperature": 0.2, "dry_sequence_breakers": ["x"]}
    assert Profiles().list()[0].sampling == kept
    assert main(["--profiles"]) == 0
    assert "temperature 0.2, dry_sequence_breakers 'x'" in capsys.readouterr().out
    again = sampled(top_k=3)
    assert again.sampling == Sampling(temperature=0.2, dry_sequence_breakers=("x",), top_k=3)
    assert "temperature 0.2" in (report := again.report_text(80))
    assert "(from the profile)" in report
    assert Profiles().forget(tiny_model) == 1
    assert sampled().sampling == Sampling()


def test_the_faster_number_of_threads_is_tried_once(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a load of which nobody said how many; from then on it is what is asked for, on as many
    cores. Where it cannot be told, the next load tries again."""
    monkeypatch.setattr(devices, "measure", lambda **_: machine())
    monkeypatch.setattr(devices, "other_threads", lambda: 16)
    asked: list[tuple[int, int]] = []

    def load(faster_threads: int) -> Running:
        start = launcher(tiny_model, tmp_path, faster_threads=faster_threads)
        start.request = replace(start.request, threads=None)
        _, running = run(start.start())
        running.close()
        request = Tuning.of(start.request).load_request(running.settings)
        asked.append((request.n_threads, request.other_threads))
        return running

    load(0)
    assert load(16).tuning.threads == 16
    load(0)
    assert asked == [(8, 16), (16, 0), (16, 0)]
    assert Profiles().machine_facts().faster_threads == {"8": 16}
    monkeypatch.setattr(devices, "measure", lambda **_: replace(machine(), physical_cores=4))
    load(0)
    assert asked[-1] == (4, 16)


def test_threads_are_not_tried_where_nobody_asks(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their number is stated, nothing is to be kept, or the GPUs compute everything."""
    monkeypatch.setattr(devices, "measure", lambda **_: machine(gpu(8)))
    monkeypatch.setattr(devices, "other_threads", lambda: 16)
    free = LaunchRequest(tiny_model)
    for request, layers, tried in (
        (free, 1, 16), (free, 99, 0), (replace(free, threads=4), 1, 0),
        (replace(free, use_profile=False), 1, 0), (replace(free, cores=8), 1, 0),
    ):  # fmt: skip
        load = Tuning.of(request).load_request(Settings(4096, n_gpu_layers=layers))
        assert load.other_threads == tried


def test_what_one_model_teaches_is_counted_on_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that decodes at half of what is computed, and reads prompts at twice that: so the
    first prediction of another model says, and --forget-machine undoes it."""
    monkeypatch.setattr(devices, "measure", lambda **_: machine())
    first, second = (tiny_llama(tmp_path / f"{n}.gguf", n_layer=n) for n in (2, 3))
    running = loaded(first, tmp_path)
    settings, solver = running.settings, running.tuning.solver
    before = Tuning.of(LaunchRequest(second, threads=1)).plan().chosen.speed
    decode, prompt = solver.decode_seconds(settings, 0), solver.prompt_seconds(settings, 1, 0)
    running.learn_speed([Timed(0, 1, 2 * decode, 1.0)], [Timed(0, 1, prompt / 2, 1.0)])
    taught = Tuning.of(LaunchRequest(second, threads=1))
    assert taught.machine.host.pace.decode == pytest.approx(0.5, rel=0.02)
    assert taught.machine.host.pace.prompt == pytest.approx(2.0, rel=0.02)
    after = taught.plan().chosen.speed
    assert after.decode_tps_at[0] == pytest.approx(before.decode_tps_at[0] / 2, rel=0.03)
    assert after.prompt_tps > 1.5 * before.prompt_tps
    assert main(["--forget-machine"]) == 0
    assert Tuning.of(LaunchRequest(second, threads=1)).plan().chosen.speed == before


@pytest.mark.parametrize("change", ["engine", "formula", "stated"])
def test_paces_hold_for_the_engine_and_the_formula_that_they_are_of(
    change: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for this machine, not for one that is described."""
    monkeypatch.setattr(devices, "measure", lambda **_: machine())
    running = loaded(tiny_model, tmp_path)
    seconds = running.tuning.solver.decode_seconds(running.settings, 0)
    running.learn_speed([Timed(0, 1, 2 * seconds, 1.0)], [])
    request = LaunchRequest(tiny_model, threads=1)
    assert Tuning.of(request).machine.host.pace.decode == pytest.approx(0.5, rel=0.02)
    if change == "engine":
        Profiles().learn(lambda facts: replace(facts, engine_version="0.0.1"))
    elif change == "formula":
        Profiles().learn(lambda facts: replace(facts, speed_formula=0))
    else:
        request = replace(request, cores=8)
    assert Tuning.of(request).machine.host.pace.decode == 1.0


def test_a_model_s_speed_counts_where_a_gpu_is_left_out(tmp_path: Path) -> None:
    """Of two cards the plan uses one; what was measured then is what the next plan of both says."""
    model, where = giant(LLAMA_8B), machine(gpu(12), gpu(1.2, 1, bandwidth=20e9))
    where = replace(where, engine_version=ENGINE_VERSION)

    def tuning() -> Tuning:
        return Tuning(LaunchRequest(model.path), model, where, Profiles(tmp_path))

    first = tuning()
    plan = first.plan()
    assert [card.id for card in plan.machine.gpus] == ["GPU0"]
    actual = first.lessons.learn(plan, (), True, (None,))
    first.lessons.remember_speed(plan, replace(actual, decode_tps=7.0, decode_depth=0))
    again = tuning().plan().chosen
    assert again.settings == plan.chosen.settings
    assert again.speed.source == "measured"
    assert again.speed.decode_tps_at[0] == pytest.approx(7.0)


def test_a_model_is_predicted_by_its_own_speed_at_any_depth(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured at one depth is predicted there, and less at a deeper one."""
    monkeypatch.setattr(devices, "measure", lambda **_: machine())
    running = loaded(tiny_model, tmp_path)
    running.learn_speed([Timed(1000, 100, 2.0, 1.0)], [Timed(0, 512, 1.0, 1.0)])
    again = Tuning.of(LaunchRequest(tiny_model, threads=1))
    assert again.predicted_tps(running.settings, "decode", Timed(1000, 100, 1.0, 1.0)) == (
        pytest.approx(50.0)
    )
    assert again.predicted_tps(running.settings, "decode", Timed(3000, 100, 1.0, 1.0)) < 50.0
    assert again.predicted_tps(running.settings, "prompt", Timed(0, 512, 1.0, 1.0)) == (
        pytest.approx(512.0, rel=0.01)
    )
