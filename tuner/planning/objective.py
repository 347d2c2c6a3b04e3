"""What makes one plan better than another: one number, the effective tokens/s.

A plan is worth its predicted decode speed, divided by the price of what it gives up. The price
list below says, for each thing given up, how much faster decoding must become for it to be worth
it. Because a plan's score depends on nothing but the plan, more memory (a larger choice) can
never give a worse one, and the answer is the same on every run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tuner.memory.cache_types import CACHE_TYPES

DEFAULT_AIM = 16_384  # tokens that a chat wants when nobody says otherwise
FLOOR = 4_096  # a context is never cut below this unless the model's own is smaller

DEFAULT_CLASS = frozenset({"f32", "f16", "bf16", "q8_0"})


@dataclass(frozen=True, slots=True)
class Prices:
    """Factors of decode speed. 1.25 reads: worth it only where decoding gets 25 % faster."""

    cut: float  # a context below the aim
    halving: float  # each further halving of it: hardly more than a tie-break
    more: float  # context above the aim, up to all the model was trained for, may cost this
    low_whole: float  # a cache type below q8_0 where the whole model is then on the GPU
    low_partial: float  # the same where layers stay on the CPU beside a GPU: hardly ever
    loss: float  # exponent per nat of quality loss
    ubatch: float  # each halving of n_ubatch below 512
    slow_pair: float  # K and V types for which a CUDA build has no fast attention kernel


PRICES = {
    "balanced": Prices(1.25, 1.002, 1.05, 1.10, 8.0, 2.0, 1.02, 1.15),
    "speed": Prices(1.02, 1.002, 1.01, 1.03, 1.03, 0.5, 1.01, 1.15),
    "context": Prices(1.0, 8.0, 1.05, 1.10, 1.10, 2.0, 1.02, 1.15),
    "quality": Prices(1.25, 1.002, 1.05, 8.0, 8.0, 200.0, 1.02, 1.15),
}


@dataclass(frozen=True, slots=True)
class Objective:
    """The price list of one preference, for one model and wish."""

    prices: Prices
    aim: int  # tokens wished for
    n_ctx_train: int

    @classmethod
    def of(cls, prefer: str, n_ctx: int | None, n_ctx_train: int) -> Objective:
        """`n_ctx` is the exact wish, if there is one: then there is nothing to cut or add."""
        aim = n_ctx or min(DEFAULT_AIM, n_ctx_train)
        if prefer == "context" and n_ctx is None:
            aim = n_ctx_train
        return cls(PRICES[prefer], aim, max(n_ctx_train, aim))

    def context(self, n_ctx: int) -> float:
        """Log worth of a context: negative below the aim, at most `log(more)` above it."""
        p = self.prices
        if n_ctx < self.aim:
            return -math.log(p.cut) - math.log2(self.aim / n_ctx) * math.log(p.halving)
        if self.aim in (n_ctx, self.n_ctx_train):
            return 0.0
        reach = math.log(min(n_ctx, self.n_ctx_train) / self.aim)
        return math.log(p.more) * reach / math.log(self.n_ctx_train / self.aim)

    @property
    def context_best(self) -> float:
        """The most that any context can be worth."""
        return math.log(self.prices.more) if self.n_ctx_train > self.aim else 0.0

    def cache(self, type_k: str, type_v: str, *, whole: bool, slow: bool) -> float:
        """Log price of a pair of cache types (0 or more)."""
        p = self.prices
        price = p.loss * prior_loss(type_k, type_v)
        if not {type_k, type_v} <= DEFAULT_CLASS:
            price += math.log(p.low_whole if whole else p.low_partial)
        return price + (math.log(p.slow_pair) if slow else 0.0)

    def ubatch(self, n_ubatch: int) -> float:
        """Log price of a compute batch smaller than 512 tokens."""
        return math.log(self.prices.ubatch) * max(0.0, math.log2(512 / n_ubatch))


def prior_loss(type_k: str, type_v: str) -> float:
    """Assumed quality loss of a pair, in nats per token (`cache_types.py`)."""
    return CACHE_TYPES[type_k].k_loss + CACHE_TYPES[type_v].v_loss
