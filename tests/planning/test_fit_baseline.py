"""Against llama.cpp's own --fit: `tests/data/llama_fit.json` is what it answered for four models on
cards of 4 to 22 GiB."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.fit_baseline import Answer, compare, rows
from tests.support.giants import LLAMA_8B, QWEN_30B_A3B, giant, giant_path
from tuner.units import GIB

ANSWERS = Path(__file__).parents[1] / "data" / "llama_fit.json"


def test_a_plan_is_never_worse_with_one_axis_held() -> None:
    """At its context no fewer bytes are read from the GPU, at its layers there is no less
    context."""
    found = list(rows(ANSWERS, giant_path(LLAMA_8B).parent))
    assert len(found) == 32
    assert [(row.answer.file, row.answer.vram, row.broken) for row in found if row.broken] == []


@pytest.mark.parametrize("name", [LLAMA_8B, QWEN_30B_A3B])
def test_with_less_memory_a_plan_is_found_worse(name: str) -> None:
    """The comparison can fail: with 2 GiB less there is less of everything."""
    model = giant(name)
    answers = [Answer.of(row, model) for row in json.loads(ANSWERS.read_text())]
    [answer] = [a for a in answers if (a.file, a.vram) == (name, 4 * GIB)]
    assert compare(answer, model, 2 * GIB).broken == ("more bytes", "more context")
