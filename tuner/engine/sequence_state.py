"""The state of a sequence as llama.cpp writes it, and the same for a cache of other types.

A state begins with 8 bytes, then has the caches one after the other (`llama_kv_cache::state_write`,
src/llama-kv-cache.cpp): the number of streams and of cells, what each cell is, then for each layer
the rows of K and after all of these those of V, each with its type and the bytes of a row. A model
with a sliding window has two caches (`llama_kv_cache_iswa`), a hybrid one and behind it its
recurrent states (`llama_memory_hybrid`), which are F32 in any context and copied as they are.

A quantized cache holds rotated rows, most of the time: each run of 2^n elements multiplied by a
Hadamard matrix, which is its own inverse. Whether, and how long the runs are, is not read from
anywhere: it is seen (`seen_rotations`) in two states of the same tokens.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tuner.memory.cache_types import CACHE_TYPES, CacheType

Floats = NDArray[np.float32]

_HEAD = 8  # bytes: a magic number and the sequence
_CELL, _EXTRA = 12, 12  # bytes: position, number of sequences, the one; llama_kv_cell_ext
_ROWS = struct.Struct("<iQ")  # the type, the bytes of a row
_RUNS = (0, 64, 128, 256, 512)  # elements that are rotated together; 0: none are
_PIECE = 1 << 20  # elements that are floats at a time, for each thread

# Of the length of what is compared, that it may differ by: q8_0 takes well under a hundredth, what
# it makes of the layers before some hundredths. A row that is rotated otherwise is off by 1.4.
_ALIKE = 0.3


class StateError(Exception):
    """A state that is not written as it is known here, or that cannot be converted."""


class Quantizer(Protocol):
    """ggml's own conversions. Rows lie one after the other."""

    def floats(self, kind: CacheType, rows: memoryview, out: Floats) -> None:
        """Unpacks rows of bytes."""

    def pack(self, kind: CacheType, rows: Floats, out: memoryview) -> None:
        """Packs rows of floats."""


