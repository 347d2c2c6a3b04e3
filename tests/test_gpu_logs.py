"""Predictions against figures that others logged: what is right, and cases that say nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.gpu_logs import main
from tests.support.giants import GEMMA_27B, giant_path

# The engine's own dry run of it, all layers on one stand-in GPU, one row of logits per token.
_LOADED = {
    "backend": "RPC", "card": "stand-in", "header": GEMMA_27B,
    "settings": {"ctx": 8192, "n_out": 0},
    "log": {"GPU0": {"compute": 522.5}, "host": {"compute": 30}},
}  # fmt: skip


def _lines(tmp_path: Path, capsys: pytest.CaptureFixture[str], *cases: Any) -> tuple[Any, Any]:
    path = tmp_path / "cases.json"
    path.write_text(json.dumps({"cases": cases}))
    assert main([str(path), "--headers", str(giant_path(GEMMA_27B).parent)]) == 0
    captured = capsys.readouterr()
    return [line.split() for line in captured.out.splitlines()], captured.err.splitlines()


def test_what_is_exact_near_and_too_low(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two digits are exact to 0.02 MiB, a whole number to 1; logits of a whole batch are counted;
    older engines have a table of their own."""
    less = {**_LOADED, "settings": {"ctx": 8192, "n_out": 1}}
    near = {**_LOADED, "log": {"host": {"compute": 31.5}}, "card": "\x1b[31mred"}
    out, _ = _lines(tmp_path, capsys, _LOADED, less, near, {**_LOADED, "era": "old"})
    of = [line for line in out if line[:1] == ["RPC"]]
    assert of[0][:7] == ["RPC", "compute", "GPU", "2", "1", "1", "1"]  # 164.52 with one row
    assert "164.52" in of[0]
    assert of[1][:7] == ["RPC", "compute", "host", "3", "2", "3", "1"]  # 30.52 for 31.5
    assert [line[:7] for line in of[2:]] == [
        ["RPC", "compute", "GPU", "1", "1", "1", "0"],
        ["RPC", "compute", "host", "1", "1", "1", "0"],
    ]
    assert "\x1b" not in str(out)


def test_engines_of_other_rules_have_a_table_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a build's number, a day or a month, of compute buffers alone; a day that is not stated
    says nothing."""
    vulkan = {
        **_LOADED,
        "backend": "Vulkan",
        "log": {"GPU0": {"compute": 522.5, "kv": 1}},
        "weights_comparable": False,
    }
    times = ["b9849, 2026-09", "2026-07-30", "ollama 2026-07", "", "2026", "2026-13", "b11300"]
    out, err = _lines(tmp_path, capsys, *({**vulkan, "when": t} for t in times))
    of = [line[:4] for line in out if line[:1] == ["Vulkan"]]
    assert of == [
        ["Vulkan", "KV", "7", "0"],
        ["Vulkan", "compute", "GPU", "4"],
        ["Vulkan", "compute", "GPU", "3"],
    ]
    assert not err


def test_what_a_gpu_borrows_is_of_the_quantization(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With layers in RAM, weights are copied into the GPU's compute buffer."""
    cuda = {**_LOADED, "backend": "CUDA", "settings": {"ctx": 8192, "ngl": 40}}
    out, err = _lines(tmp_path, capsys, cuda, {**cuda, "weights_comparable": False})
    of = [line[:4] for line in out if line[:1] == ["CUDA"]]
    assert of == [["CUDA", "compute", "GPU", "1"], ["CUDA", "compute", "host", "2"]]
    assert [line.endswith("a GPU borrows weights of another quantization.") for line in err] == [
        True
    ]


def test_what_cannot_be_compared_is_said_once_and_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    off: list[Any] = [
        {**_LOADED, "header": None},
        {**_LOADED, "header": "of tomorrow"},
        {**_LOADED, "backend": "Abacus"},
        {**_LOADED, "settings": {"ctx": "many"}},
        {**_LOADED, "settings": {"ctx": 8192, "k": "q9_9"}},
        {**_LOADED, "log": [1]},
        {**_LOADED, "log": {"TPU": {"compute": 1}}},
        "no case",
    ]
    out, err = _lines(tmp_path, capsys, *off, _LOADED)
    assert [line[:4] for line in out if line[:1] == ["RPC"]] == [
        ["RPC", "compute", "GPU", "1"],
        ["RPC", "compute", "host", "1"],
    ]
    assert len(err) == len(off)
    assert [line.split(" ")[1].strip(":") for line in err] == [
        str(n) for n in range(1, len(off) + 1)
    ]


@pytest.mark.parametrize("content", ["", "[]", '{"overhead": []}', "GGUF\0\0", "[" * 100_000])
def test_a_file_without_cases_is_one_sentence(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cases.json"
    path.write_text(content)
    assert main([str(path)]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert len(captured.err.splitlines()) == 1
