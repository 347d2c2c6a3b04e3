"""`kvchat MODEL --measure`: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.giants import LLAMA_8B, giant_path
from tests.support.scripted_worker import scripted_worker
from tui.command.cli import main
from tuner.engine import client as engine_client
from tuner.machine.machine import Machine

MODEL = str(giant_path(LLAMA_8B))


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, pretend: Machine) -> None:
    monkeypatch.setattr(engine_client, "WORKER_COMMAND", scripted_worker())


@pytest.mark.usefixtures("scripted")
def test_a_table_and_a_plot(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([MODEL, "--measure"]) == 0
    out, err = capsys.readouterr()
    assert "q8_0 / q8_0" in out
    assert "Perplexity with f16: 12.00." in out
    assert "size of the cache, of f16" in out
    assert err == (
        "kvchat: what was measured is kept in the profile, and plans go by it from now on\n"
    )


@pytest.mark.usefixtures("scripted")
def test_json_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "own.txt"
    text.write_text("Höre! " * 200, "utf-8")
    flags = ("--measure", "--json", "--text", str(text), "--tokens", "64", "--no-profile")
    assert main([MODEL, *flags]) == 0
    out, err = capsys.readouterr()
    got = json.loads(out)
    assert (got["text"], got["n_tokens"]) == ("own.txt", 64)
    assert err == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b" \n\n ", "is empty"),
        (b"\xff\xfe\x00a", "no text in UTF-8"),
        (b"a\x00b", "no text"),
    ],
)
def test_a_text_that_cannot_be_read(
    content: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    assert main([MODEL, "--measure", "--text", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_a_folder_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([MODEL, "--measure", "--text", str(tmp_path)]) == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.usefixtures("scripted")
def test_a_text_that_is_too_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "text.txt"
    path.write_text("Too short.")
    assert main([MODEL, "--measure", "--text", str(path)]) == 2
    assert capsys.readouterr().err == "kvchat: the text has 10 tokens.\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--text", "a.txt"), "go with --measure"),
        (("--tokens", "64"), "go with --measure"),
        (("--measure", "--explain"), "a run of its own"),
        (("--measure", "--bench"), "--bench is a run of its own"),
        (("--measure", "-p", "Hello"), "a run of its own"),
        (("--measure", "--tokens", "few"), "few"),
        (("--measure", "--tokens", "0"), "--tokens can be"),
        (("--measure", "--vram", "24GiB"), "runs the model"),
    ],
)
def test_wrong_usage(
    flags: tuple[str, ...], said: str, pretend: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([MODEL, *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
