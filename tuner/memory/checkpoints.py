"""The bytes of a checkpoint: what a cache cannot go back to by itself, copied to RAM.

Layers with attention to everything can be cut anywhere. A recurrent state only goes forward, and a
sliding window forgets what lies behind it, so the engine copies both where a later prompt may
branch off (`llama_state_seq_get_data_ext` with LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY). What it writes
follows `state_write` of `llama_kv_cache` (src/llama-kv-cache.cpp), of
`llama_memory_recurrent` (src/llama-memory-recurrent.cpp) and of `llama_kv_cache_dsv4`
(src/llama-kv-cache-dsv4.cpp).
"""

from __future__ import annotations

from tuner.memory.cache_types import CACHE_TYPES
from tuner.memory.kv_cache import WINDOW, cache_layout
from tuner.model.hparams import HParams
from tuner.settings import CONTEXT_PADDING, Settings
from tuner.units import padded

_HEAD = 4 + 4  # a magic number and the sequence
_STATES = 4 + 4 + 4 + 4 + 4  # cells, position and sequences of the only one, order, layers
_WINDOWS = 4 + 4 + 4 + 4  # streams, cells, order, layers
_CELL = 4 + 4 + 4  # position, number of sequences, sequence
_PLACE = 4 + 4  # what a cell has beside it where a token has several positions
_TENSOR = 4 + 8  # type and bytes of a row
# deepseek4 says more of each state (version, streams, rows), but nowhere so much
_COMPRESSED_TENSOR = 64
_COMPRESSED = 256


class CheckpointSizes:
    """Bytes of one checkpoint of a model for any settings: to the byte, once the context has more
    tokens than the window (no more than that before), but for deepseek4, of which it may be some
    hundred bytes less."""

    def __init__(self, hp: HParams) -> None:
        self._hp = hp
        layout = cache_layout(hp)
        self._rows = [row for row in layout.rows if row.cells == WINDOW]
        compressed = hp.row.memory == "compressed"
        self._head = _HEAD + (_COMPRESSED if compressed else 0)
        self._fixed = 0
        if layout.states:
            # A layer with a state has two tensors, be one of them empty, and a third with a history
            # of n-grams.
            tensors = 2 * sum(hp.recurrent) + len(hp.ngram_layers)
            heads = _COMPRESSED_TENSOR * len(layout.states) if compressed else _TENSOR * tensors
            self._fixed = _STATES + heads + sum(size for _, size in layout.states)
        self._known: dict[tuple[int, str, str, bool], int] = {}

    @property
    def needed(self) -> bool:
        """Whether there is anything that cannot be cut."""
        return bool(self._fixed or self._rows)

    def bytes(self, settings: Settings) -> int:
        """Of one checkpoint; 0 where all of the cache can be cut anywhere."""
        s = settings
        windows = self._rows and not s.swa_full
        if not (self._fixed or windows):
            return 0
        key = (s.n_ctx, s.type_k, s.type_v, s.swa_full)
        found = self._known.get(key)
        if found is None:
            size = self._head + self._fixed
            found = self._known[key] = size + (self._of_windows(settings) if windows else 0)
        return found

    def _of_windows(self, settings: Settings) -> int:
        """Only the cells that the next token would see are written."""
        k, v = CACHE_TYPES[settings.type_k], CACHE_TYPES[settings.type_v]
        cells = min(padded(settings.n_ctx, CONTEXT_PADDING), self._hp.n_swa)
        tensors = sum(1 + (row.v > 0) for row in self._rows)
        per_cell = sum(k.row_bytes(row.k) + v.row_bytes(row.v) for row in self._rows)
        per_cell += _CELL + (_PLACE if self._hp.positions > 1 else 0)
        return _WINDOWS + _TENSOR * tensors + per_cell * cells
