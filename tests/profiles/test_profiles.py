"""What is remembered: written whole, read back as it was, and never a reason to crash."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuner.memory.cache_losses import CacheLosses, PairLoss
from tuner.memory.cache_types import CACHE_TYPES
from tuner.memory.footprint import Buffer, DeviceUse
from tuner.profiles.profiles import MachineFacts, Profile, Profiles, config_folder, write_atomically
from tuner.sampling import remembered
from tuner.settings import Settings
from tuner.units import MIB

PROFILE = Profile(
    fingerprint="llama:5f2c",
    model_name="SmolLM2 135M Instruct",
    model_path="/models/smollm2.gguf",
    settings=Settings(n_ctx=8192, type_k="q8_0", type_v="q4_0", tensor_split=(3.0, 1.0)),
    wishes={"n_ctx": 8192, "type_k": None, "prefer": "balanced"},
    predicted=(DeviceUse("GPU0", weights=100 * MIB, kv_cache=24 * MIB), DeviceUse("host")),
    predicted_decode_tps=81.5,
    buffers=(Buffer("CUDA0", "weights", 100 * MIB), Buffer("CUDA0", "compute", 17 * MIB)),
    gpu_taken={"GPU0": 420 * MIB},
    decode_tps=79.25,
    engine_version="0.3.1",
    saved_at="2026-11-22T16:00:00+00:00",
    losses=CacheLosses(
        pairs=(PairLoss("q8_0", "q4_0", 0.0107, 0.009, 0.0124, 0.93, 71.5),),
        noise=0.0045,
        perplexity=17.25,
        n_tokens=512,
        text="own.txt",
        engine_version="0.3.1",
    ),
)


@pytest.fixture
def profiles(tmp_path: Path) -> Profiles:
    return Profiles(tmp_path / "config", machine="desk")


def only_file(profiles: Profiles) -> Path:
    (path,) = (profiles.folder / "profiles").iterdir()
    return path


# ---------------------------------------------------------------- remembering


def test_a_saved_profile_is_loaded_again(profiles: Profiles) -> None:
    assert profiles.save(PROFILE)
    assert profiles.load(PROFILE.fingerprint) == replace(PROFILE, machine="desk")
    assert profiles.load("another") is None
    assert profiles.warnings == []


def test_the_file_is_readable_by_people(profiles: Profiles) -> None:
    profiles.save(replace(PROFILE, model_name="Größe ../../etc/passwd"))
    path = only_file(profiles)
    assert path.parent == profiles.folder / "profiles"
    text = path.read_text(encoding="utf-8")
    assert "\n" in text
    assert "Größe" in text
    assert json.loads(text)["settings"]["type_v"] == "q4_0"


def test_saving_again_replaces(profiles: Profiles) -> None:
    profiles.save(PROFILE)
    profiles.save(replace(PROFILE, model_name="Renamed", decode_tps=90.0))
    found = profiles.load(PROFILE.fingerprint)
    assert found is not None
    assert (found.model_name, found.decode_tps) == ("Renamed", 90.0)
    assert len(profiles.list()) == 1


def test_machines_that_share_a_folder_do_not_share_profiles(profiles: Profiles) -> None:
    laptop = Profiles(profiles.folder, machine="laptop")
    profiles.save(PROFILE)
    assert laptop.load(PROFILE.fingerprint) is None
    laptop.save(PROFILE)
    assert [p.machine for p in profiles.list()] == ["desk", "laptop"]


def test_the_time_of_saving_is_filled_in(profiles: Profiles) -> None:
    profiles.save(replace(PROFILE, saved_at=""))
    assert profiles.list()[0].saved_at.startswith("20")


def test_an_older_profile_without_newer_settings_still_loads(profiles: Profiles) -> None:
    profiles.save(PROFILE)
    path = only_file(profiles)
    body = json.loads(path.read_text(encoding="utf-8"))
    del body["settings"]["use_extra_bufts"], body["gpu_taken"]
    body["added_later"] = {"x": 1}
    path.write_text(json.dumps(body), encoding="utf-8")
    found = profiles.load(PROFILE.fingerprint)
    assert found is not None
    assert found.settings == PROFILE.settings
    assert found.gpu_taken == {}


def test_sampling_is_kept_and_bounded(profiles: Profiles) -> None:
    """A value that makes no sense is damage; a name that is not known is another version's."""
    sampling = {"temperature": 0.5, "samplers": ["top_k"], "added_later": {"x": 1}}
    profiles.save(replace(PROFILE, sampling=sampling))
    found = profiles.load(PROFILE.fingerprint)
    assert found is not None
    assert found.sampling == sampling
    assert remembered(found.sampling) == {"temperature": 0.5, "samplers": ("top_k",)}
    profiles.save(replace(PROFILE, sampling={"temperature": 1e9}))
    assert profiles.load(PROFILE.fingerprint) is None
    assert "damaged" in profiles.warnings[0]


