"""`kvchat MODEL --compare-log FILE`: what it prints, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.logs.test_compared import ENGINE
from tests.logs.test_loads import OLD
from tui.command.cli import main
from tuner.report.logged import compared_keys


def _run(log: Path, *flags: str) -> int:
    return main(["--demo", "--compare-log", str(log), *flags])


def test_a_table_for_each_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbered; one of another model is a sentence, and foreign text is no escape."""
    log = tmp_path / "\x1b[31mtwo.log"
    log.write_text(ENGINE.replace("10.0.0.1", "\x1b]0;title\x07") + OLD)
    assert _run(log) == 0
    out, err = capsys.readouterr()
    assert "Load 1 of 2, line 1: RPC0" in out
    assert "Load 2 of 2, line " in out
    assert "! It is of another model, with 40 layers instead of 30." in out
    row = next(line for line in out.splitlines() if line.split()[:2] == ["RPC1", "compute"])
    assert row.split()[2:] == ["98.25", "MiB", "98.25", "MiB", "exact"]
    assert "\x1b" not in out
    assert "\x07" not in out
    assert err == ""


def test_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object with the keys that docs/report.md lists."""
    log = tmp_path / "server.log"
    log.write_text(ENGINE)
    assert _run(log, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    [load] = told["loads"]
    named = {key.removesuffix("[]") for key, _ in compared_keys()}
    assert {*(k for k in told if k != "loads"), *(f"loads[].{k}" for k in load)} == named
    assert load["settings"]["tensor_split"] == [8, 4]
    assert all(figure["exact"] for figure in load["figures"])


def _folder(log: Path) -> None:
    log.mkdir()


def _holding(content: bytes) -> Callable[[Path], object]:
    return lambda log: log.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda log: None, "There is no log"),
        (_folder, "is a folder"),
        (_holding(b""), "is empty"),
        (_holding(b"GGUF\3\0\0\0\0"), "is no text"),
        (_holding(b"hello\n"), "none of the lines"),
        (_holding(OLD.encode()), "is of another model, with 40 layers instead of 30."),
    ],
)
def test_a_log_that_cannot_be_used(
    make: Callable[[Path], object], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence, status 3, nothing on stdout."""
    make(tmp_path / "the.log")
    assert _run(tmp_path / "the.log") == 3
    out, err = capsys.readouterr()
    assert said in err
    assert len(err.splitlines()) == 1
    assert out == ""


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--explain",), "a run of its own"),
        (("--vram", "24GiB"), "takes the machine from the log"),
        (("--ctx", "0"), "at least 1 token"),
        (("--compare-log", ""), "takes the path of a log"),
    ],
)
def test_what_makes_no_sense_with_it(
    flags: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "the.log"
    log.write_text(ENGINE)
    assert _run(log, *flags) == 2
    assert said in capsys.readouterr().err
