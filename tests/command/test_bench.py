"""`kvchat MODEL --bench`: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.gguf_files import tiny_llama
from tui.command.cli import main

SMALL = ("--ctx", "256", "--threads", "1")


def test_the_demo_model_gets_a_receipt(capsys: pytest.CaptureFixture[str]) -> None:
    """For real: a table, and below it the line that JSON readers take."""
    assert main(["--demo", "--bench", *SMALL]) == 0
    out, _ = capsys.readouterr()
    *table, line = out.rstrip("\n").splitlines()
    assert any("decode" in row and "at 224" in row for row in table)
    (run,) = json.loads(line)["runs"]
    assert [timed["depth"] for timed in run["decodes"]] == [0, 224]
    assert [timed["n_tokens"] for timed in run["prompts"]] == [128, 192]
    assert all(timed["measured_tps"] > 0 for timed in (*run["prompts"], *run["decodes"]))
    (host,) = run["memory"]
    cache = host["predicted"]["kv_cache"]
    assert host["measured"]["kv_cache"] == pytest.approx(cache, abs=1 << 14)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--bench", "-p", "Hello"), "a run of its own"),
        (("--bench", "--explain"), "a run of its own"),
        (("--thorough",), "goes with --bench"),
        (("--json",), "or --bench"),
        (("--bench", "--vram", "24GiB"), "measures this machine"),
        (("--bench", "--ram", "24GiB"), "measures this machine"),
    ],
)
def test_what_makes_no_sense_with_it(
    flags: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence, status 2, nothing on stdout."""
    assert main([str(tiny_llama(tmp_path / "m.gguf")), *flags]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert out == ""


def test_several_models_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [str(tiny_llama(tmp_path / f"{i}.gguf", n_layer=i)) for i in (1, 2)]
    assert main([*models, "--bench"]) == 2
    assert "--bench takes one model" in capsys.readouterr().err
