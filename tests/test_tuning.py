"""One model on one machine: what is remembered is put to use, or planned again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.gguf_files import tiny_llama
from tests.support.giants import LLAMA_8B, giant_path, gpu, machine
from tests.support.launches import launcher, loaded, run
from tests.support.scripted_worker import scripted_worker
from tui.command.cli import main
from tuner import tuning
from tuner.engine.client import EngineClient
from tuner.engine.protocol import Load, Loaded, Progress
from tuner.engine_version import ENGINE_VERSION
from tuner.errors import NoFitError
from tuner.gguf import part
from tuner.machine import measure as devices
from tuner.machine.machine import Machine
from tuner.machine.usable import Beside
from tuner.machine.usable import usable as usable_gpus
from tuner.model.model import Model
from tuner.planning.plan import Plan
from tuner.planning.solver import Solver
from tuner.profiles.profiles import MachineFacts, Profile, Profiles
from tuner.tuning import Tuning
from tuner.units import MIB
from tuner.wishes import LaunchRequest, StatedGpu


def test_a_profile_that_still_fits_is_kept(
    tiny_model: Path, tmp_path: Path, pretend: Machine
) -> None:
    """Other settings that were saved, fit and are about as good stay, and the report says so."""
    loaded(tiny_model, tmp_path)
    profiles = Profiles()
    profile = profiles.list()[0]
    assert profile.settings
    other = replace(profile.settings, n_ubatch=256)
    profiles.save(replace(profile, settings=other, saved_at=""))
    again = loaded(tiny_model, tmp_path)
    assert again.plan.chosen.settings == other
    assert "kept as saved" in " ".join(again.plan.reasons)


def test_a_profile_that_no_longer_fits_is_planned_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less memory than when it was saved: a new plan, and the reason shown."""
    monkeypatch.setattr(devices, "measure", lambda **_: machine(gpu(8)))
    path = giant_path(LLAMA_8B)
    running = loaded(path, tmp_path)
    monkeypatch.setattr(devices, "measure", lambda **_: machine(gpu(4)))
    again = loaded(path, tmp_path)
    assert again.plan.chosen.fits
    assert again.plan.chosen.settings != running.plan.chosen.settings
    assert "no longer fits" in " ".join(again.plan.reasons)


def test_a_profile_of_other_gpus_is_planned_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers saved for a GPU are not asked of a machine that has none now."""
    monkeypatch.setattr(devices, "measure", lambda **_: machine(gpu(8)))
    path = giant_path(LLAMA_8B)
    loaded(path, tmp_path)
    monkeypatch.setattr(devices, "measure", lambda **_: machine())
    again = loaded(path, tmp_path)
    assert again.settings.n_gpu_layers == 0
    assert "other GPUs" in " ".join(again.plan.reasons)


def test_a_gpu_that_others_have_filled_is_left_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card without room is named as left out, also to the engine, and the model runs on the
    CPU instead of not at all."""
    full = replace(gpu(24), free=700 * MIB)
    kept, unusable = usable_gpus((full, gpu(24, 1)), machine().host)
    assert [g.id for g in kept] == ["GPU1"]
    assert [g.id for g in unusable] == ["GPU0"]
    where = replace(machine(), unusable=unusable)
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


# ------------------------------------------------------------------ nothing is done twice