@pytest.mark.parametrize(
    "model",
    [
        PROFILE.fingerprint,
        PROFILE.model_name,
        PROFILE.model_path,
        "/models/x/../smollm2.gguf",
    ],
)
def test_forget_by_fingerprint_name_or_path(profiles: Profiles, model: str) -> None:
    profiles.save(PROFILE)
    profiles.save(replace(PROFILE, fingerprint="b", model_name="B", model_path="/models/b.gguf"))
    assert profiles.forget(model) == 1
    assert [p.fingerprint for p in profiles.list()] == ["b"]
    assert profiles.forget(model) == 0


def test_an_empty_folder_is_no_problem(profiles: Profiles) -> None:
    assert profiles.list() == ()
    assert profiles.load("x") is None
    assert profiles.forget("x") == 0
    assert profiles.machine_facts() == MachineFacts()
    assert not profiles.folder.exists(), "reading creates nothing"


# ---------------------------------------------------------------- the machine


def test_facts_about_the_machine_accumulate(profiles: Profiles) -> None:
    assert profiles.learn(lambda facts: replace(facts, use_extra_bufts=False))
    assert profiles.learn(lambda facts: replace(facts, overheads={"GPU-1": (287 * MIB,)}))
    facts = Profiles(profiles.folder, machine="desk").machine_facts()
    assert facts.use_extra_bufts is False
    assert facts.overheads == {"GPU-1": (287 * MIB,)}
    assert facts.saved_at
    assert Profiles(profiles.folder, machine="laptop").machine_facts() == MachineFacts()


def test_the_folder_comes_from_the_environment(tmp_path: Path) -> None:
    assert config_folder({"KVCHAT_CONFIG_DIR": str(tmp_path)}) == tmp_path
    assert config_folder({}).name == "kvchat"


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"schema": "1"}',
        '{"schema": true}',
        '{"schema": 1}',
        "[" * 100_000,
        "\udcff",
        '{"schema": 1, "x": "' + "y" * (1 << 20) + '"}',
    ],
)
def test_a_damaged_profile_is_set_aside(profiles: Profiles, text: str) -> None:
    profiles.save(PROFILE)
    path = only_file(profiles)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))

    assert profiles.load(PROFILE.fingerprint) is None

    assert [p.name for p in path.parent.iterdir()] == [path.name + ".bad"]
    (warning,) = profiles.warnings
    assert path.name in warning
    assert profiles.save(PROFILE), "and a new one can be written"
    assert profiles.load(PROFILE.fingerprint) is not None


