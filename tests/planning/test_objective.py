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
    LEAST_CONTEXT,
    PRICES,
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
    """Below the wish a step of 25 % and hardly more per halving; above it at most 5 %."""
    objective = Objective.of("balanced", None, TRAINED)
    below = objective.context(WISHED_CONTEXT - 256)
    assert math.exp(-below) == pytest.approx(1.25, rel=1e-3)
    assert math.exp(-objective.context(LEAST_CONTEXT)) == pytest.approx(1.25 * 1.002**2)
    assert math.exp(objective.context(TRAINED)) == pytest.approx(1.05)
    assert objective.context(2 * TRAINED) == objective.context(TRAINED)


@pytest.mark.parametrize("prefer", PREFERENCES)
@pytest.mark.parametrize("quality", [CacheQuality(Rotation(r, r)) for r in (True, False)])
def test_cache_types_are_priced_by_what_they_lose(prefer: str, quality: CacheQuality) -> None:
    """A type that loses more never costs less, whether it holds K or V; f16 costs nothing."""
    objective = Objective.of(prefer, None, TRAINED)

    def price(k: str, v: str, **kw: bool) -> float:
        given = {"whole": True, "slow": False, **kw}
        return objective.cache(k, v, quality.of_pair(k, v), **given)

    by_loss = sorted(CACHE_TYPES, key=lambda t: quality.of_pair(t, "f16").loss)
    assert price("f16", "f16") == 0.0
    assert all(price(a, "f16") <= price(b, "f16") for a, b in pairwise(by_loss))
    assert all(price("f16", a) <= price("f16", b) for a, b in pairwise(by_loss))
    for k, v in (("q4_0", "q4_0"), ("q8_0", "q5_1")):
        assert price(k, v, whole=False) >= price(k, v)
        assert price(k, v, slow=True) > price(k, v)


def test_a_full_batch_is_free_and_a_larger_one_too() -> None:
    objective = Objective.of("balanced", None, TRAINED)
    assert objective.ubatch(FULL_UBATCH) == objective.ubatch(2 * FULL_UBATCH) == 0.0
    assert math.exp(objective.ubatch(FULL_UBATCH // 4)) == pytest.approx(1.02**2)