@dataclass(frozen=True, slots=True)
class Rows:
    """K or V of one layer: a row for each cell, `n` elements long."""

    at: int  # of the first byte of the first row
    n_rows: int
    n: int
    kind: CacheType

    @property
    def n_bytes(self) -> int:
        return self.n_rows * self.kind.row_bytes(self.n)


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache of a state, its rows in order."""

    k: tuple[Rows, ...]
    v: tuple[Rows, ...]


@dataclass(frozen=True, slots=True)
class Rotation:
    """Elements of a row that are rotated together where a cache is quantized; 0: none."""

    k: int = 0
    v: int = 0


@dataclass(frozen=True, slots=True)
class Pair:
    """The types of a cache."""

    k: CacheType
    v: CacheType

    @classmethod
    def named(cls, type_k: str, type_v: str) -> Pair:
        return cls(CACHE_TYPES[type_k], CACHE_TYPES[type_v])


def has_caches(state: memoryview, pair: Pair) -> int:
    """How many caches of these types a state has, or a part of one."""
    return len(_caches(state, pair))


def caches_of(state: memoryview, pair: Pair) -> tuple[Cache, ...]:
    """Where the rows lie in a state of a cache of these types. Raises StateError where it has none
    that are known."""
    found = _caches(state, pair)
    if not found:
        raise StateError("its layout is not known")
    return found


def seen_rotations(
    plain: memoryview, quantized: memoryview, quantizer: Quantizer
) -> tuple[Rotation, ...]:
    """How each cache is rotated where it is quantized, seen in two states of the same tokens: one
    of f16, one of q8_0. Raises StateError where the one does not follow from the other."""
    f16, q8_0 = Pair.named("f16", "f16"), Pair.named("q8_0", "q8_0")
    before, after = caches_of(plain, f16), caches_of(quantized, q8_0)
    if len(before) != len(after):
        raise StateError("it has other caches where they are quantized")

    def seen(ours: Sequence[Rows], theirs: Sequence[Rows]) -> int:
        if [(rows.n_rows, rows.n) for rows in ours] != [(rows.n_rows, rows.n) for rows in theirs]:
            raise StateError("it has other rows where they are quantized")
        runs = {
            _seen(_read(plain, a, quantizer), _read(quantized, b, quantizer))
            for a, b in zip(ours, theirs, strict=True)
        }
        if len(runs) > 1:
            raise StateError("its layers are not rotated alike")
        return runs.pop() if runs else 0

    return tuple(
        Rotation(seen(a.k, b.k), seen(a.v, b.v)) for a, b in zip(before, after, strict=True)
    )


def converted_size(state: memoryview, before: Pair, after: Pair) -> int:
    """Bytes of the state with the other types. Raises StateError."""
    size = len(state)
    for cache in caches_of(state, before):
        for rows, kind, _ in _parts(cache, after, Rotation()):
            size += rows.n_rows * (_row_bytes(rows.n, kind) - rows.kind.row_bytes(rows.n))
    return size


def convert(
    state: memoryview,
    before: Pair,
    after: Pair,
    rotations: Sequence[Rotation],
    quantizer: Quantizer,
    out: memoryview,
    n_threads: int = 1,
    tell: Callable[[float], None] = lambda _: None,
) -> None:
    """Writes the state for a cache of other types to `out` (`converted_size` bytes). `tell` hears
    which part of it is done, and may raise to end it. Raises StateError."""
    caches = caches_of(state, before)
    if len(caches) != len(rotations):
        raise StateError("it has other caches than the model that was looked at")
    jobs: list[Callable[[], None]] = []
    source = target = 0
    for cache, rotation in zip(caches, rotations, strict=True):
        for rows, kind, run in _parts(cache, after, rotation):
            head = rows.at - _ROWS.size - source
            out[target : target + head] = state[source : source + head]
            target += head
            row_bytes = _row_bytes(rows.n, kind)
            _ROWS.pack_into(out, target, kind.ggml, row_bytes)
            target += _ROWS.size
            end = target + rows.n_rows * row_bytes
            jobs += _pieces(state, rows, kind, run, quantizer, out[target:end])
            source, target = rows.at + rows.n_bytes, end
    out[target:] = state[source:]
    with ThreadPoolExecutor(max(1, n_threads)) as pool:
        try:
            for n, done in enumerate([pool.submit(job) for job in jobs], 1):
                done.result()
                tell(n / len(jobs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


# ---------------------------------------------------------------- reading


def _caches(state: memoryview, pair: Pair) -> tuple[Cache, ...]:
    found: list[Cache] = []
    at = _HEAD
    while at < len(state):
        parsed = _cache(state, at, pair)
        if parsed is None:
            break
        cache, at = parsed
        if cache.k:
            found.append(cache)
    return tuple(found)


def _cache(state: memoryview, at: int, pair: Pair) -> tuple[Cache, int] | None:
    """The cache that begins there, and where it ends; None where there is none."""
    try:
        n_streams, n_cells = struct.unpack_from("<II", state, at)
        at += 8
        if n_streams != 1:
            return None
        if n_cells == 0:
            return Cache((), ()), at
        at = _after_cells(state, at, n_cells)
        transposed, n_layers = struct.unpack_from("<II", state, at)
        if transposed or not 0 < n_layers < 1 << 16:
            return None
        k = _rows(state, at + 8, n_layers, n_cells, pair.k)
        if k is None:
            return None
        v = _rows(state, _end(k), n_layers, n_cells, pair.v) or ()  # one latent row stands for both
        return Cache(k, v), _end(v or k)
    except (struct.error, StateError):
        return None


def _after_cells(state: memoryview, at: int, n_cells: int) -> int:
    """Where the cells end. Raises StateError where there are none as they are known."""
    for size in (_CELL, _CELL + _EXTRA):
        end = at + n_cells * size
        if end > len(state):
            continue
        cells = np.frombuffer(state[at:end], "<i4").reshape(n_cells, size // 4)
        positions, n_sequences, sequence = cells[:, 0], cells[:, 1], cells[:, -1]
        # In any order: a window is filled in turn, and so is a gap that was closed.
        once = (positions >= 0).all() and len(np.unique(positions)) == n_cells
        if (n_sequences == 1).all() and (sequence == 0).all() and once:
            return end
    raise StateError("its cells are not known")


def _rows(
    state: memoryview, at: int, n_layers: int, n_cells: int, kind: CacheType
) -> tuple[Rows, ...] | None:
    """One part of a cache, for all layers; None where they are none of this type."""
    found: list[Rows] = []
    for _ in range(n_layers):
        if at + _ROWS.size > len(state):
            return None
        number, row_bytes = _ROWS.unpack_from(state, at)
        n_blocks, rest = divmod(row_bytes, kind.block_bytes)
        if number != kind.ggml or rest or not n_blocks:
            return None
        rows = Rows(at + _ROWS.size, n_cells, n_blocks * kind.block, kind)
        at = rows.at + rows.n_bytes
        if at > len(state):
            return None
        found.append(rows)
    return tuple(found)


def _end(rows: Sequence[Rows]) -> int:
    return rows[-1].at + rows[-1].n_bytes


def _read(state: memoryview, rows: Rows, quantizer: Quantizer) -> Floats:
    out = np.empty((rows.n_rows, rows.n), np.float32)
    quantizer.floats(rows.kind, state[rows.at : rows.at + rows.n_bytes], out)
    return out


def _seen(plain: Floats, quantized: Floats) -> int:
    """By which run the one is rotated to be the other. Raises StateError."""
    length = float(np.linalg.norm(quantized)) or 1.0

    def off(run: int) -> float:
        return float(np.linalg.norm(rotated(plain, run) - quantized)) / length

    nearest = min((run for run in _RUNS if not run or plain.shape[1] % run == 0), key=off)
    if off(nearest) > _ALIKE:
        raise StateError("a converted cache would not be the engine's own")
    return nearest


# ---------------------------------------------------------------- writing


def rotated(rows: Floats, run: int) -> Floats:
    """Each run of so many elements times the Hadamard matrix."""
    return (rows.reshape(-1, run) @ _hadamard(run)).reshape(rows.shape) if run else rows


@lru_cache
def _hadamard(n: int) -> Floats:
    """The orthonormal one (`ggml_gen_hadamard`, src/llama-kv-cache.cpp). n: a power of 2."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < n:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.float32(np.sqrt(n))


