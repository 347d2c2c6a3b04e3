"""What one token's attention costs at a depth: bytes, FLOP, and the time of the host's cores.

Each is a prefix sum over a model's items, the layers in order and, last, the output.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from tuner.memory.cache_types import CACHE_TYPES
from tuner.memory.kv_cache import CacheSizes
from tuner.model.hparams import HParams
from tuner.planning.host_kernels import Pair, row_seconds
from tuner.settings import Settings

SMALLEST = min(CACHE_TYPES.values(), key=lambda t: t.bits).name


def prefix(values: Iterable[float]) -> list[float]:
    """Sums of the first 0, 1, 2, ... values."""
    return list(accumulate(values, initial=0.0))


class Attended:
    """Attention of one model, with what was asked for kept. A depth is in tokens."""

    def __init__(self, hparams: HParams, cache: CacheSizes, n_items: int, f16_step: int) -> None:
        """`f16_step`: that of the host."""
        self._hparams, self._cache = hparams, cache
        self._n_items, self._f16_step = n_items, f16_step
        self._flop: dict[int, list[float]] = {}
        self._read: dict[tuple[int, Pair | None], list[float]] = {}
        self._core_seconds: dict[tuple[int, Pair | None], list[float]] = {}

    def read(self, depth: int, pair: Pair | None = ("f16", "f16")) -> list[float]:
        """Bytes of a cache of these types; None: of the smallest."""
        found = self._read.get((depth, pair))
        if found is None:
            settings = Settings(max(depth, 1), *(pair or (SMALLEST, SMALLEST)))
            layers = range(self._n_items - 1)
            each = (self._cache.read(settings, i, i + 1, depth) for i in layers)
            found = self._read[depth, pair] = prefix((*each, 0))
        return found

    def flop(self, depth: int) -> list[float]:
        """FLOP of two products per head."""
        found = self._flop.get(depth)
        if found is None:
            per_layer = [0.0] * self._n_items
            for il, rows, head_k, head_v in self._rows(depth):
                per_layer[il] = 2.0 * rows * (head_k + head_v)
            found = self._flop[depth] = prefix(per_layer)
        return found

    def core_seconds(self, depth: int, pair: Pair | None) -> list[float]:
        """Seconds of one core, row by row, with a cache of these types, beside reading it; None:
        of those with which it takes the least."""
        found = self._core_seconds.get((depth, pair))
        if found is None:
            per_layer = [0.0] * self._n_items
            for il, rows, head_k, head_v in self._rows(depth):
                per_layer[il] = rows * row_seconds(pair, head_k, head_v, self._f16_step)
            found = self._core_seconds[depth, pair] = prefix(per_layer)
        return found

    def _rows(self, depth: int) -> Iterator[tuple[int, int, int, int]]:
        """Of each layer with a cache: its number, the rows that all its heads of Q see together,
        no more than the window of each, and the elements of a row of K and of V."""
        hp = self._hparams
        for row in self._cache.layout.rows:
            il = row.layer
            seen = min(depth, hp.n_swa) if hp.swa[il] and hp.n_swa else depth
            yield il, hp.n_head[il] * seen, hp.head_k[il], hp.head_v[il]
