"""What is predicted with one cache, compared with another: the arithmetic, and the reading."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.engine.loss_run import BrokenModelError, Logits, LossRun, divergence, log_probabilities
from tuner.engine.protocol import MeasureLosses
from tuner.memory.cache_losses import CacheLosses

N_VOCAB = 5
logits = st.lists(st.floats(-30, 30, width=32), min_size=N_VOCAB, max_size=N_VOCAB)


def plain_softmax(values: Sequence[float]) -> list[float]:
    powers = [math.exp(v - max(values)) for v in values]
    return [p / sum(powers) for p in powers]


@given(logits, logits)
def test_divergence_is_that_of_the_textbook(ours: list[float], theirs: list[float]) -> None:
    """The sum over all tokens of p log(p / q); nothing of itself, and never below that."""
    p, q = plain_softmax(ours), plain_softmax(theirs)
    by_hand = sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    log_p, log_q = (log_probabilities(np.array(x, np.float32)) for x in (ours, theirs))
    assert np.exp(log_p) == pytest.approx(p)
    assert divergence(log_p, log_q) == pytest.approx(max(0.0, by_hand), abs=1e-9)
    assert divergence(log_p, log_p) == 0.0


def test_what_can_never_come_counts_for_nothing() -> None:
    """A logit of minus infinity, as a vocabulary's padding has it."""
    p = log_probabilities(np.array([0.0, 0.0, -np.inf], np.float32))
    assert divergence(p, p) == 0.0
    other = log_probabilities(np.array([0.0, -np.inf, 0.0], np.float32))
    assert 100 < divergence(p, other) < math.inf


class FakeReader:
    """Predicts that a token is followed by its successor, more surely the finer its cache is."""

    def __init__(self, sureness: float, chunks: list[int]) -> None:
        self._sureness, self._chunks = sureness, chunks

    def read(self, tokens: Sequence[int]) -> Logits:
        self._chunks.append(len(tokens))
        rows = np.zeros((len(tokens), N_VOCAB), np.float32)
        for row, token in zip(rows, tokens, strict=True):
            row[(token + 1) % N_VOCAB] = self._sureness
        return rows

    def decode(self, token: int) -> None:
        pass

    def close(self) -> None:
        open_now.remove(self)


SURE = {"f16": 3.0, "q8_0": 2.9, "q4_0": 1.0}
open_now: list[FakeReader] = []


def run(side_by_side: int = 9, *, broken: bool = False) -> tuple[CacheLosses, list[str], list[int]]:
    opened: list[str] = []
    chunks: list[int] = []
    most = 0

    def reader(type_k: str, type_v: str, n_ubatch: int) -> FakeReader:
        nonlocal most
        opened.append(f"{type_k}/{type_v}")
        sureness = math.nan if broken else min(SURE[type_k], SURE[type_v])
        open_now.append(FakeReader(sureness, chunks))
        most = max(most, len(open_now))
        return open_now[-1]

    pairs = (("q8_0", "q8_0"), ("q8_0", "q4_0"))
    request = MeasureLosses("", 10, 3, 4, side_by_side, pairs)
    told: list[float] = []
    losses = LossRun(reader, request, [i % N_VOCAB for i in range(13)], told.append).run()
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
    assert most <= side_by_side + 1
    return losses, opened, chunks


def test_each_pair_is_compared_with_f16_token_by_token() -> None:
    losses, opened, chunks = run()
    assert opened == ["f16/f16", "f16/f16", "q8_0/q8_0", "q8_0/q4_0"]
    assert chunks == [4] * 8 + [2] * 4
    p, *others = (plain_softmax([SURE[t], 0, 0, 0, 0]) for t in SURE)
    expected = [sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) for q in others]
    f16, q8_0, q4_0 = losses.pairs
    assert (f16.type_k, f16.loss, f16.same_top) == ("f16", 0.0, 1.0)
    assert [q8_0.loss, q4_0.loss] == pytest.approx(expected, rel=1e-4)  # float32
    assert q8_0.loss_first == pytest.approx(q8_0.loss_second)
    assert (q4_0.type_k, q4_0.type_v, q4_0.same_top) == ("q8_0", "q4_0", 1.0)
    assert losses.noise == 0.0
    assert losses.perplexity == pytest.approx(1 / p[0], rel=1e-4)
    assert not open_now


def test_with_less_memory_f16_is_read_again_for_each_group() -> None:
    """To the same end, but for the clock."""
    together, alone = run()[0], run(side_by_side=1)
    assert [p.loss for p in alone[0].pairs] == [p.loss for p in together.pairs]
    assert alone[0].perplexity == together.perplexity
    assert alone[1] == ["f16/f16", "f16/f16", "f16/f16", "q8_0/q8_0", "f16/f16", "q8_0/q4_0"]


def test_a_model_that_computes_no_numbers_is_told() -> None:
    with pytest.raises(BrokenModelError):
        run(broken=True)
    assert not open_now