PAIR = asdict(PairLoss("q8_0", "q8_0", 0.1, 0.1, 0.1, 0.9, 10.0))
MEASURED = {"noise": 0.004, "perplexity": 12.0, "n_tokens": 512}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fingerprint", 5),
        ("settings", []),
        ("settings", {}),
        ("settings", {"n_ctx": "8192"}),
        ("settings", {"n_ctx": True}),
        ("settings", {"n_ctx": 1, "tensor_split": ["a"]}),
        ("settings", {"n_ctx": 1, "swa_full": 0}),
        ("predicted", [5]),
        ("predicted", [{"device": "GPU0", "weights": 1.5}]),
        ("buffers", [{"device": "CUDA0"}]),
        ("gpu_taken", {"GPU0": "1"}),
        ("decode_tps", "fast"),
        ("decode_tps", float("nan")),
        ("decode_tps", float("inf")),
        ("decode_tps", 10**400),
        ("saved_at", None),
        ("settings", {"n_ctx": 0}),
        ("settings", {"n_ctx": 2**32}),
        ("settings", {"n_ctx": 1, "n_ubatch": 0}),
        ("settings", {"n_ctx": 1, "n_ubatch": -1}),
        ("settings", {"n_ctx": 1, "n_gpu_layers": -1}),
        ("settings", {"n_ctx": 1, "n_cpu_moe": 2**31}),
        ("settings", {"n_ctx": 1, "type_k": "x"}),
        ("losses", {"pairs": [{**PAIR, "loss": -0.1}], **MEASURED}),
        ("losses", {"pairs": [{**PAIR, "type_k": "x"}], **MEASURED}),
        ("losses", {"pairs": [{**PAIR, "same_top": 1.1}], **MEASURED}),
        ("losses", {"pairs": [{**PAIR, "decode_tps": 0}], **MEASURED}),
        ("losses", {"pairs": [PAIR, PAIR], **MEASURED}),
        ("losses", {"pairs": [PAIR], **MEASURED, "perplexity": 0.5}),
        ("losses", {"pairs": [PAIR], **MEASURED, "n_tokens": 0}),
        ("settings", {"n_ctx": 1, "type_v": "f64"}),
        ("settings", {"n_ctx": 1, "flash_attn": "maybe"}),
        ("settings", {"n_ctx": 1, "tensor_split": [0.0, 0.0]}),
        ("settings", {"n_ctx": 1, "tensor_split": [1.0, -1.0]}),
        ("predicted", [{"device": "GPU0", "weights": -1}]),
        ("buffers", [{"device": "CUDA0", "kind": "weights", "size": 2**63}]),
        ("decode_tps", 0),
        ("decode_tps", -1.0),
        ("prompt_tps", 5e-324),
        ("prompt_tps", 1e299),
    ],
)
def test_a_value_of_another_type_or_out_of_bounds_is_damage(
    profiles: Profiles, key: str, value: Any
) -> None:
    profiles.save(PROFILE)
    path = only_file(profiles)
    body = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**body, key: value}), encoding="utf-8")
    assert profiles.list() == ()
    assert "damaged" in profiles.warnings[0]


def test_a_newer_profile_is_left_alone(profiles: Profiles) -> None:
    profiles.save(PROFILE)
    path = only_file(profiles)
    newer = path.read_text(encoding="utf-8").replace('"schema": 1', '"schema": 2')
    path.write_text(newer, encoding="utf-8")
    assert profiles.load(PROFILE.fingerprint) is None
    assert path.read_text(encoding="utf-8") == newer
    assert "newer kvchat" in profiles.warnings[0]


@pytest.mark.parametrize(
    "facts",
    [
        {"host_bandwidth": 0},
        {"host_bandwidth": -1},
        {"host_bandwidth": 1e-300},
        {"host_bandwidth": 1e200},
        {"overheads": {"GPU-1": [-1]}},
        {"overheads": {"GPU-1": [2**50]}},
        {
            "growths": {
                "GPU-1": [
                    {"model": "m", "model_bytes": 1, "experts": True, "n_ubatch": 0, "sizes": [1]}
                ]
            }
        },
        {"use_extra_bufts": 1},
    ],
)
def test_facts_out_of_bounds_are_set_aside(profiles: Profiles, facts: dict[str, Any]) -> None:
    profiles.learn(lambda known: known)
    path = profiles.folder / "machine-desk.json"
    path.write_text(json.dumps({"schema": 1, **facts}), encoding="utf-8")
    assert profiles.machine_facts() == MachineFacts()
    assert "damaged" in profiles.warnings[0]


def test_damaged_facts_are_set_aside(profiles: Profiles) -> None:
    profiles.learn(lambda facts: facts)
    (profiles.folder / "machine-desk.json").write_text("{", encoding="utf-8")
    assert profiles.machine_facts() == MachineFacts()
    assert (profiles.folder / "machine-desk.json.bad").exists()


