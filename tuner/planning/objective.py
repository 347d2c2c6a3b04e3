"""What makes one plan better than another: one number, the effective turns per second.

A plan is worth the turns of a chat that it gets through in a second (a prompt read and an answer
written, at the depth that conversations have), divided by the price of what it gives up. The price
list below says, for each thing given up, how much faster a turn must become for it to be worth it.
Because a plan's score depends on nothing but the plan, more memory (a larger choice) can never give
a worse one, and the answer is the same on every run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tuner.planning.quality import Quality
from tuner.planning.speed import turn_depth

WISHED_CONTEXT = 32_768  # tokens that a chat wants when nobody says otherwise
SECOND_TIER = 65_536  # tokens beyond which more context is hardly felt
LEAST_CONTEXT = 4_096  # tokens; never cut below this unless the model's own context is smaller
FULL_UBATCH = 512  # tokens; llama.cpp's default n_ubatch, beyond which prompts gain little on a GPU


@dataclass(frozen=True, slots=True)
class Prices:
    """Factors of the turn's speed. 1.25 reads: worth it only where turns get 25 % faster."""

    each_halving: float  # of the context below the wished one
    second_tier: float  # context up to the second tier may cost this
    beyond: float  # and up to all the model was trained for this in addition
    below_f16: float  # a cache type below f16, beside its loss
    low_whole: float  # a cache type below q8_0 where the whole model is then on the GPU
    low_partial: float  # the same where layers stay on the CPU beside a GPU: hardly ever
    loss: float  # exponent per nat of quality loss beyond what rounding alone makes
    ubatch: float  # each halving of n_ubatch below 512
    # No room for a checkpoint, so that a turn which goes back reads all again: worth no context
    # beyond the wished one, and half a halving of that.
    no_checkpoint: float


BALANCED = Prices(
    each_halving=1.12,
    second_tier=1.04,
    beyond=1.01,
    below_f16=1.02,
    low_whole=1.10,
    low_partial=8.0,
    loss=2.0,
    ubatch=1.02,
    no_checkpoint=1.06,
)
# One row per preference: how it differs from the balanced one. 8.0 reads: at hardly any price.
PRICES = {
    "balanced": BALANCED,
    "speed": replace(
        BALANCED,
        each_halving=1.01,
        second_tier=1.005,
        beyond=1.005,
        below_f16=1.0,
        low_whole=1.03,
        low_partial=1.03,
        loss=0.5,
        ubatch=1.01,
    ),
    "context": replace(BALANCED, each_halving=8.0, below_f16=1.0, low_partial=1.10),
    "quality": replace(BALANCED, low_whole=8.0, low_partial=8.0, loss=200.0),
}
# Who wants the longest context means to fill it.
DEPTH_OF_LONG = 65_536  # tokens


@dataclass(frozen=True, slots=True)
class Objective:
    """The price list of one preference, for one model and wish."""

    prices: Prices
    wished_context: int  # tokens
    n_ctx_train: int  # tokens, never less than the wished ones
    depth: int  # tokens in the cache at which all plans are compared

    @classmethod
    def of(cls, prefer: str, n_ctx: int | None, n_ctx_train: int) -> Objective:
        """The objective of a preference (a key of `PRICES`). `n_ctx` is the exact wish in tokens,
        if there is one: then there is nothing to cut or add."""
        wished = n_ctx or min(WISHED_CONTEXT, n_ctx_train)
        depth = turn_depth(wished)
        if prefer == "context" and n_ctx is None:
            wished = n_ctx_train
            depth = min(DEPTH_OF_LONG, wished // 2)
        return cls(PRICES[prefer], wished, max(n_ctx_train, wished), depth)

    def context(self, n_ctx: int) -> float:
        """Log worth of a context: negative below the wished one, at most `context_best` above
        it."""
        p, wished = self.prices, self.wished_context
        if n_ctx < wished:
            return -math.log2(wished / n_ctx) * math.log(p.each_halving)
        most = self.n_ctx_train
        tier, n_ctx = min(max(SECOND_TIER, wished), most), min(n_ctx, most)
        to_tier, to_most = _way(wished, min(n_ctx, tier), tier), _way(tier, n_ctx, most)
        return math.log(p.second_tier) * to_tier + math.log(p.beyond) * to_most

    @property
    def context_best(self) -> float:
        """The most that any context can be worth."""
        return self.context(self.n_ctx_train)

    def cache(self, quality: Quality, *, whole: bool) -> float:
        """Log price of a pair of cache types of this quality (0 or more)."""
        p = self.prices
        price = p.loss * quality.beyond_noise
        if quality.loss:
            price += math.log(p.below_f16)
        if not quality.precise:
            price += math.log(p.low_whole if whole else p.low_partial)
        return price

    @property
    def no_checkpoint(self) -> float:
        """Log price of a plan without the checkpoint that the cache needs to go back."""
        return math.log(self.prices.no_checkpoint)

    def ubatch(self, n_ubatch: int) -> float:
        """Log price of a compute batch smaller than `FULL_UBATCH`."""
        return math.log(self.prices.ubatch) * max(0.0, math.log2(FULL_UBATCH / n_ubatch))


def _way(start: int, here: int, end: int) -> float:
    """How far from one context to another, by doublings: 0.0 to 1.0."""
    return math.log(max(here, start) / start) / math.log(end / start) if end > start else 0.0
