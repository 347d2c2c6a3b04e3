"""What cache types cost, as a table, as a plot and as JSON."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from tests.support.giants import LLAMA_8B, giant
from tui.command.loss_plot import loss_plot
from tuner.cells import cells
from tuner.memory.cache_losses import CacheLosses, PairLoss
from tuner.report.losses import losses_json, losses_text

LOST = {
    ("f16", "f16"): 0.0,
    ("q8_0", "q8_0"): 0.0044,
    ("q8_0", "q4_0"): 0.0107,
    ("q5_1", "q5_1"): 0.0147,
    ("q4_0", "q8_0"): 0.0478,
    ("q4_0", "q4_0"): 0.0536,
}
LOSSES = CacheLosses(
    tuple(PairLoss(*pair, x, x / 2, 3 * x / 2, 0.951, 12.3) for pair, x in LOST.items()),
    noise=0.0045,
    perplexity=17.25,
    n_tokens=512,
)


@pytest.mark.parametrize("width", [20, 40, 80, 120])
def test_table_has_every_pair_and_is_no_wider_than_the_terminal(width: int) -> None:
    text = losses_text(giant(LLAMA_8B), LOSSES, width=width)
    assert all(cells(line) <= width for line in text.splitlines())
    for (k, v), loss in LOST.items():
        assert f"{k} / {v}" in text
        assert f"{loss:.4f}" in text
    assert "17.25" in text
    assert "! " not in text


def test_a_row_of_the_table() -> None:
    text = losses_text(giant(LLAMA_8B), LOSSES, width=80)
    (row,) = (line for line in text.splitlines() if "q8_0 / q8_0" in line)
    assert re.split(r" {1,}", row.strip(), maxsplit=9)[3:] == [
        "0.0044", "0.0022", "0.0066", "95.1%", "53%", "12", "as good as f16",
    ]  # fmt: skip


def test_high_perplexity_is_a_warning() -> None:
    text = losses_text(giant(LLAMA_8B), replace(LOSSES, perplexity=5000.0))
    assert "! That is high" in text


def test_foreign_name_of_a_text_is_cleaned() -> None:
    assert "\x1b" not in losses_text(giant(LLAMA_8B), replace(LOSSES, text="a\x1b[2Jb.txt"))


def test_plot_names_the_pairs_that_no_other_beats() -> None:
    """q4_0/q8_0 is as large as q8_0/q4_0 and loses more: it is a point without a name."""
    plot = loss_plot(LOSSES, 80)
    for name in ("q8_0/q8_0", "q8_0/q4_0", "q5_1/q5_1", "q4_0/q4_0"):
        assert name in plot
    assert "q4_0/q8_0" not in plot
    assert plot.count("●") == 5
    assert "\x1b" not in plot
    assert all(cells(line) <= 80 for line in plot.splitlines())


@pytest.mark.parametrize("loss", [1e-9, 0.01, 500.0])
def test_plot_of_pairs_that_lose_the_same(loss: float, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is said aside, though there is no height to speak of."""
    pairs = tuple(replace(pair, loss=loss if pair.loss else 0.0) for pair in LOSSES.pairs)
    assert "q4_0/q4_0" in loss_plot(replace(LOSSES, pairs=pairs), 60)
    assert capfd.readouterr() == ("", "")


def test_json_has_all_figures() -> None:
    got = json.loads(json.dumps(losses_json(giant(LLAMA_8B), LOSSES)))
    assert got["schema"] == 1
    assert (got["n_tokens"], got["perplexity"], got["noise"]) == (512, 17.25, 0.0045)
    assert got["pairs"][1] == {
        "type_k": "q8_0", "type_v": "q8_0", "loss": 0.0044, "loss_first": 0.0022,
        "loss_second": pytest.approx(0.0066), "same_top": 0.951, "decode_tps": 12.3,
        "words": "as good as f16",
    }  # fmt: skip