@settings(
    deadline=None,
    derandomize=True,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_a_file_changed_anywhere_never_raises(profiles: Profiles, data: st.DataObject) -> None:
    profiles.save(PROFILE)
    path = next((profiles.folder / "profiles").glob("*.json"))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    profiles.load(PROFILE.fingerprint)
    profiles.list()
    profiles.forget("nothing")


_text = st.text(max_size=20)  # a path may hold halves of surrogate pairs
_size = st.integers(0, 2**60)
_speed = st.none() | st.floats(1e-6, 1e12)


@settings(
    deadline=None,
    derandomize=True,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.builds(
        Profile,
        fingerprint=_text,
        model_name=_text,
        model_path=_text,
        settings=st.builds(
            Settings,
            n_ctx=st.integers(1, 2**32 - 1),
            type_k=st.sampled_from([*CACHE_TYPES]),
            tensor_split=st.lists(st.floats(0.01, 100), max_size=3).map(tuple),
            n_gpu_layers=st.integers(0, 999),
            swa_full=st.booleans(),
        ),
        wishes=st.dictionaries(_text, st.none() | st.integers() | _text | st.booleans()),
        predicted=st.lists(st.builds(DeviceUse, _text, _size, _size), max_size=2).map(tuple),
        predicted_decode_tps=_speed,
        buffers=st.lists(st.builds(Buffer, _text, _text, _size), max_size=2).map(tuple),
        gpu_taken=st.dictionaries(_text, _size),
        prompt_tps=_speed,
        engine_version=_text,
        saved_at=st.just("2026-01-01T00:00:00+00:00"),
    )
)
def test_every_profile_survives_the_file(tmp_path: Path, profile: Profile) -> None:
    profiles = Profiles(tmp_path, machine="desk")
    assert profiles.save(profile)
    assert profiles.load(profile.fingerprint) == replace(profile, machine="desk")
    assert profiles.warnings == []


# ---------------------------------------------------------------- writing


def _refuse(*_: Any) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("step", ["replace", "fsync", "fdopen"])
def test_a_failed_write_leaves_the_old_profile(
    profiles: Profiles, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    profiles.save(PROFILE)
    with monkeypatch.context() as patch:
        patch.setattr(os, step, _refuse)
        assert not profiles.save(replace(PROFILE, decode_tps=1.0))

    assert "could not be saved" in profiles.warnings[0]
    assert profiles.load(PROFILE.fingerprint) == replace(PROFILE, machine="desk")
    assert only_file(profiles), "and no temporary file stays"


def test_a_file_in_use_is_tried_again(profiles: Profiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses to replace a file while another program reads it."""
    real, calls = os.replace, []

    def busy_twice(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) < 3:
            raise PermissionError(13, "in use")
        real(source, target)

    monkeypatch.setattr(os, "replace", busy_twice)
    assert profiles.save(PROFILE)
    assert len(calls) == 3


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("a file where the folder should be")
    profiles = Profiles(tmp_path / "config", machine="desk")
    assert not profiles.save(PROFILE)
    assert not profiles.learn(lambda facts: facts)
    assert profiles.load(PROFILE.fingerprint) is None
    assert len(profiles.warnings) >= 1


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[list[Any]]:
    context = multiprocessing.get_context("spawn")
    running = [context.Process(target=_write_often, args=(tmp_path, letter)) for letter in "ab"]
    for process in running:
        process.start()
    yield running
    for process in running:
        process.join(20)


def _write_often(folder: Path, letter: str) -> None:
    for _ in range(100):
        write_atomically(folder / "shared.json", json.dumps({"who": letter * 5000}))


def test_two_writers_never_mix(tmp_path: Path, writers: list[Any]) -> None:
    """While two programs write the same file, a reader always meets one whole version."""
    seen = set()
    while any(process.is_alive() for process in writers):
        try:
            text = (tmp_path / "shared.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        who = json.loads(text)["who"]
        assert who in ("a" * 5000, "b" * 5000)
        seen.add(who[0])
    assert seen
    assert [process.exitcode for process in writers] == [0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["shared.json"]
