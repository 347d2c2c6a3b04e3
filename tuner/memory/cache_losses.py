"""What the types of a cache cost in quality, as it was measured on one model.

A loss is the mean KL divergence in nats per token of what the model predicts with a pair of K and
V types from what it predicts with an f16 cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tuner.json_values import Speed, one_of, within
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


@dataclass(frozen=True, slots=True)
class CacheLosses:
    """All pairs of one measurement, f16/f16 first."""

    pairs: tuple[PairLoss, ...]
    noise: _Loss  # of f16 itself, read in other batches: what rounding alone makes of the sums
    perplexity: Annotated[float, within(1, 1e300)]  # of f16
    n_tokens: Annotated[int, within(2, MAX_TOKENS)]
    text: str  # the file's name; "" is the built-in one
    engine_version: str = ""  # of llama-cpp-python
