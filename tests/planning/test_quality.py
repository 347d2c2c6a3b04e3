"""What cache types cost in quality: the figures that are known, and those of the model at hand."""

from __future__ import annotations

from itertools import product

import pytest

from tests.support.giants import LLAMA_8B, giant, gpu, machine
from tuner.memory.cache_losses import CacheLosses, PairLoss
from tuner.memory.cache_types import CACHE_TYPES, HIGH_PRECISION, NOISE
from tuner.memory.rotation import Rotation
from tuner.planning.quality import CacheQuality, Quality
from tuner.planning.solver import Solver
from tuner.wishes import Wishes

LOW = ("q5_1", "q5_0", "q4_1", "q4_0")
ROTATED, PLAIN = (CacheQuality(Rotation(r, r)) for r in (True, False))

# KL divergence against f16/f16 over 1,024 tokens, SmolLM2-135M-Instruct (Q4_1) on this engine.
KNOWN = {
    ("f16", "q8_0"): 0.0042,
    ("q8_0", "q8_0"): 0.0044,
    ("q8_0", "q5_1"): 0.0058,
    ("q8_0", "q4_0"): 0.0107,
    ("q5_1", "q5_1"): 0.0147,
    ("q4_0", "q8_0"): 0.0478,
    ("q4_0", "q4_0"): 0.0536,
}


def losses(noise: float = 0.004, **pairs: float) -> CacheLosses:
    """A measurement of these pairs, named like q8_0__q4_0."""
    found = []
    for name, loss in pairs.items():
        k, v = name.split("__")
        found.append(PairLoss(k, v, loss, loss, loss, 0.9, 10.0))
    return CacheLosses(tuple(found), noise, 12.0, 512)


@pytest.mark.parametrize("pair", KNOWN)
def test_sum_of_k_and_v_gives_what_was_measured_of_pairs(pair: tuple[str, str]) -> None:
    assert ROTATED.of_pair(*pair).loss == pytest.approx(KNOWN[pair], rel=0.02)
    assert ROTATED.of_pair(*pair).source == "assumed"


def test_without_rotation_a_coarse_cache_loses_three_times_as_much() -> None:
    assert PLAIN.of_pair("q4_0", "q4_0").loss == pytest.approx(0.17, rel=0.05)
    for k, v in product(CACHE_TYPES, repeat=2):
        assert PLAIN.of_pair(k, v).loss >= ROTATED.of_pair(k, v).loss


@pytest.mark.parametrize("quality", [ROTATED, PLAIN])
def test_f16_loses_nothing_and_q8_0_nothing_that_could_be_told(quality: CacheQuality) -> None:
    assert quality.of_pair("f16", "f16") == Quality(0.0)
    assert quality.of_pair("q8_0", "q8_0").beyond_noise < NOISE / 2


@pytest.mark.parametrize("quality", [ROTATED, PLAIN])
def test_high_precision_is_where_hardly_anything_is_lost(quality: CacheQuality) -> None:
    """The class and the losses say the same: each type in it loses less than each outside."""
    assert {"f16", "q8_0"} <= HIGH_PRECISION < set(CACHE_TYPES)
    inside = max(quality.of_pair(t, t).loss for t in HIGH_PRECISION)
    assert inside < min(quality.of_pair(t, t).loss for t in set(CACHE_TYPES) - HIGH_PRECISION)


def test_what_was_measured_on_this_model_counts() -> None:
    known = CacheQuality(Rotation(True, True), losses(q8_0__q8_0=0.3))
    assert known.of_pair("q8_0", "q8_0") == Quality(0.3, "measured", 0.004, precise=False)


def test_what_is_precise_is_measured_too() -> None:
    """By name where nothing is known: q8_0 and better."""
    assert ROTATED.of_pair("q8_0", "q8_0").precise
    assert not ROTATED.of_pair("q8_0", "q5_1").precise
    known = CacheQuality(Rotation(True, True), losses(q8_0__q8_0=0.02, q8_0__q5_1=0.006))
    assert not known.of_pair("q8_0", "q8_0").precise
    assert known.of_pair("q8_0", "q5_1").precise
    assert not known.of_pair("q8_0", "q5_0").precise


def test_a_coarse_cache_that_was_measured_to_be_good_is_chosen_freely() -> None:
    """Where q8_0 would cost layers or context."""
    usual = Solver(giant(LLAMA_8B), machine(gpu(6.5)))
    good = usual.with_losses(losses(**{f"{k}__{v}": 0.004 for k, v in product(LOW, LOW)}))
    before, after = usual.best(Wishes()), good.best(Wishes())
    assert before
    assert after
    assert before.settings.type_k == "q8_0"
    assert after.settings.type_k == after.settings.type_v == "q4_0"
    assert after.score > before.score


def test_pair_that_was_not_measured_is_no_better_than_finer_ones_were() -> None:
    """Else a model that breaks at q8_0 would be given q5_0, of which nothing is known."""
    known = CacheQuality(Rotation(True, True), losses(q8_0__q8_0=0.3, q4_0__q4_0=0.01))
    assert known.of_pair("q8_0", "q5_1") == Quality(0.3, "assumed", 0.004, precise=False)
    assert known.of_pair("q5_0", "q5_0").loss == 0.3
    assert known.of_pair("f16", "q8_0").loss < 0.01


def test_words_for_a_loss() -> None:
    """Beyond what rounding makes; of the model itself only where it was measured."""

    def said(k: str, v: str, quality: CacheQuality = ROTATED) -> str:
        return quality.of_pair(k, v).words

    assert said("f16", "f16") == "none"
    assert said("q8_0", "q8_0") == said("q8_0", "q5_1") == "as good as f16"
    assert said("q5_1", "q5_1") == said("q8_0", "q4_0") == "slightly worse"
    assert said("q4_0", "q4_0") == "noticeably worse with some models"
    assert said("q4_0", "q4_0", PLAIN) == "much worse"
    assert Quality(0.05, "measured", 0.004).words == "noticeably worse"
    assert Quality(0.05, "measured", 0.049).words == "as good as f16"


def test_a_model_that_breaks_at_q8_0_gets_f16() -> None:
    """8 GiB hold less context with f16, and yet it is what the plan has."""
    usual = Solver(giant(LLAMA_8B), machine(gpu(8)))
    broken = usual.with_losses(losses(q8_0__q8_0=0.4, f16__q8_0=0.4))
    before, after = usual.best(Wishes()), broken.best(Wishes())
    assert before
    assert after
    assert before.settings.type_k == "q8_0"
    assert (after.settings.type_k, after.settings.type_v) == ("f16", "f16")
    assert after.quality == Quality(0.0)
