"""Reads a text with several caches side by side, and compares what is predicted by each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tuner.engine.protocol import MeasureLosses
from tuner.memory.cache_losses import CacheLosses, PairLoss

_REFERENCE = ("f16", "f16")
# Tokens per batch of the second look at f16. So few are computed by other kernels than a whole
# batch is, on CPUs and on GPUs, which rounds otherwise and is else the same.
_FEW = 8
_LEAST = -1000.0  # log of a probability that is as good as none, whose power is 0

Logits = NDArray[np.float32]  # [tokens, n_vocab]


class BrokenModelError(Exception):
    """What the model computes are no numbers."""


class Reader(Protocol):
    """A cache of its own for the model."""

    def read(self, tokens: Sequence[int]) -> Logits:
        """Appends tokens; what is predicted after each, valid until the next call."""

    def decode(self, token: int) -> None:
        """Appends one token and returns when that is done."""

    def close(self) -> None: ...


class _Read(NamedTuple):
    """What one reader does with the text, beside the reference."""

    type_k: str
    type_v: str
    n_ubatch: int


class LossRun:
    """One measurement. `run` may be ended by whatever a reader raises."""

    def __init__(
        self,
        open_reader: Callable[[str, str, int], Reader],
        request: MeasureLosses,
        tokens: Sequence[int],
        tell: Callable[[float], None],
    ) -> None:
        """`open_reader`: by K type, V type and n_ubatch. `tokens`: those that are read, and as many
        more as are decoded. `tell` hears how far it has come."""
        self._open, self._request, self._tokens, self._tell = open_reader, request, tokens, tell
        self._n = request.n_tokens
        self._surprise: list[float] = []  # of the reference, nats per token
        self._done = 0

    def run(self) -> CacheLosses:
        """Reads the text once with each pair, and with f16 beside each group of them. Raises
        BrokenModelError."""
        request = self._request
        reads = [_Read(*_REFERENCE, _FEW)]
        reads += [_Read(k, v, request.chunk) for k, v in request.pairs]
        beside = request.side_by_side
        groups = [reads[i : i + beside] for i in range(0, len(reads), beside)]
        self._steps = (len(reads) + len(groups)) * -(-self._n // request.chunk)
        noise, *pairs = (pair for group in groups for pair in self._group(group))
        first = PairLoss(*_REFERENCE, 0.0, 0.0, 0.0, 1.0, self._reference_tps)
        perplexity = float(np.exp(np.mean(self._surprise[: self._n])))
        return CacheLosses((first, *pairs), noise.loss, perplexity, self._n)

    def _group(self, group: Sequence[_Read]) -> list[PairLoss]:
        with ExitStack() as stack:
            reference, *others = (
                stack.enter_context(closing(self._open(*read)))
                for read in (_Read(*_REFERENCE, self._request.chunk), *group)
            )
            losses, same = self._compared(reference, others)
            self._reference_tps = self._decode_tps(reference)
            half = self._n // 2
            return [
                PairLoss(
                    read.type_k,
                    read.type_v,
                    _mean(losses[i]),
                    _mean(losses[i][:half]),
                    _mean(losses[i][half:]),
                    _mean(same[i]),
                    self._decode_tps(other),
                )
                for i, (read, other) in enumerate(zip(group, others, strict=True))
            ]

    def _compared(
        self, reference: Reader, others: Sequence[Reader]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Divergence from the reference, and whether the likeliest token is the same: [others,
        tokens]. No more than one chunk's logits are kept of each."""
        losses, same = np.zeros((2, len(others), self._n))
        for at in range(0, self._n, self._request.chunk):
            part = self._tokens[at : min(at + self._request.chunk, self._n)]
            wanted, *found = (self._read(reader, part) for reader in (reference, *others))
            for row in range(len(part)):
                expected = log_probabilities(wanted[row])
                self._surprise.append(-float(expected[self._tokens[at + row + 1]]))
                for i, logits in enumerate(found):
                    got = log_probabilities(logits[row])
                    losses[i, at + row] = divergence(expected, got)
                    same[i, at + row] = expected.argmax() == got.argmax()
        return losses, same

    def _read(self, reader: Reader, part: Sequence[int]) -> Logits:
        logits = reader.read(part)
        self._done += 1
        self._tell(self._done / self._steps)
        return logits

    def _decode_tps(self, reader: Reader) -> float:
        """Token by token, behind the text; the fastest counts, as other programs slow them down."""
        each = []
        for token in self._tokens[self._n : self._n + self._request.n_decode]:
            start = time.perf_counter()
            reader.decode(token)
            each.append(time.perf_counter() - start)
        return 1 / min(each)


def log_probabilities(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Of each token of the vocabulary, from its logit. Raises BrokenModelError."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    sum_ = np.exp(shifted).sum()
    if not np.isfinite(sum_):
        raise BrokenModelError
    shifted -= np.log(sum_)
    return np.maximum(shifted, _LEAST, out=shifted)


def divergence(expected: NDArray[np.float64], got: NDArray[np.float64]) -> float:
    """Kullback-Leibler divergence in nats of log probabilities from those that are expected."""
    # no product of BLAS, whose threads would take the engine's cores for so little
    return max(0.0, float((np.exp(expected) * (expected - got)).sum()))


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean())
