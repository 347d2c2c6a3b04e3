"""States of a cache: read as the engine writes them, and written for a cache of other types."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.native import log
from tests.support.tiny_models import hybrid, model, windowed
from tuner.demo import demo_model_path
from tuner.engine.blocks import Block
from tuner.engine.llama import DECODE_OK, Context, NativeModel, init, libraries
from tuner.engine.loss_run import divergence, log_probabilities
from tuner.engine.sequence_state import (
    Pair,
    Rotation,
    StateError,
    caches_of,
    convert,
    converted_size,
    has_caches,
    rotated,
    seen_rotations,
)
from tuner.memory.cache_types import CACHE_TYPES
from tuner.settings import Settings

F16 = Pair.named("f16", "f16")
TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


def written(
    floats: Sequence[np.ndarray], pair: Pair, n_k: int, extra: bool, first: int = 0
) -> bytes:
    """A state of one cache as llama.cpp writes it: floats [cells, elements] of K, then of V. The
    cell of position 0 is at `first`: those of a window, or behind what was let go, are filled in
    turn."""
    n_cells = len(floats[0])
    cells = b"".join(
        struct.pack("<iI", (at - first) % n_cells, 1)
        + (b"\1" * 12 if extra else b"")
        + struct.pack("<i", 0)
        for at in range(n_cells)
    )
    out = struct.pack("<IiII", 0xAF143CD8, 0, 1, n_cells) + cells + struct.pack("<II", 0, n_k)
    for i, rows in enumerate(floats):
        kind = pair.k if i < n_k else pair.v
        data = bytearray(n_cells * kind.row_bytes(rows.shape[1]))
        libraries.pack(kind, rows, memoryview(data))
        out += struct.pack("<iQ", kind.ggml, kind.row_bytes(rows.shape[1])) + data
    return out


def unpacked(state: bytes, pair: Pair) -> list[np.ndarray]:
    found = []
    for each in caches_of(memoryview(state), pair):
        for rows in (*each.k, *each.v):
            out = np.empty((rows.n_rows, rows.n), np.float32)
            libraries.floats(rows.kind, memoryview(state)[rows.at : rows.at + rows.n_bytes], out)
            found.append(out)
    return found


def as_other(state: bytes, before: Pair, after: Pair, *rotations: Rotation) -> bytes:
    out = bytearray(converted_size(memoryview(state), before, after))
    convert(memoryview(state), before, after, rotations, libraries, memoryview(out), 2)
    return bytes(out)


@given(
    n_cells=st.integers(1, 40), n_layers=st.integers(1, 3), heads=st.integers(1, 3),
    values=st.booleans(), extra=st.booleans(), seed=st.integers(0, 99),
    types=st.tuples(*[st.sampled_from(TYPES)] * 4), rest=st.binary(max_size=40),
    first=st.integers(0, 9),
)  # fmt: skip
def test_values_survive_as_far_as_types_can_hold_them(
    n_cells: int, n_layers: int, heads: int, values: bool, extra: bool, seed: int,
    types: tuple[str, str, str, str], rest: bytes, first: int,
) -> None:  # fmt: skip
    """With the rotation that the engine would apply; what follows the caches stays as it is."""
    chance = np.random.default_rng(seed)
    floats = [
        chance.standard_normal((n_cells, 64 * heads)).astype(np.float32)
        for _ in range(n_layers * (1 + values))
    ]
    before, after = Pair.named(*types[:2]), Pair.named(*types[2:])
    state = written(floats, before, n_layers, extra, first) + b"\xff" * bool(rest) + rest
    got = as_other(state, before, after, Rotation(64, 64))
    assert got.endswith(rest)
    assert len(unpacked(got, after)) == len(floats)
    for i, (was, now) in enumerate(zip(unpacked(state, before), unpacked(got, after), strict=True)):
        k = i < n_layers
        kinds = (before.k, after.k) if k else (before.v, after.v)
        turned = rotated(was, 64) if kinds[0].quantized != kinds[1].quantized else was
        off = np.linalg.norm(turned - now) / np.linalg.norm(turned)
        assert off < {True: 0.15, False: 0.02}[kinds[1].bits < 8]
    if before == after:
        assert got == state


@given(st.binary(max_size=400), st.integers(0, 400))
def test_whatever_is_no_state_is_no_state(noise: bytes, cut: int) -> None:
    """And a state that was cut is none, or the caches before the cut."""
    state = written([np.ones((5, 64), np.float32)] * 2, F16, 1, extra=False)
    assert has_caches(memoryview(noise), F16) in (0, 1)
    assert has_caches(memoryview(state[:cut]), F16) <= (cut >= len(state))
    with pytest.raises(StateError):
        converted_size(memoryview(b"no state"), F16, F16)


def test_rotated_twice_is_as_before() -> None:
    rows = np.random.default_rng(1).standard_normal((3, 256)).astype(np.float32)
    for run in (64, 128, 256):
        assert np.allclose(rotated(rotated(rows, run), run), rows, atol=1e-5)
    assert rotated(rows, 0) is rows


# ---------------------------------------------------------------- the engine's own


@cache
def native(path: Path) -> NativeModel:
    init()
    return NativeModel(str(path), Settings(n_ctx=256, use_extra_bufts=False), log())


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    folder = tmp_path_factory.mktemp("models")
    yield {
        "dense": demo_model_path(),
        "windowed": model(folder / "windowed.gguf", windowed),
        "hybrid": model(folder / "hybrid.gguf", hybrid),
    }
    native.cache_clear()


def read(of: NativeModel, pair: tuple[str, str], tokens: list[int]) -> tuple[Context, Block]:
    settings = Settings(256, *pair, n_ubatch=32, use_extra_bufts=False)
    context = Context(of, settings, 1, log())
    for at in range(0, len(tokens), 32):
        assert context.decode(tokens[at : at + 32]) == DECODE_OK
    state = context.state(partial=False)
    assert state is not None
    return context, state


def predicted(context: Context, token: int, n_vocab: int) -> np.ndarray:
    assert context.decode([token]) == DECODE_OK
    return log_probabilities(np.ctypeslib.as_array(context.logits, (n_vocab,)).copy())


@pytest.mark.parametrize(
    ("kind", "rotations"),
    [("dense", [Rotation(64, 64)]), ("windowed", [Rotation(), Rotation()]),
     ("hybrid", [Rotation()])],
)  # fmt: skip
def test_a_converted_cache_predicts_what_the_engine_own_does(
    paths: dict[str, Path], kind: str, rotations: list[Rotation]
) -> None:
    """How it is rotated is seen; then the converted state of f16 is no further from it than a
    state that was read with those types."""
    of = native(paths[kind])
    tokens = [1 + n * 7 % 50 for n in range(20)] if kind != "dense" else of.tokenize(
        "The sky is blue because the air scatters short waves of light more than long ones."
    )  # fmt: skip
    plain, state = read(of, ("f16", "f16"), tokens)
    with closing(plain), state.view() as f16:
        own, quantized = read(of, ("q8_0", "q8_0"), tokens)
        with closing(own), quantized.view() as q8_0:
            assert [*seen_rotations(f16, q8_0, libraries)] == rotations
        expected = predicted(plain, tokens[3], of.n_vocab)
        for pair in (("q8_0", "q8_0"), ("q8_0", "q4_0")):
            context, native_state = read(of, pair, tokens)
            with closing(context):
                read_so = predicted(context, tokens[3], of.n_vocab)
                context.clear()
                data = as_other(bytes(f16), F16, Pair.named(*pair), *rotations)
                assert len(data) == native_state.n_bytes
                block = Block.in_ram(len(data))
                assert block is not None
                with block.view() as target:
                    target[:] = data
                assert context.restore(block, partial=False)
                converted = predicted(context, tokens[3], of.n_vocab)
            most = 2 * divergence(expected, read_so) + 0.05
            assert divergence(expected, converted) <= most


def test_types_that_are_no_blocks_of_a_row_are_refused() -> None:
    state = written([np.ones((2, 16), np.float32)] * 2, F16, 1, extra=False)
    with pytest.raises(StateError, match="q8_0"):
        converted_size(memoryview(state), F16, Pair(CACHE_TYPES["q8_0"], CACHE_TYPES["f16"]))


def test_a_model_whose_cache_is_not_understood_is_refused() -> None:
    chance = np.random.default_rng(1)
    floats = [chance.standard_normal((32, 64)).astype(np.float32) for _ in range(2)]
    other = [chance.standard_normal((32, 64)).astype(np.float32) for _ in range(2)]
    state = written(floats, F16, 1, extra=False)
    theirs = written(other, Pair.named("q8_0", "q8_0"), 1, extra=False)
    with pytest.raises(StateError):
        seen_rotations(memoryview(state), memoryview(theirs), libraries)