def test_one_header_and_one_solver_per_launch(
    tiny_model: Path, tmp_path: Path, pretend: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the command line to the answer, with and without a profile to hold the plan against.
    The machine without its GPU, which the tiny model hardly uses, is weighed by one of its own.
    A later start of the same launcher reads the file again: it may be another by then."""
    monkeypatch.setattr(
        "tuner.launch.launcher.EngineClient",
        lambda: EngineClient(tmp_path / "engine.log", command=scripted_worker(text="word " * 50)),
    )  # fmt: skip
    made: list[str] = []
    read_part, build = part.read_part, Solver.__init__

    def reading(path: Path) -> part.Part:
        made.append("header")
        return read_part(path)

    def building(self: Solver, model: Model, where: Machine) -> None:
        made.append(f"solver for {len(where.gpus)} GPUs")
        build(self, model, where)

    monkeypatch.setattr("tuner.gguf.header.read_part", reading)
    monkeypatch.setattr("sys.stdin", None)
    monkeypatch.setattr(Solver, "__init__", building)
    once = ["header", "solver for 0 GPUs", "solver for 1 GPUs"]
    for _ in range(2):
        assert main([str(tiny_model), "-p", "Hello?"]) == 0
        assert sorted(made) == once
        made.clear()
    assert Profiles().list()[0].decode_tps
    start = launcher(tiny_model, tmp_path)
    for _ in range(2):
        run(start.start())
        assert sorted(made) == once
        made.clear()
    start.client.close()


# ------------------------------------------------------------------ other engines


@pytest.fixture
def saved(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """A profile, on a machine without GPUs, of settings that nobody would choose afresh and a
    speed that nobody would predict."""
    monkeypatch.setattr(devices, "measure", lambda **_: machine())
    loaded(tiny_model, tmp_path)
    (profile,) = Profiles().list()
    assert profile.settings
    odd = replace(profile.settings, n_ubatch=256)
    return replace(profile, settings=odd, decode_tps=1.0, prompt_tps=1.0)


def planned(path: Path) -> Plan:
    return Tuning.of(LaunchRequest(path, threads=1)).plan()


@pytest.mark.parametrize("stated", [None, 1])
def test_threads_that_were_asked_for_are_kept_on_a_busy_machine(
    stated: int | None, tiny_model: Path, pretend: Machine
) -> None:
    made = Tuning.of(LaunchRequest(tiny_model, threads=stated))
    asked = made.load_request(made.plan().chosen.settings)
    assert asked.n_threads == (stated or pretend.physical_cores)
    assert asked.exact_threads is (stated is not None)


def test_the_threads_of_a_stated_machine_are_not_asked_of_this_one(tiny_model: Path) -> None:
    """The plan goes by 4,096 cores, the engine, should it be asked, by those that are here."""
    made = Tuning.of(LaunchRequest(tiny_model, gpus=(), cores=4096))
    assert made.machine.physical_cores == 4096
    assert made.load_request(made.plan().chosen.settings).n_threads == os.cpu_count()


@pytest.mark.parametrize("made_by", [ENGINE_VERSION, f"{ENGINE_VERSION}+cu124"])
@pytest.mark.parametrize("installed", [ENGINE_VERSION, f"{ENGINE_VERSION}+metal", None])
def test_a_profile_of_the_same_engine_is_kept(
    tiny_model: Path, saved: Profile, made_by: str, installed: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Whatever it was built for. Without an engine, plans are for the one that is known."""
    monkeypatch.setattr(tuning, "installed_engine_version", lambda: installed)
    Profiles().save(replace(saved, engine_version=made_by))
    plan = planned(tiny_model)
    assert plan.chosen.settings == saved.settings
    assert plan.chosen.speed.source == "measured"
    assert plan.chosen.footprint.source == "computed"
    assert not plan.warnings


@pytest.mark.parametrize(
    "made_by", ["0.3.35", "99.0", f"{ENGINE_VERSION}0", "", "?\x1b[31m\n" * 99, "+cu1"]
)
@pytest.mark.parametrize("installed", [ENGINE_VERSION, None])
def test_a_profile_of_another_engine_is_planned_again(
    tiny_model: Path, saved: Profile, made_by: str, installed: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Neither its settings nor its speeds are believed, and one plain sentence says so."""
    monkeypatch.setattr(tuning, "installed_engine_version", lambda: installed)
    Profiles().save(replace(saved, engine_version=made_by))
    plan = planned(tiny_model)
    assert plan.chosen.settings != saved.settings
    assert plan.chosen.speed.source == "computed"
    (why,) = (r for r in plan.reasons if "another engine" in r)
    assert saved.saved_at[:10] in why
    assert why.isprintable()
    assert len(why) < 200


def test_what_is_missing_is_not_talked_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing fits, the last word is by how much, whatever was saved or learned."""
    monkeypatch.setattr(devices, "measure", lambda **_: machine(gpu(8)))
    path = giant_path(LLAMA_8B)
    loaded(path, tmp_path)
    (profile,) = Profiles().list()
    Profiles().save(replace(profile, engine_version="0.3.1"))
    Profiles().learn(lambda facts: replace(facts, use_extra_bufts=False))
    monkeypatch.setattr(devices, "measure", lambda **_: machine(ram=2))
    with pytest.raises(NoFitError, match=r"bytes\)") as raised:
        run(launcher(path, tmp_path).start())
    assert "repacked" not in str(raised.value)


def test_a_load_by_another_engine_replaces_what_the_first_taught(
    tiny_model: Path, tmp_path: Path, saved: Profile
) -> None:
    """Speeds of the old engine are not handed on to the profile of the new one."""
    fresh = planned(tiny_model).chosen.settings
    Profiles().save(replace(saved, settings=fresh, engine_version="0.3.1"))
    loaded(tiny_model, tmp_path)
    (profile,) = Profiles().list()
    assert (profile.engine_version, profile.decode_tps) == (ENGINE_VERSION, None)


def test_what_the_driver_takes_is_believed_of_the_same_engine(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other kernels take other memory, and what one engine died of another may have mended. Facts
    that name no engine are none of the driver's share, but no reason to die again."""
    asked: list[dict[str, Beside]] = []

    def measure(**known: dict[str, Beside]) -> Machine:
        asked.append(dict(known["beside"]))
        return machine(gpu(8))

    monkeypatch.setattr(devices, "measure", measure)
    facts = MachineFacts({"a card": (300 * MIB,)}, use_extra_bufts=False)
    for made_by in (ENGINE_VERSION, "0.3.1", ""):
        Profiles().learn(
            lambda _, by=made_by: replace(facts, engine_version=by)  # type: ignore[misc]
        )
        of_another = made_by == "0.3.1"
        assert planned(tiny_model).chosen.settings.use_extra_bufts is of_another
    assert asked == [{"a card": Beside(300 * MIB)}, {}, {}]


@pytest.mark.parametrize("installed", ["0.3.35", "99.0", "garbage"])
def test_an_engine_that_the_arithmetic_was_not_made_for(
    tiny_model: Path, tmp_path: Path, pretend: Machine, installed: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It is said once, sizes are called assumed until the dry run verifies them, and what this
    engine taught is kept for the next time."""
    monkeypatch.setattr(tuning, "installed_engine_version", lambda: installed)
    plan = planned(tiny_model)
    assert [installed in w for w in plan.warnings] == [True]
    sources = {c.footprint.source for c in (plan.chosen, *plan.alternatives, *plan.fallbacks)}
    assert sources == {"assumed"}
    running = loaded(tiny_model, tmp_path)
    assert running.plan.chosen.footprint.source == "dry run"
    assert [installed in w for w in running.warnings] == [True]
    (profile,) = Profiles().list()
    assert profile.engine_version == installed
    assert profile.settings
    Profiles().save(replace(profile, settings=replace(profile.settings, n_ubatch=256)))
    assert planned(tiny_model).chosen.settings.n_ubatch == 256


def test_no_engine_is_no_reason_not_to_plan(
    tiny_model: Path, pretend: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is warned of: nothing can be loaded either."""
    monkeypatch.setattr(tuning, "installed_engine_version", lambda: None)
    plan = planned(tiny_model)
    assert plan.chosen.footprint.source == "computed"
    assert not plan.warnings


def test_the_bandwidth_of_ram_is_measured_once_and_kept(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the first look at this machine; one that is stated, and --no-profile, ask nothing."""
    asked: list[float] = []

    def measured() -> float:
        asked.append(77e9)
        return 77e9

    monkeypatch.setattr(devices, "host_bandwidth", measured)
    stated = Tuning.of(LaunchRequest(tiny_model, ram=8 << 30, gpus=(StatedGpu(8 << 30),)))
    unkept = Tuning.of(LaunchRequest(tiny_model, use_profile=False))
    assert stated.machine.host.bandwidth_source == "assumed"
    assert unkept.machine.host.bandwidth_source == "assumed"
    assert not asked
    for _ in range(2):
        host = Tuning.of(LaunchRequest(tiny_model)).machine.host
        assert (host.bandwidth, host.bandwidth_source) == (77e9, "measured")
    assert len(asked) == 1
    assert Profiles().machine_facts().host_bandwidth == 77e9
