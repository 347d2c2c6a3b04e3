"""What cache types cost in quality: as measured on this model, or as this engine's are known to."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from tuner.memory.cache_losses import CacheLosses, PairLoss
from tuner.memory.cache_types import CACHE_TYPES, HIGH_PRECISION, NOISE, CacheType
from tuner.memory.rotation import Rotation, rotation
from tuner.model.hparams import HParams


@dataclass(frozen=True, slots=True)
class Quality:
    """What the cache types cost: mean KL divergence in nats per token against an f16 cache."""

    loss: float
    source: str = "assumed"  # "assumed" (prior) | "measured"
    noise: float = 0.0  # the part of it that rounding alone explains
    precise: bool = True  # hardly anybody would notice it

    @property
    def beyond_noise(self) -> float:
        """What of the loss is the types' own."""
        return max(0.0, self.loss - self.noise)

    @property
    def words(self) -> str:
        """The loss in words that a person can use."""
        if self.loss == 0:
            return "none"
        row = next(row for row in _WORDS if self.beyond_noise <= row.at_most)
        return row.measured if self.source == "measured" else row.assumed

    @property
    def text(self) -> str:
        """The words, with the number where there is one."""
        if self.loss == 0:
            return self.words
        return f"{self.words}, {self.loss:.4f} nats/token ({self.source})"


class _Words(NamedTuple):
    """How a loss is said up to `at_most` nats per token beyond the noise: of this very model where
    it was measured, of models as they are where not."""

    at_most: float
    measured: str
    assumed: str


AS_GOOD = 0.003  # nats per token beyond the noise

# The steps lie between what types lost on models that were measured: q8_0 nothing that can be told
# from rounding, q5_1 about 0.01, q4_0 about 0.05; models that broke lost 0.4 and more.
_WORDS = (
    _Words(AS_GOOD, "as good as f16", "as good as f16"),
    _Words(0.02, "slightly worse", "slightly worse"),
    _Words(0.15, "noticeably worse", "noticeably worse with some models"),
    _Words(inf, "much worse", "much worse"),
)


@dataclass(frozen=True, slots=True)
class CacheQuality:
    """What any pair of cache types costs with one model."""

    rotation: Rotation
    measured: CacheLosses | None = None

    @classmethod
    def of(cls, hp: HParams, measured: CacheLosses | None = None) -> CacheQuality:
        """The quality of a model's caches, with what was measured of them."""
        return cls(rotation(hp), measured)

    def of_pair(self, type_k: str, type_v: str) -> Quality:
        """The quality of a pair of types. One that was not measured loses what it is known to, and
        no less than any of finer types did with this model."""
        k, v = CACHE_TYPES[type_k], CACHE_TYPES[type_v]
        pairs = self.measured.pairs if self.measured else ()
        noise = self.measured.noise if self.measured else NOISE
        for pair in pairs:
            if (pair.type_k, pair.type_v) == (type_k, type_v):
                precise = pair.loss - noise <= AS_GOOD
                return Quality(pair.loss, "measured", noise, precise)
        own = k.k_loss.of(self.rotation.k) + v.v_loss.of(self.rotation.v)
        if own == 0:
            return Quality(0.0)
        loss = max([noise + own, *(pair.loss for pair in pairs if _finer(pair, k, v))])
        precise = {type_k, type_v} <= HIGH_PRECISION and loss - noise <= AS_GOOD
        return Quality(loss, noise=noise, precise=precise)


def _finer(pair: PairLoss, k: CacheType, v: CacheType) -> bool:
    """Whether neither of a pair's types is coarser than these."""
    types = CACHE_TYPES
    return types[pair.type_k].bits >= k.bits and types[pair.type_v].bits >= v.bits
