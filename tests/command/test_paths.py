"""A model goes by the path of its first part, whatever bytes that has, on every way it takes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.gguf_files import tiny_llama, tiny_split
from tests.support.launches import launcher, run
from tui.command import one_shot
from tui.command.cli import main
from tuner.engine.protocol import Failed, Load, decode, encode
from tuner.errors import EngineError
from tuner.launch import Retry
from tuner.machine.machine import Machine
from tuner.profiles.profiles import Profiles
from tuner.settings import Settings
from tuner.tuning import Tuning
from tuner.wishes import LaunchRequest, StatedGpu

MACHINE = ("--vram", "24GiB", "--ram", "64GiB")


@pytest.fixture(params=["plain", "spaces ü Ж", "b\udcff\udc80"])
def parts(tmp_path: Path, request: pytest.FixtureRequest) -> list[Path]:
    if sys.platform != "linux" and "\udcff" in request.param:
        pytest.skip("names are characters here")
    folder = tmp_path / request.param
    folder.mkdir()
    return tiny_split(folder, request.param, 3)


@pytest.fixture(autouse=True)
def _no_input(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        yield


@pytest.mark.parametrize("given", [0, 1, 2])
def test_what_is_loaded_is_the_first_part(parts: list[Path], given: int) -> None:
    tuning = Tuning.of(LaunchRequest(parts[given], gpus=(StatedGpu(8 << 30),), ram=8 << 30))
    asked = tuning.load_request(Settings(512))
    assert Path(asked.path) == parts[0]
    assert decode(encode(asked, 3)) == (3, asked)


def test_a_launch_goes_by_the_first_part(
    parts: list[Path], tmp_path: Path, pretend: Machine
) -> None:
    """The model process hears of no other, the launcher and the profile neither."""
    start = launcher(parts[2], tmp_path)
    _, running = run(start.start())
    running.close()
    assert start.path == running.model.path == parts[0]
    profiles = Profiles()
    (saved,) = profiles.list()
    assert Path(saved.model_path) == parts[0].resolve()
    assert profiles.warnings == []


def test_a_death_over_a_later_part_is_no_change_of_the_file(
    parts: list[Path], tmp_path: Path, pretend: Machine
) -> None:
    start = launcher(parts[1], tmp_path, die_in="load", die_by="SIGABRT")
    told: list[object] = []
    with pytest.raises(EngineError):
        told.extend(start.start())
    start.client.close()
    assert told
    assert not [e for e in told if isinstance(e, Retry) and "changed" in e.reason]


def test_the_report_has_one_row_and_its_path(
    parts: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    args = [*map(os.fspath, parts), "--explain", *MACHINE]
    assert main([*args, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.isascii(), "whatever the stream can carry"
    assert Path(json.loads(line)["model"]["path"]) == parts[0]
    assert main(args[1:]) == 0
    assert "Chosen" in capsys.readouterr().out, "one model has a report, not an overview"


def test_an_error_has_the_path_that_was_given(
    parts: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    parts[1].unlink()
    assert main([str(parts[0]), str(parts[2]), "--explain", "--json", *MACHINE]) == 3
    (line,) = capsys.readouterr().out.splitlines()
    assert Path(json.loads(line)["path"]) == parts[0]


def test_parts_that_are_named_together_open_one_chat(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[LaunchRequest] = []

    def answer(request: LaunchRequest, *args: object, **kwargs: object) -> int:
        asked.append(request)
        return 0

    monkeypatch.setattr(one_shot, "answer", answer)
    assert main([*map(os.fspath, parts[1:]), "-p", "hi"]) == 0
    assert [request.path for request in asked] == [parts[0]]
    other = tiny_llama(tmp_path / "other.gguf")
    assert main([str(other), *map(os.fspath, parts), "-p", "hi"]) == 2


def test_a_profile_is_forgotten_by_any_part(
    parts: list[Path], tmp_path: Path, pretend: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    _, running = run(launcher(parts[0], tmp_path).start())
    running.close()
    assert main(["--forget", str(parts[1])]) == 0
    assert "Forgot 1 profile" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["\udcff", "\ud83d alone", "ü\udc80\x00\x1b"])
def test_the_wire_carries_every_path(text: str) -> None:
    load = Load(f"/models/{text}.gguf", Settings(512), 1)
    for message in (load, replace(load, fingerprint=text), Failed("load_failed", text)):
        line = encode(message)
        assert line.count(b"\n") == 1
        line.decode("utf-8")
        assert decode(line) == (0, message)
