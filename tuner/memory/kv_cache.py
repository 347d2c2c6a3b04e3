"""The rows that a context keeps: per layer what is cached and for how many tokens.

Which layers have a cache, of what kind, follows `llama_model::create_memory`
(src/llama-model.cpp); the sizes follow `llama_kv_cache` (src/llama-kv-cache.cpp) and, for
windows, `llama_kv_cache_iswa`; states follow `llama_memory_recurrent` and
`llama_dsv4_comp_state` (src/llama-kv-cache-dsv4.cpp).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import accumulate

from tuner.machine.backends import HOST_LAYOUT, BufferLayout, row_padding
from tuner.memory.cache_types import CACHE_TYPES
from tuner.model.hparams import HParams
from tuner.settings import CONTEXT_PADDING, Settings
from tuner.units import padded


class Cells(IntEnum):
    """What decides how many cells a cache has. A number, as it is a key in everything that a
    search asks for: as cheap as an integer, which names out of a string would not be."""

    ALL = 0  # one for every token of the context
    WINDOW = -1  # as many as the sliding window is large
    CSA = 4  # one for every four tokens: DSV4_CSA_RATIO (src/llama-kv-cache-dsv4.cpp)
    HCA = 128  # one for every 128: DSV4_HCA_RATIO


# looking a member up in its class takes longer than all else that is done with it
ALL, WINDOW, CSA, HCA = Cells


_F32 = 4  # bytes per element of a state


@dataclass(frozen=True, slots=True)
class CachedRow:
    """What one layer keeps per cell in one cache. Elements, not bytes; `v` 0 where it has none."""

    layer: int
    cells: Cells
    k: int
    v: int
    own_buffer: bool = False  # in a cache of its own, whose V rows are not the model's


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """All caches and states of a model, for one sequence."""

    rows: tuple[CachedRow, ...]
    states: tuple[tuple[int, int], ...]  # (layer, bytes): F32 states, whatever n_ctx
    v_row_max: int  # without flash attention every V row is padded to the largest layer's


def cells(kind: Cells, n_ctx: int, n_swa: int, n_ubatch: int, swa_full: bool) -> int:
    """Cells of one cache for a context already padded."""
    if kind == ALL or (kind == WINDOW and swa_full):
        return n_ctx
    if kind == WINDOW:
        return padded(min(n_ctx, n_swa + n_ubatch), CONTEXT_PADDING)
    return padded(-(-n_ctx // kind), CONTEXT_PADDING)


@lru_cache(maxsize=16)
def cache_layout(hp: HParams) -> CacheLayout:
    """The caches that llama.cpp creates for these layers."""
    row = hp.row
    if row.memory == "compressed":
        return _compressed(hp)
    if row.memory == "state":
        return CacheLayout((), _states(hp), 0)

    k, v = hp.k_row, hp.v_row
    hybrid = row.memory == "hybrid" or (row.memory == "stated" and any(hp.recurrent))
    rows = [
        CachedRow(il, WINDOW if hp.swa[il] else ALL, k[il], 0 if hp.mla else v[il])
        for il in range(min(hp.n_layer_kv, hp.n_layer_all))
        if _attends(hp, il, hybrid)
    ]
    rows += _indexer_rows(hp)
    return CacheLayout(tuple(rows), _states(hp) if hybrid else (), max(v))


def _attends(hp: HParams, il: int, hybrid: bool) -> bool:
    """Whether a layer has an attention cache."""
    row = hp.row
    if row.one_part and hp.n_ff[il]:
        return False
    if hybrid and hp.recurrent[il] and not row.side_by_side:
        return False
    if row.mtp_cached:  # the default filter of llama_memory_hybrid does not look at MTP blocks
        return True
    return il < hp.n_layer or (not hybrid and hp.n_layer == 0)


def _states(hp: HParams) -> tuple[tuple[int, int], ...]:
    return tuple(
        (il, _F32 * size)
        for il in range(hp.n_layer)
        if hp.recurrent[il]
        for size in (hp.state_r, hp.state_s, hp.ngram_state if il in hp.ngram_layers else 0)
        if size
    )


_POOL_PARTS = 3  # a key, a gate and a pooled key (src/models/glm5-next.cpp)


def _indexer_rows(hp: HParams) -> list[CachedRow]:
    """Caches of the keys by which sparse attention finds its tokens."""
    size, indexer = hp.indexer_head, hp.row.indexer
    if not size or indexer is None or (indexer.needs_top_k and not hp.indexer_top_k):
        return []
    if indexer.picks == "pools" and hp.indexer_kpool > 0:
        size *= _POOL_PARTS
    first = hp.n_layer_dense_lead if indexer.layers == "behind_lead" else 0
    return [
        CachedRow(il, ALL, size, hp.head_v[il] if indexer.values else 0, indexer.values)
        for il in range(first, hp.n_layer)
        if not (hp.swa[il] or hp.recurrent[il])
        and (indexer.layers != "listed" or hp.indexer_full[il])
    ]


def _kept(rows: int, width: int) -> int:
    """Bytes of what a compressor keeps of tokens whose row is not complete: values and scores."""
    return 2 * rows * width * _F32


def _compressed(hp: HParams) -> CacheLayout:
    """deepseek4: a windowed cache of keys for every layer, compressed ones for most."""
    rows: list[CachedRow] = []
    states: list[tuple[int, int]] = []
    for il in range(hp.n_layer_all):
        ratio = hp.compress_ratios[il] if il < len(hp.compress_ratios) else 0
        d, index = hp.head_k[il], hp.indexer_head
        rows.append(CachedRow(il, WINDOW if hp.swa[il] else ALL, d * hp.n_head_kv[il], 0))
        if ratio == CSA:
            rows.append(CachedRow(il, CSA, d * hp.n_head_kv[il], 0))
            rows.append(CachedRow(il, CSA, index, 0))
            # a compressor's rows look back at those before, and are twice as wide
            states += [(il, _kept(2 * CSA, 2 * d)), (il, _kept(2 * CSA, 2 * index))]
        elif ratio == HCA:
            rows.append(CachedRow(il, HCA, d * hp.n_head_kv[il], 0))
            states.append((il, _kept(HCA, d)))
    trunk = tuple(state for state in states if state[0] < hp.n_layer)
    return CacheLayout(tuple(rows), trunk, 0)


# over layers: bytes of padding, and bytes per cell of each kind
_Sums = tuple[tuple[int, ...], dict[Cells, tuple[int, ...]]]


class CacheSizes:
    """Bytes of a model's caches for any settings, from prefix sums over layers."""

    def __init__(self, hp: HParams):
        self._hp = hp
        self.layout = cache_layout(hp)
        self.kinds = tuple(dict.fromkeys(row.cells for row in self.layout.rows))
        self._sums: dict[tuple[str, str, bool, BufferLayout], _Sums] = {}
        self._reads: dict[tuple[str, str], dict[Cells, tuple[int, ...]]] = {}
        self._counts: dict[tuple[int, int, bool], tuple[int, ...]] = {}  # cells of each kind
        per_layer = [0] * hp.n_layer_all
        for il, size in self.layout.states:
            per_layer[il] += padded(size, HOST_LAYOUT.alignment)
        self.states = (0, *accumulate(per_layer))

    def cells(self, kind: Cells, settings: Settings) -> int:
        """Cells of each cache of this kind."""
        return self.cells_at(kind, padded(settings.n_ctx, CONTEXT_PADDING), settings)

    def cells_at(self, kind: Cells, n_ctx: int, settings: Settings) -> int:
        """The same for another (padded) context."""
        return cells(kind, n_ctx, self._hp.n_swa, settings.n_ubatch, settings.swa_full)

    def bytes(
        self, settings: Settings, flash: bool, layout: BufferLayout, first: int, end: int
    ) -> int:
        """Bytes that the caches of layers first..end take in buffers of this layout."""
        s = settings
        key = (s.type_k, s.type_v, flash, layout)
        pads, rows = self._sums.get(key) or self._prepare(key)
        counts = self._counts.get((s.n_ctx, s.n_ubatch, s.swa_full)) or self._count(settings)
        total = pads[end] - pads[first]
        for sums, count in zip(rows.values(), counts, strict=True):
            total += (sums[end] - sums[first]) * count
        return total

    def prefix(self, settings: Settings, flash: bool, layout: BufferLayout) -> list[int]:
        """The same of the first 0, 1, 2, ... layers."""
        s = settings
        key = (s.type_k, s.type_v, flash, layout)
        pads, rows = self._sums.get(key) or self._prepare(key)
        counts = self._counts.get((s.n_ctx, s.n_ubatch, s.swa_full)) or self._count(settings)
        total = list(pads)
        for sums, count in zip(rows.values(), counts, strict=True):
            total = [so_far + size * count for so_far, size in zip(total, sums, strict=True)]
        return total

    def _count(self, settings: Settings) -> tuple[int, ...]:
        counts = tuple([self.cells(kind, settings) for kind in self.kinds])
        self._counts[settings.n_ctx, settings.n_ubatch, settings.swa_full] = counts
        return counts

    def _prepare(self, key: tuple[str, str, bool, BufferLayout]) -> _Sums:
        type_k, type_v, flash, layout = key
        k_type, v_type = CACHE_TYPES[type_k], CACHE_TYPES[type_v]
        n = self._hp.n_layer_all
        per_layer = {kind: [0] * n for kind in self.kinds}
        pads = [0] * n
        for row in self.layout.rows:
            # without flash attention V is stored transposed, all layers as wide as the widest
            wide = 0 if flash or not row.v or row.own_buffer else self.layout.v_row_max
            v = max(row.v, wide)
            per_layer[row.cells][row.layer] += k_type.row_bytes(row.k) + v_type.row_bytes(v)
            # cells are whole padding units, so that only what is added needs aligning
            for kind, wide in ((k_type, row.k), (v_type, v)):
                more = row_padding(kind.ggml, wide, layout) if wide else 0
                pads[row.layer] += padded(more, layout.alignment)
        sums = {kind: (0, *accumulate(x)) for kind, x in per_layer.items()}
        found = self._sums[key] = (0, *accumulate(pads)), sums
        return found

    def read(self, settings: Settings, first: int, end: int, n_filled: int) -> int:
        """Bytes read by one token's attention in layers first..end with `n_filled` tokens in the
        context; a window is never read beyond its size. States are read and written whole."""
        states = self.states[end] - self.states[first]
        return self.filled(settings, first, end, n_filled) + states

    def filled(self, settings: Settings, first: int, end: int, n_filled: int) -> int:
        """Bytes that so many tokens fill in the caches of layers first..end, states included; a
        window holds no more than its size."""
        key = (settings.type_k, settings.type_v)
        if key not in self._reads:
            _, self._reads[key] = self._prepare((*key, True, HOST_LAYOUT))
        total = self.states[end] - self.states[first]
        for kind, sums in self._reads[key].items():
            if kind == ALL:
                n = n_filled
            elif kind == WINDOW:
                n = min(n_filled, self._hp.n_swa)
            else:
                n = n_filled // kind
            total += (sums[end] - sums[first]) * n
        return total
