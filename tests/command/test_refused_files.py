"""A file that llama.cpp would not load ends with status 3 and one sentence, whoever asks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.gguf_files import tiny_llama
from tui.command.cli import main
from tuner.engine.client import EngineClient

STATED = ("--vram", "24GiB", "--ram", "16GiB", "--no-profile")
EPSILON = "llama.attention.layer_norm_rms_epsilon"


@pytest.fixture
def refused(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "refused.gguf", without=[EPSILON])


@pytest.mark.parametrize("flags", [("--explain",), ("-p", "hi"), ()])
def test_one_sentence_before_the_engine_is_started(
    flags: tuple[str, ...],
    refused: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[object] = []
    monkeypatch.setattr(EngineClient, "__init__", lambda self, *a, **b: started.append(self))
    assert main([str(refused), *flags]) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), started) == ("", 1, [])
    assert f"lack the key {EPSILON}; take another GGUF" in err


def test_one_row_among_several(
    refused: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As JSON its error stands in its place."""
    paths = [str(refused), str(tiny_llama(tmp_path / "sound.gguf"))]
    assert main([*paths, "--explain", "--json", *STATED]) == 3
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["path"], first["error"]["kind"]) == (paths[0], "incompatible")
    assert EPSILON in first["error"]["message"]
    assert second["plan"]["fits"]
