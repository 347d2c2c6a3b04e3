"""What a plan is worth: the prices of what it gives up, and what they must never do."""

from __future__ import annotations

import math
from dataclasses import asdict
from itertools import pairwise

import pytest

from tuner.memory.cache_types import CACHE_TYPES
from tuner.memory.rotation import Rotation
from tuner.planning.objective import (
    FULL_UBATCH,
    PRICES,
    SECOND_TIER,
    WISHED_CONTEXT,
    Objective,
)
from tuner.planning.quality import CacheQuality
from tuner.wishes import PREFERENCES

TRAINED = 131_072


def test_every_preference_has_its_prices() -> None:
    assert tuple(PRICES) == PREFERENCES


@pytest.mark.parametrize("prefer", PREFERENCES)
def test_nothing_that_is_given_up_is_paid_for(prefer: str) -> None:
    """A factor below 1 would make a plan better by what it gives up."""
    for name, price in asdict(PRICES[prefer]).items():
        assert price >= (0 if name == "loss" else 1), name


@pytest.mark.parametrize("prefer", PREFERENCES)
@pytest.mark.parametrize("wish", [None, 2048, 20_000, 200_000])
def test_more_context_is_never_worth_less(prefer: str, wish: int | None) -> None:
    """And none is worth more than the search takes for the most that any can be."""
    objective = Objective.of(prefer, wish, TRAINED)
    steps = [2**i for i in range(8, 20)]
    worth = [objective.context(n) for n in sorted({*steps, objective.wished_context})]
    assert all(a <= b + 1e-12 for a, b in pairwise(worth))
    assert max(worth) <= objective.context_best + 1e-12
    assert objective.context(objective.wished_context) == 0.0


def test_a_wish_that_is_met_has_no_price() -> None:
    """An exact wish is neither cut nor exceeded, also beyond what the model was trained for."""
    assert Objective.of("balanced", 200_000, TRAINED).context_best == 0.0
    assert Objective.of("balanced", None, TRAINED).wished_context == WISHED_CONTEXT
    assert Objective.of("balanced", None, 8192).wished_context == 8192
    assert Objective.of("context", None, TRAINED).wished_context == TRAINED
    assert Objective.of("context", 8192, TRAINED).wished_context == 8192


def test_what_context_costs() -> None:
    """Below the wish 12 % for each halving, without a step; above it 4 % up to the second tier,
    and 1 % for all the rest."""
    objective = Objective.of("balanced", None, TRAINED)
    for halvings in range(4):
        price = math.exp(-objective.context(WISHED_CONTEXT >> halvings))
        assert price == pytest.approx(1.12**halvings)
    assert -objective.context(WISHED_CONTEXT - 256) < 0.01
    assert math.exp(objective.context(SECOND_TIER)) == pytest.approx(1.04)
    assert math.exp(objective.context(TRAINED)) == pytest.approx(1.04 * 1.01)
    assert objective.context(2 * TRAINED) == objective.context(TRAINED)
    short = Objective.of("balanced", None, 40_960)
    assert math.exp(short.context(40_960)) == pytest.approx(1.04)


@pytest.mark.parametrize(
    ("prefer", "n_ctx", "trained", "depth"),
    [
        ("balanced", None, TRAINED, 8_192),
        ("speed", None, 8_192, 4_096),
        ("quality", 4_000, TRAINED, 2_000),
        ("context", 100_000, TRAINED, 8_192),
        ("context", None, TRAINED, 65_536),
        ("context", None, 32_768, 16_384),
    ],
)
def test_plans_are_compared_at_the_depth_of_a_conversation(
    prefer: str, n_ctx: int | None, trained: int, depth: int
) -> None:
    """8,192 tokens or half of the context; who wants the longest context is to fill it."""
    assert Objective.of(prefer, n_ctx, trained).depth == depth


@pytest.mark.parametrize("prefer", PREFERENCES)
@pytest.mark.parametrize("quality", [CacheQuality(Rotation(r, r)) for r in (True, False)])
def test_cache_types_are_priced_by_what_they_lose(prefer: str, quality: CacheQuality) -> None:
    """A type that loses more never costs less, whether it holds K or V; f16 costs nothing."""
    objective = Objective.of(prefer, None, TRAINED)

    def price(k: str, v: str, **kw: bool) -> float:
        return objective.cache(quality.of_pair(k, v), **{"whole": True, **kw})

    by_loss = sorted(CACHE_TYPES, key=lambda t: quality.of_pair(t, "f16").loss)
    assert price("f16", "f16") == 0.0
    assert all(price(a, "f16") <= price(b, "f16") for a, b in pairwise(by_loss))
    assert all(price("f16", a) <= price("f16", b) for a, b in pairwise(by_loss))
    for k, v in (("q4_0", "q4_0"), ("q8_0", "q5_1")):
        assert price(k, v, whole=False) >= price(k, v)


def test_a_full_batch_is_free_and_a_larger_one_too() -> None:
    objective = Objective.of("balanced", None, TRAINED)
    assert objective.ubatch(FULL_UBATCH) == objective.ubatch(2 * FULL_UBATCH) == 0.0
    assert math.exp(objective.ubatch(FULL_UBATCH // 4)) == pytest.approx(1.02**2)