def _row_bytes(n: int, kind: CacheType) -> int:
    if n % kind.block:
        raise StateError(f"its rows are no blocks of {kind.name}")
    return kind.row_bytes(n)


def _parts(cache: Cache, after: Pair, rotation: Rotation) -> Iterator[tuple[Rows, CacheType, int]]:
    """All rows of a cache in order, what they become, and by which run they are rotated then."""
    for part, kind, run in ((cache.k, after.k, rotation.k), (cache.v, after.v, rotation.v)):
        for rows in part:
            yield rows, kind, run if rows.kind.quantized != kind.quantized else 0


def _pieces(
    state: memoryview,
    rows: Rows,
    kind: CacheType,
    run: int,
    quantizer: Quantizer,
    out: memoryview,
) -> list[Callable[[], None]]:
    """What is to be done for these rows, in pieces of which few lie in memory at a time."""
    step = max(1, _PIECE // rows.n)
    before, after = rows.kind.row_bytes(rows.n), kind.row_bytes(rows.n)
    jobs: list[Callable[[], None]] = []
    for first in range(0, rows.n_rows, step):
        n = min(step, rows.n_rows - first)
        source = state[rows.at + first * before : rows.at + (first + n) * before]
        target = out[first * after : (first + n) * after]
        jobs.append(partial(_piece, source, rows, kind, n, run, quantizer, target))
    return jobs


def _piece(
    source: memoryview,
    rows: Rows,
    kind: CacheType,
    n: int,
    run: int,
    quantizer: Quantizer,
    target: memoryview,
) -> None:
    if kind is rows.kind:
        target[:] = source
        return
    floats = np.empty((n, rows.n), np.float32)
    quantizer.floats(rows.kind, source, floats)
    quantizer.pack(kind, rotated(floats, run), target)
