"""`kvchat MODEL --emit PROGRAM`: what it prints, where, and how it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.giants import AYA_35B, LLAMA_8B, QWEN_30B_A3B, giant_path
from tui.command.cli import main
from tuner.report.emit.targets import TARGETS

MACHINE = ("--vram", "24GiB", "--ram", "64GiB")


@pytest.fixture(autouse=True)
def _no_input(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        yield


def emitted(capsys: pytest.CaptureFixture[str], program: str, *flags: str) -> str:
    assert main([str(giant_path(LLAMA_8B)), "--emit", program, *MACHINE, *flags]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("program", TARGETS)
def test_it_prints_one_thing(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan on stdout, nothing on stderr, status 0."""
    out = emitted(capsys, program)
    assert str(giant_path(LLAMA_8B)) in out
    assert out.splitlines()[0][:2].strip() in ("#", "//")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--ctx", "4k"), "--ctx-size 4096"),
        (("--kv", "q8_0"), "--cache-type-v q8_0"),
        (("--gpu-layers", "7"), "--gpu-layers 7"),
        (("--threads", "1"), "--threads 1 --threads-batch 1"),
        (("--temp", "0.3", "--stop", r"\n"), r"--reverse-prompt '\n'"),
        (("--chat-template", "chatml"), "--chat-template chatml"),
        (("--prefer", "context"), "--ctx-size 131072"),
        (("--vram", "8GiB"), "--split-mode layer --tensor-split"),
        (("--cores", "12"), "--threads 12"),
    ],
)
def test_wishes_and_a_stated_machine_are_carried(
    flags: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in emitted(capsys, "llama-server", *flags)


def test_a_template_of_a_file_goes_by_its_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From wherever the command is run."""
    (tmp_path / "t.jinja").write_text("{{ messages[0].content }}")
    monkeypatch.chdir(tmp_path)
    out = emitted(capsys, "llama-server", "--chat-template", "t.jinja")
    assert f"--jinja --chat-template-file {tmp_path / 't.jinja'}" in out


def test_where_nothing_fits_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 4 and the sentence that a launch would end with."""
    args = [str(giant_path(AYA_35B)), "--emit", "ollama", "--vram", "1GiB", "--ram", "4GiB"]
    assert main(args) == 4
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "GiB" in err


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("--emit", "vllm"), "llama-server, llama-cli, llama-cpp-python, ollama, lmstudio"),
        (("--emit", "x" * 20_000), "--emit takes one of"),
        (("--emit",), "--emit"),
        (("--emit", "ollama", "--explain"), "leave out --explain."),
        (("--emit", "ollama", "-p", "Hello!"), "leave out --prompt."),
        (("--emit", "ollama", "--show-prompt"), "leave out --show-prompt."),
        (("--emit", "ollama", "--system", ""), "leave out --system."),
        (("--emit", "ollama", "--resume", "--think", "on"), "leave out --resume and --think."),
        (("--emit", "ollama", "--bench"), "--bench is a run of its own: leave out --emit."),
        (("--emit", "ollama", "--json"), "--json goes with"),
        (("MODEL", "--emit", "ollama"), "--emit takes one model"),
        (("--emit", "ollama", "--tensor-split", "3,1,1"), "--tensor-split"),
    ],
)
def test_wrong_usage_is_one_sentence(
    args: tuple[str, ...], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, a line on stderr that says what to do, nothing on stdout."""
    given = [str(giant_path(QWEN_30B_A3B)) if one == "MODEL" else one for one in args]
    assert main([str(giant_path(LLAMA_8B)), *given, *MACHINE]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert word in err
    assert len(err) < 400


def test_programs_go_by_any_case(capsys: pytest.CaptureFixture[str]) -> None:
    """As people write them: Ollama, KoboldCpp."""
    assert "--contextsize" in emitted(capsys, "KoboldCpp")


def test_a_file_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "no.gguf"), "--emit", "ollama", *MACHINE]) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
