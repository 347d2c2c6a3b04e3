"""The header reader against generated files: what was written is read, and damage of any kind
gives a Header or a FileError, in little memory."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.gguf_files import (
    _FORMATS,
    ARRAY,
    BOOL,
    F16,
    F32,
    FLOAT32,
    FLOAT64,
    Q4_0,
    Q4_K,
    STRING,
    Tensor,
    Typed,
    header_bytes,
    write_gguf,
)
from tuner.errors import FileError
from tuner.gguf import part
from tuner.gguf.header import Header, SkippedArray, read_header
from tuner.gguf.keys import Keys
from tuner.gguf.limits import LIMITS, limit

SETTINGS = settings(
    deadline=None,
    derandomize=True,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def _scalars(kind: int) -> st.SearchStrategy[Any]:
    if kind == STRING:
        return st.text(max_size=30)
    if kind == BOOL:
        return st.booleans()
    if kind in (FLOAT32, FLOAT64):
        return st.floats(width=32 if kind == FLOAT32 else 64, allow_nan=False)
    bits = 8 * struct.calcsize(_FORMATS[kind])
    signed = _FORMATS[kind][-1].islower()
    low = -(1 << (bits - 1)) if signed else 0
    return st.integers(low, low + (1 << bits) - 1)


_kinds = st.sampled_from([*_FORMATS, STRING])
_values = st.one_of(
    _kinds.flatmap(lambda k: st.builds(Typed, _scalars(k), st.just(k))),
    _kinds.flatmap(
        lambda k: st.builds(Typed, st.lists(_scalars(k), max_size=8), st.just(ARRAY), st.just(k))
    ),
)
_names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=15)
_metadata = st.dictionaries(_names.filter(lambda k: k != "general.alignment"), _values, max_size=6)
_shapes = st.lists(st.integers(0, 5), max_size=3).flatmap(
    lambda rest: st.integers(0, 3).map(lambda blocks: (256 * blocks, *rest))
)
_tensors = st.lists(
    st.builds(Tensor, _names, _shapes, st.sampled_from([F32, F16, Q4_0, Q4_K])),
    max_size=6,
    unique_by=lambda t: t.name,
)


@SETTINGS
@given(_metadata, _tensors, st.sampled_from([2, 3]), st.sampled_from([None, 1, 32, 256]))
def test_what_was_written_is_read(
    tmp_path: Path,
    metadata: dict[str, Typed],
    tensors: list[Tensor],
    version: int,
    alignment: int | None,
) -> None:
    keys: dict[str, Any] = dict(metadata)
    if alignment is not None:
        keys["general.alignment"] = alignment
    if any(k.startswith("split.") for k in keys):
        return

    header = read_header(write_gguf(tmp_path / "m.gguf", keys, tensors, version=version))

    assert dict(header.metadata) == {k: _as_read(v) for k, v in keys.items()}
    assert [(t.name, t.shape, t.ggml_type, t.n_bytes) for t in header.tensors] == [
        (t.name, t.shape, t.ggml_type, t.n_bytes) for t in tensors
    ]


def _as_read(value: Any) -> Any:
    if not isinstance(value, Typed):
        return value
    if value.type != ARRAY:
        return value.value
    if value.element == STRING:
        return SkippedArray(STRING, len(value.value))
    return tuple(value.value)


def _sample(alignment: int = 32) -> bytes:
    metadata = {
        "general.architecture": "llama",
        "general.alignment": alignment,
        "llama.attention.head_count_kv": [4, 4, 2],
        "tokenizer.ggml.tokens": ["<s>", "", "hello", "w" * 40],
        "tokenizer.ggml.scores": [0.5, 1.5],
        "flag": True,
        "nothing": [],
        "big": 1 << 40,
    }
    tensors = [Tensor("a.weight", (32, 4), Q4_0), Tensor("b.weight", (7,)), Tensor("c", (256,), 12)]
    return header_bytes(metadata, tensors) + bytes(72 + 24 + 32 + 144)


def outcome(path: Path) -> Header | FileError:
    try:
        return read_header(path)
    except FileError as error:
        return error


def test_a_file_cut_anywhere_is_never_accepted(tmp_path: Path) -> None:
    data, path = _sample(), tmp_path / "m.gguf"
    path.write_bytes(data)
    assert isinstance(outcome(path), Header)
    for size in range(len(data)):
        path.write_bytes(data[:size])
        error = outcome(path)
        assert isinstance(error, FileError), size
        assert error.kind == ("truncated" if size else "empty"), size


@pytest.mark.parametrize("byte", [0x00, 0x01, 0x7F, 0x80, 0xFF])
def test_any_byte_changed_gives_a_header_or_a_refusal(tmp_path: Path, byte: int) -> None:
    data, path = _sample(), tmp_path / "m.gguf"
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([byte]) + data[at + 1 :])
        outcome(path)


@SETTINGS
@given(st.data())
def test_random_damage_takes_little_memory(tmp_path: Path, data: st.DataObject) -> None:
    sample = bytearray(_sample())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(4, len(sample) - 9))
        width = data.draw(st.sampled_from([1, 4, 8]))
        sample[at : at + width] = data.draw(st.binary(min_size=width, max_size=width))
    path = tmp_path / "m.gguf"
    path.write_bytes(bytes(sample))

    tracemalloc.start()
    try:
        outcome(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 1 << 20


@SETTINGS
@given(st.binary(max_size=200))
def test_garbage_after_the_magic(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF\x03\0\0\0" + body)
    outcome(path)


@SETTINGS
@given(st.data(), st.integers(1, 90))
def test_where_blocks_end_does_not_matter(tmp_path: Path, data: st.DataObject, block: int) -> None:
    """Sound or damaged, a file is the same read in crumbs and in one piece."""
    sample = bytearray(_sample())
    for _ in range(data.draw(st.integers(0, 3))):
        sample[data.draw(st.integers(4, len(sample) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "m.gguf"
    path.write_bytes(sample)
    whole = outcome(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part, "_BLOCK", block)
        crumbs = outcome(path)
    if isinstance(whole, FileError):
        assert isinstance(crumbs, FileError)
        assert (str(crumbs), crumbs.offset) == (str(whole), whole.offset)
    else:
        assert repr(crumbs) == repr(whole)  # as text, since no NaN equals another


_anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.one_of(st.integers(-(1 << 63), (1 << 64) - 1), st.floats(), st.text()), max_size=5)
    .map(tuple),
    st.builds(SkippedArray, st.integers(0, 12), st.integers(0, 1 << 30)),
)  # fmt: skip


@SETTINGS
@given(st.sampled_from([*sorted(LIMITS), "feed_forward_length", "context_length"]), _anything)
def test_whatever_a_key_says_a_number_is_within_its_limits(key: str, value: Any) -> None:
    """Or there is none, and an error of the file says so."""
    metadata = {} if value is None else {f"llama.{key}": value}
    keys = Keys(Header(Path("m.gguf"), 3, metadata, {}, (), (0,), (0,)), "llama")
    least, most = limit(key)
    found = [*_numbers(lambda: (keys.integer(key, 1),)), keys.optional(key, 1)]
    found += _numbers(lambda: keys.array(key) or ())
    found += _numbers(lambda: keys.per_layer(key, 3, (1, 1, 1)))
    assert all(type(n) is int and least <= n <= most for n in found)
    assert keys.optional(key, 1) in (1, *_numbers(lambda: (keys.integer(key, 1),)))
    assert keys.flag(key) in (True, False)


def _numbers(read: Callable[[], tuple[int, ...]]) -> list[int]:
    try:
        return [*read()]
    except FileError:
        return []
