"""The table of situations: its rule tells a worse choice from another one. The models of a few rows
are at hand here; `python -m bench.situations` goes through all."""

from __future__ import annotations

import pytest

from bench.situations import SITUATIONS, Situation, judge, take
from tests.support.giants import GEMMA_27B, QWEN_30B_A3B, giant
from tuner.planning import Solver

# For the models of some rows; the Qwen3-30B that is here was trained for less context.
AT_HAND = {"gemma-3-27b-Q4_K_M": GEMMA_27B, "Qwen3-30B-A3B-2507-Q4_K_M": QWEN_30B_A3B}
ROWS = tuple(row for row in SITUATIONS if row.number in (3, 4, 9, 12, 22))


def word(row: Situation, *, first: bool) -> str:
    model = giant(AT_HAND[row.model])
    solver = Solver(model, row.machine)
    return judge(model, solver, row, take(model, row, solver, first=first)).word


def test_every_situation_can_be_stated() -> None:
    """As flags would state it."""
    assert [row.number for row in SITUATIONS] == list(range(1, 30))
    assert all(len(row.machine.gpus) == len(row.gpu.split(",")) or row.gpu == "none"
               for row in SITUATIONS)  # fmt: skip


def test_decoding_alone_chooses_worse_where_experts_stay_in_ram() -> None:
    """The choices that an objective without prompts made are found."""
    assert {row.number for row in ROWS if word(row, first=True) == "worse"} == {3, 4, 9, 22}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.number))
def test_no_choice_is_worse_than_an_expert_s(row: Situation) -> None:
    assert word(row, first=False) != "worse"
