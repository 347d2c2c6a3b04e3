"""What the types of a cache cost in quality, as it was measured on one model.

A loss is the mean KL divergence in nats per token of what the model predicts with a pair of K and
V types from what it predicts with an f16 cache.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from tuner.json_values import Bound, Speed, one_of, within
from tuner.memory.cache_types import CACHE_TYPES

MAX_TOKENS = 1 << 20  # that a text is read for
_TYPE = one_of(*CACHE_TYPES)
_Loss = Annotated[float, within(0, 1e3)]  # nats per token
_Share = Annotated[float, within(0, 1)]


@dataclass(frozen=True, slots=True)
class PairLoss:
    """One pair of types, read beside f16 over the same text."""

    type_k: Annotated[str, _TYPE]
    type_v: Annotated[str, _TYPE]
    loss: _Loss  # over all tokens,
    loss_first: _Loss  # over the first half of them, with a short context,
    loss_second: _Loss  # and over the second
    same_top: _Share  # of tokens after which the likeliest next one is the same
    decode_tps: Speed  # tokens/s, one by one, behind the text


_DISTINCT = Bound(
    lambda pairs: len({(p.type_k, p.type_v) for p in pairs}) == len(pairs), "each pair once"
)


@dataclass(frozen=True, slots=True)
class CacheLosses:
    """All pairs of one measurement, f16/f16 first."""

    pairs: Annotated[tuple[PairLoss, ...], _DISTINCT]
    noise: _Loss  # of f16 itself, read in other batches: what rounding alone makes of the sums
    perplexity: Annotated[float, within(1, 1e300)]  # of f16
    n_tokens: Annotated[int, within(2, MAX_TOKENS)]
    text: str = ""  # the name of its file; "" is the built-in one
    engine_version: str = ""  # of llama-cpp-python

    def with_others_of(self, earlier: CacheLosses | None) -> CacheLosses:
        """With the pairs that only an earlier measurement over the same text has."""
        if earlier is None or (earlier.n_tokens, earlier.text) != (self.n_tokens, self.text):
            return self
        known = {(pair.type_k, pair.type_v) for pair in self.pairs}
        others = (p for p in earlier.pairs if (p.type_k, p.type_v) not in known)
        return replace(self, pairs=tuple(sorted((*self.pairs, *others), key=_place)))


def _place(pair: PairLoss) -> tuple[int, int]:
    """In the order of the types."""
    order = [*CACHE_TYPES]
    return order.index(pair.type_k), order.index(pair.type_v)
