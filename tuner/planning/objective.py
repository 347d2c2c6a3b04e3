"""What makes one plan better than another: one number, the effective tokens/s.

A plan is worth its predicted decode speed, divided by the price of what it gives up. The price
list below says, for each thing given up, how much faster decoding must become for it to be worth
it. Because a plan's score depends on nothing but the plan, more memory (a larger choice) can
never give a worse one, and the answer is the same on every run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tuner.memory.cache_types import HIGH_PRECISION
from tuner.planning.quality import Quality

WISHED_CONTEXT = 16_384  # tokens that a chat wants when nobody says otherwise
LEAST_CONTEXT = 4_096  # tokens; never cut below this unless the model's own context is smaller
FULL_UBATCH = 512  # tokens; llama.cpp's default n_ubatch, beyond which prompts gain little


@dataclass(frozen=True, slots=True)
class Prices:
    """Factors of decode speed. 1.25 reads: worth it only where decoding gets 25 % faster."""

    below_wish: float  # a context below the wished one
    each_halving: float  # each further halving of it: hardly more than a tie-break
    beyond_wish: float  # context up to all the model was trained for may cost this
    low_whole: float  # a cache type below q8_0 where the whole model is then on the GPU
    low_partial: float  # the same where layers stay on the CPU beside a GPU: hardly ever
    loss: float  # exponent per nat of quality loss beyond what rounding alone makes
    ubatch: float  # each halving of n_ubatch below 512
    slow_pair: float  # K and V types for which the GPU has no fast attention kernel


BALANCED = Prices(
    below_wish=1.25,
    each_halving=1.002,
    beyond_wish=1.05,
    low_whole=1.10,
    low_partial=8.0,
    loss=2.0,
    ubatch=1.02,
    slow_pair=1.15,
)
# One row per preference: how it differs from the balanced one. 8.0 reads: at hardly any price.
PRICES = {
    "balanced": BALANCED,
    "speed": replace(
        BALANCED,
        below_wish=1.02,
        beyond_wish=1.01,
        low_whole=1.03,
        low_partial=1.03,
        loss=0.5,
        ubatch=1.01,
    ),
    "context": replace(BALANCED, below_wish=1.0, each_halving=8.0, low_partial=1.10),
    "quality": replace(BALANCED, low_whole=8.0, low_partial=8.0, loss=200.0),
}


@dataclass(frozen=True, slots=True)
class Objective:
    """The price list of one preference, for one model and wish."""

    prices: Prices
    wished_context: int  # tokens
    n_ctx_train: int  # tokens, never less than the wished ones

    @classmethod
    def of(cls, prefer: str, n_ctx: int | None, n_ctx_train: int) -> Objective:
        """The objective of a preference (a key of `PRICES`). `n_ctx` is the exact wish in tokens,
        if there is one: then there is nothing to cut or add."""
        wished = n_ctx or min(WISHED_CONTEXT, n_ctx_train)
        if prefer == "context" and n_ctx is None:
            wished = n_ctx_train
        return cls(PRICES[prefer], wished, max(n_ctx_train, wished))

    def context(self, n_ctx: int) -> float:
        """Log worth of a context: negative below the wished one, at most `log(beyond_wish)` above
        it."""
        p, wished = self.prices, self.wished_context
        if n_ctx < wished:
            return -math.log(p.below_wish) - math.log2(wished / n_ctx) * math.log(p.each_halving)
        if wished in (n_ctx, self.n_ctx_train):
            return 0.0
        reach = math.log(min(n_ctx, self.n_ctx_train) / wished)
        return math.log(p.beyond_wish) * reach / math.log(self.n_ctx_train / wished)

    @property
    def context_best(self) -> float:
        """The most that any context can be worth."""
        return math.log(self.prices.beyond_wish) if self.n_ctx_train > self.wished_context else 0.0

    def cache(
        self, type_k: str, type_v: str, quality: Quality, *, whole: bool, slow: bool
    ) -> float:
        """Log price of a pair of cache types of this quality (0 or more)."""
        p = self.prices
        price = p.loss * quality.beyond_noise
        if not {type_k, type_v} <= HIGH_PRECISION:
            price += math.log(p.low_whole if whole else p.low_partial)
        return price + (math.log(p.slow_pair) if slow else 0.0)

    def ubatch(self, n_ubatch: int) -> float:
        """Log price of a compute batch smaller than `FULL_UBATCH`."""
        return math.log(self.prices.ubatch) * max(0.0, math.log2(FULL_UBATCH / n_ubatch))
