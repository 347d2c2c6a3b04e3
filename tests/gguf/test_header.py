"""The header reader: every type, split models, and each way in which a file can be wrong."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.support.gguf_files import (
    ARRAY,
    BF16,
    BOOL,
    F16,
    F32,
    FLOAT32,
    FLOAT64,
    INT8,
    INT16,
    INT32,
    INT64,
    Q4_0,
    Q4_K,
    STRING,
    UINT8,
    UINT16,
    UINT32,
    UINT64,
    Tensor,
    Typed,
    header_bytes,
    tiny_llama,
    write_gguf,
    write_split,
)
from tuner.errors import ExitCode, FileError
from tuner.gguf import part
from tuner.gguf.header import SkippedArray, read_header


def refusal(path: Path) -> FileError:
    with pytest.raises(FileError) as caught:
        read_header(path)
    message = str(caught.value)
    assert str(caught.value.path) in message
    assert "\n" not in message
    assert message.endswith(".")
    assert caught.value.exit_code == ExitCode.FILE
    return caught.value


def damaged(tmp_path: Path, data: bytes) -> FileError:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    return refusal(path)


# ---------------------------------------------------------------- good files


@pytest.mark.parametrize("version", [2, 3])
def test_every_metadata_type_is_read(tmp_path: Path, version: int) -> None:
    values: dict[str, tuple[Typed, Any]] = {
        "u8": (Typed(255, UINT8), 255),
        "i8": (Typed(-128, INT8), -128),
        "u16": (Typed(65535, UINT16), 65535),
        "i16": (Typed(-32768, INT16), -32768),
        "u32": (Typed(2**32 - 1, UINT32), 2**32 - 1),
        "i32": (Typed(-(2**31), INT32), -(2**31)),
        "f32": (Typed(0.5, FLOAT32), 0.5),
        "bool": (Typed(True, BOOL), True),
        "text": (Typed("größe", STRING), "größe"),
        "u64": (Typed(2**64 - 1, UINT64), 2**64 - 1),
        "i64": (Typed(-(2**63), INT64), -(2**63)),
        "f64": (Typed(1e-300, FLOAT64), 1e-300),
        "empty": (Typed([], ARRAY, UINT32), ()),
        "flags": (Typed([True, False], ARRAY, BOOL), (True, False)),
        "floats": (Typed([0.25, -1.0], ARRAY, FLOAT64), (0.25, -1.0)),
        "words": (Typed(["a", "bc"], ARRAY, STRING), SkippedArray(STRING, 2)),
    }
    path = write_gguf(tmp_path / "m.gguf", {k: v for k, (v, _) in values.items()}, version=version)

    header = read_header(path)

    assert header.version == version
    assert header.metadata == {k: expected for k, (_, expected) in values.items()}
    assert header.metadata["bool"] is True


def test_per_layer_arrays_are_kept_and_longer_ones_stepped_over(tmp_path: Path) -> None:
    heads = list(range(1024))
    path = write_gguf(
        tmp_path / "m.gguf",
        {"heads": heads, "scores": [0.0] * 1025, "tokens": ["x" * (n % 300) for n in range(2000)]},
    )

    metadata = read_header(path).metadata

    assert metadata["heads"] == tuple(heads)
    assert metadata["scores"] == SkippedArray(FLOAT32, 1025)
    assert metadata["tokens"] == SkippedArray(STRING, 2000)


def test_tensor_table_sizes_and_offsets(tmp_path: Path) -> None:
    tensors = [
        Tensor("a", (64, 3), Q4_0),
        Tensor("b", (5,), F32),
        Tensor("c", (256, 2, 2, 2), Q4_K),
        Tensor("d", (), F16),
        Tensor("e", (3, 0), BF16),
    ]
    path = write_gguf(tmp_path / "m.gguf", {"general.alignment": 64}, tensors)

    header = read_header(str(path))

    assert [t.name for t in header.tensors] == ["a", "b", "c", "d", "e"]
    assert [t.n_bytes for t in header.tensors] == [108, 20, 1152, 2, 0]
    assert [t.offset for t in header.tensors] == [0, 128, 192, 1344, 1408]
    # gguf.cpp takes one without dimensions too, as one element
    assert [t.shape for t in header.tensors] == [t.shape or (1,) for t in tensors]
    assert header.file_sizes == (path.stat().st_size,)
    assert header.data_offsets[0] % 64 == 0
    assert header.data_offsets[0] + 1408 == header.file_sizes[0]


def test_agrees_with_the_gguf_package(tmp_path: Path) -> None:
    """The package's own reader sees the same tensors at the same bytes."""
    gguf = pytest.importorskip("gguf")
    path = tiny_llama(tmp_path / "m.gguf")

    header = read_header(path)

    theirs = {t.name: t for t in gguf.GGUFReader(path).tensors}
    assert {t.name for t in header.tensors} == set(theirs)
    for ours in header.tensors:
        other = theirs[ours.name]
        assert header.data_offsets[0] + ours.offset == other.data_offset
        assert ours.n_bytes == other.n_bytes
        assert list(ours.shape) == other.shape.tolist()
        assert prod(ours.shape) == other.n_elements


def test_a_file_of_the_gguf_packages_writer(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    numpy = pytest.importorskip("numpy")
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(3)
    writer.add_head_count_kv([4, 0, 4])
    writer.add_token_list(["a"] * 40)
    writer.add_tensor("output_norm.weight", numpy.zeros((8, 32), dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    header = read_header(path)

    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["llama.attention.head_count_kv"] == (4, 0, 4)
    assert header.metadata["tokenizer.ggml.tokens"] == SkippedArray(STRING, 40)
    assert [(t.shape, t.n_bytes) for t in header.tensors] == [((32, 8), 1024)]


def test_a_large_vocabulary_is_stepped_over(tmp_path: Path) -> None:
    """262k tokens, as Gemma 3 has: no function is called for each of them and none is kept."""
    path = write_gguf(tmp_path / "m.gguf", {"t": [f"token{n:x}" for n in range(262_144)]})

    assert _calls(lambda: read_header(path)) < 1000
    assert isinstance(read_header(path).metadata["t"], SkippedArray)


def _calls(work: Callable[[], object]) -> int:
    """How many Python functions are called while `work` runs."""
    count = 0

    def counted(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def test_huge_strings_are_stepped_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "KEPT_STRING", 1000)
    monkeypatch.setattr(part, "KEPT_STRINGS", 1800)
    texts = {"a": "x" * 1000, "b": "x" * 1001, "c": "y" * 900, "d": "z" * 700}
    metadata = read_header(write_gguf(tmp_path / "m.gguf", texts)).metadata

    assert metadata["a"] == texts["a"]
    assert metadata["b"] == SkippedArray(UINT8, 1001)
    assert metadata["c"] == SkippedArray(UINT8, 900), "over what one file may keep in all"
    assert metadata["d"] == texts["d"]


# ---------------------------------------------------------------- split models


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    return write_split(
        tmp_path,
        "big",
        {"general.architecture": "llama", "general.name": "Big"},
        [[Tensor("a", (64,))], [Tensor("b", (32,)), Tensor("c", (8,))], [Tensor("d", (16,))]],
    )


@pytest.mark.parametrize("given", [0, 1, 2])
def test_any_part_of_a_split_model_gives_the_whole(parts: list[Path], given: int) -> None:
    header = read_header(parts[given])

    assert header.path == parts[0]
    assert header.metadata["general.name"] == "Big"
    assert [(t.name, t.part) for t in header.tensors] == [("a", 0), ("b", 1), ("c", 1), ("d", 2)]
    assert header.file_sizes == tuple(p.stat().st_size for p in parts)
    assert len(header.data_offsets) == 3


@pytest.mark.parametrize(("given", "gone"), [(0, 1), (0, 2), (1, 0), (2, 1)])
def test_a_missing_part_is_named(parts: list[Path], given: int, gone: int) -> None:
    parts[gone].unlink()

    error = refusal(parts[given])

    assert error.kind == "missing_part"
    assert parts[gone].name in str(error)


def test_many_missing_parts_do_not_flood_the_message(tmp_path: Path) -> None:
    paths = write_split(tmp_path, "big", {}, [[Tensor(f"t{n}", (8,))] for n in range(40)])
    for path in paths[1:]:
        path.unlink()

    message = str(refusal(paths[0]))

    assert "big-00002-of-00040.gguf" in message
    assert "36 more" in message


def test_a_cut_part_is_the_one_that_is_named(parts: list[Path]) -> None:
    with parts[1].open("r+b") as file:
        file.truncate(parts[1].stat().st_size - 40)

    error = refusal(parts[0])

    assert (error.kind, error.path) == ("truncated", parts[1])


def test_a_renamed_part_is_refused(parts: list[Path]) -> None:
    error = refusal(parts[0].rename(parts[0].with_name("model.gguf")))
    assert error.kind == "malformed"
    assert "NAME-00001-of-00003.gguf" in str(error)


def test_parts_in_the_wrong_place_are_refused(parts: list[Path]) -> None:
    swap = parts[1].with_name("swap")
    parts[1].rename(swap)
    parts[2].rename(parts[1])
    swap.rename(parts[2])
    assert refusal(parts[0]).kind == "malformed"


def test_parts_with_the_same_tensor_are_refused(tmp_path: Path) -> None:
    paths = write_split(tmp_path, "m", {}, [[Tensor("a", (8,))], [Tensor("a", (8,))]])
    assert "'a'" in str(refusal(paths[0]))


def test_a_part_with_too_few_tensors_is_refused(parts: list[Path]) -> None:
    keys = {"split.no": Typed(2, UINT16), "split.count": Typed(3, UINT16)}
    write_gguf(parts[2], keys, [])
    error = refusal(parts[0])
    assert error.kind == "malformed"
    assert "3 tensors instead of 4" in str(error)


@pytest.mark.parametrize("count", ["three", 2.5, [1, 2]])
def test_a_count_of_parts_that_is_no_number_is_refused(tmp_path: Path, count: object) -> None:
    """Nobody can say which other parts there are."""
    error = refusal(write_gguf(tmp_path / "m.gguf", {"split.count": count}, []))
    assert error.kind == "malformed"
    assert "damaged split.count" in str(error)


def test_a_whole_model_may_be_named_like_a_part(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m-00001-of-00002.gguf", {}, [Tensor("a", (8,))])
    assert len(read_header(path).tensors) == 1


# ---------------------------------------------------------------- not a usable file


def test_missing(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.gguf").kind == "missing"
    assert refusal(tmp_path / ("x" * 5000)).kind == "missing"
    assert refusal(tmp_path / "a\0b").kind == "missing"
    (tmp_path / "file").write_bytes(b"x")
    assert refusal(tmp_path / "file" / "m.gguf").kind == "missing"


def test_directory_names_a_model_inside(tmp_path: Path) -> None:
    assert refusal(tmp_path).kind == "directory"
    tiny_llama(tmp_path / "inside.gguf")
    assert "inside.gguf" in str(refusal(tmp_path))


def test_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_llama(tmp_path / "m.gguf")

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert refusal(path).kind == "permission"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refuse)
        assert refusal(path).kind == "permission"


def test_empty(tmp_path: Path) -> None:
    assert damaged(tmp_path, b"").kind == "empty"


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes with names here")
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe").kind == "not_gguf"


@pytest.mark.parametrize(
    ("start", "hint"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(40), "PyTorch"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"tjgg\x03\0\0\0" + bytes(40), "old GGML"),
        (struct.pack("<Q", 30) + b'{"__metadata__":{}}', "safetensors"),
        (b"\x7fELF" + bytes(40), "not a GGUF file"),
    ],
)
def test_other_formats_are_recognised(tmp_path: Path, start: bytes, hint: str) -> None:
    error = damaged(tmp_path, start)
    assert error.kind == "not_gguf"
    assert hint in str(error)


@pytest.mark.parametrize(
    ("version", "hint"), [(0, "version 0"), (1, "version 1"), (4, "version 4"), (3 << 24, "endian")]
)
def test_other_versions_are_refused(tmp_path: Path, version: int, hint: str) -> None:
    error = damaged(tmp_path, header_bytes({"a": 1}, version=version))
    assert error.kind == "unsupported_version"
    assert error.offset == 4
    assert hint in str(error)


def test_missing_tensor_data_is_counted(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m.gguf")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - 4096)

    error = refusal(path)

    assert error.kind == "truncated"
    assert "4,096 bytes" in str(error)
    assert error.offset == size - 4096


def test_padding_after_the_last_tensor_may_be_missing(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {}, [Tensor("a", (3,))])
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 20)
    assert read_header(path).tensors[0].n_bytes == 12
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    assert "last 1 bytes" in str(refusal(path))


# ---------------------------------------------------------------- hostile files


HUGE = 2**64 - 1


def kv(key: bytes, body: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, len(key)) + key + body


@pytest.mark.parametrize(
    ("data", "kind", "offset", "says"),
    [
        (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0), "malformed", 8, "tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE), "malformed", 16, "metadata keys"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 10**9), "truncated", 24, "byte 24"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, HUGE), "malformed", 24, "metadata key"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 65_536), "malformed", 24, "metadata key"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 0), "malformed", 24, "no name"),
        (kv(b"k", struct.pack("<I", 13)), "incompatible", 33, "unknown type 13"),
        (kv(b"k", struct.pack("<IQ", 8, HUGE)), "malformed", 37, "'k'"),
        (kv(b"k", struct.pack("<IQ", 8, 1 << 29)), "truncated", 45, "byte 45"),
        (kv(b"k", struct.pack("<IIQ", 9, 9, 1)), "incompatible", 37, "an array"),
        (kv(b"k", struct.pack("<IIQ", 9, 77, 1)), "malformed", 37, "unknown type 77"),
        (kv(b"k", struct.pack("<IIQ", 9, 4, HUGE)), "malformed", 41, "'k'"),
        (kv(b"k", struct.pack("<IIQ", 9, 4, 1 << 29)), "truncated", 49, "byte 49"),
        (kv(b"k", struct.pack("<IIQ", 9, 8, 1 << 29)), "malformed", 41, "strings"),
        (kv(b"k", struct.pack("<IIQQ", 9, 8, 2, HUGE)), "malformed", 49, "a string in 'k'"),
        (kv(b"k", struct.pack("<IIQQ", 9, 8, 2, 2**63 - 60)), "malformed", 49, "a string in 'k'"),
        (kv(b"k", struct.pack("<IIQQ", 9, 8, 2, 1)), "truncated", 57, "byte 57"),
        (kv(b"k", struct.pack("<IIQQ", 9, 8, 2, 0)), "truncated", 57, "byte 57"),
        (kv(b"general.alignment", struct.pack("<IQ", 10, 32)), "incompatible", 49, "type 10"),
    ],
)
def test_lengths_and_types_outside_the_file(
    tmp_path: Path, data: bytes, kind: str, offset: int, says: str
) -> None:
    error = damaged(tmp_path, data)
    assert (error.kind, error.offset) == (kind, offset)
    assert says in str(error)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ([Tensor("a", (8,)), Tensor("a", (8,))], "twice"),
        ([Tensor("x" * 1025, (8,))], "length 1025"),
        ([Tensor("a", (1,) * 17)], "17 dimensions"),
        ([Tensor("a", (2**32, 2**32))], "shape"),
        ([Tensor("a", (2**63,))], "shape"),
        ([Tensor("a", (2**63, 0))], "shape"),
        ([Tensor("a", (8,), -1)], "unknown type"),
        ([Tensor("a", (8,), 1024)], "'a' has the unknown type 1024"),
        ([Tensor("a", (48,), Q4_0)], "q4_0"),
        ([Tensor("a", (8,), offset=33)], "instead of 0"),
        ([Tensor("a", (8,), offset=1 << 40)], "instead of 0"),
        ([Tensor("a", (8,)), Tensor("b", (8,), offset=0)], "instead of 32"),
        ([Tensor("a", (8,), offset=64), Tensor("b", (8,), offset=32)], "instead of 0"),
    ],
)
def test_impossible_tensors(tmp_path: Path, tensors: list[Tensor], says: str) -> None:
    error = damaged(tmp_path, header_bytes({}, tensors) + bytes(4096))
    assert error.kind == "malformed"
    assert "damaged" in str(error)
    assert error.offset is not None
    assert says in str(error)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ([Tensor("x" * 64, (8,))], "length 64"),
        ([Tensor("a", (1, 1, 1, 1, 1))], "5 dimensions"),
        ([Tensor("a", (8,), 31)], "'a' has the type 31"),
        ([Tensor("a", (8,), offset=32)], "instead of 0"),
        ([Tensor("a", (8,)), Tensor("b", (8,), offset=64)], "instead of 32"),
    ],
)
def test_tensors_of_other_programs(tmp_path: Path, tensors: list[Tensor], says: str) -> None:
    """What another program may well write, and this llama.cpp does not read, is no damage."""
    error = damaged(tmp_path, header_bytes({}, tensors) + bytes(4096))
    assert error.kind == "incompatible"
    assert error.offset is not None
    assert says in str(error)
    assert "damaged" not in str(error)
    assert "download it again" not in str(error)


@pytest.mark.parametrize(
    ("alignment", "kind"), [(0, "malformed"), (24, "incompatible"), (2**32 - 1, "malformed")]
)
def test_alignment_must_be_a_power_of_two(tmp_path: Path, alignment: int, kind: str) -> None:
    """The format allows any multiple of 8."""
    metadata = {"general.alignment": alignment}
    error = damaged(tmp_path, header_bytes(metadata, [Tensor("a", (8,))]) + bytes(4096))
    assert error.kind == kind
    assert "power of two" in str(error)


def test_duplicate_keys(tmp_path: Path) -> None:
    data = bytearray(header_bytes({"ka": 1, "kb": 2}))
    data[data.index(b"kb") + 1] = ord("a")
    error = damaged(tmp_path, bytes(data))
    assert error.kind == "malformed"
    assert "'ka' occurs twice" in str(error)


def test_names_from_the_file_cannot_write_on_the_terminal(tmp_path: Path) -> None:
    tensors = [Tensor("\x1b[2Jevil", (8,), 31)]
    assert "\x1b" not in str(damaged(tmp_path, header_bytes({}, tensors)))


def test_terabytes_of_zeros_end_soon(tmp_path: Path) -> None:
    """Zeros look like empty strings: the claim is refused, not walked through."""
    path = tmp_path / "m.gguf"
    with path.open("wb") as file:
        file.write(kv(b"k", struct.pack("<IIQ", 9, 8, 1 << 28)))
        try:
            file.truncate(1 << 40)
        except OSError:
            pytest.skip("no sparse file of this size here")
    assert _calls(lambda: refusal(path)) < 1000


def test_a_file_that_is_cut_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the end falls, what was there when it was opened is missed in one sentence."""
    path = tmp_path / "m.gguf"
    whole = header_bytes({f"key.{n}": [n] * 20 for n in range(9)}, [Tensor("a", (8,))]) + bytes(32)
    read_key = part._Cursor.key_value
    monkeypatch.setattr(part, "_BLOCK", 64)
    for cut in range(1, 9):
        path.write_bytes(whole)
        seen = 0

        def cutting(cursor: Any, cut: int = cut) -> None:
            nonlocal seen
            seen += 1
            if seen == cut:
                os.truncate(path, 40 + cut)
            read_key(cursor)

        monkeypatch.setattr(part._Cursor, "key_value", cutting)
        assert refusal(path).kind == "truncated"


def test_a_pipe_that_takes_the_files_place_does_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at once more when it is open."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes with names here")
    path = tiny_llama(tmp_path / "m.gguf")
    opening = os.open

    def swapped(name: Any, *args: Any) -> int:
        path.unlink()
        os.mkfifo(path)
        return opening(name, *args)

    monkeypatch.setattr(os, "open", swapped)
    assert refusal(path).kind == "not_gguf"


@pytest.mark.parametrize("kind", [STRING, 99])
def test_long_names_are_cut_in_messages(tmp_path: Path, kind: int) -> None:
    name = b"n" * 60_000
    data = kv(name, struct.pack("<IQ", kind, HUGE)) + bytes(80)
    assert len(str(damaged(tmp_path, data))) < len(str(tmp_path)) + 200


@pytest.mark.parametrize(
    ("n_keys", "n_tensors", "says"), [(20_000, 0, "20,000 metadata keys"), (0, 70_000, "70,000")]
)
def test_more_than_any_model_has(tmp_path: Path, n_keys: int, n_tensors: int, says: str) -> None:
    tensors = [Tensor(f"t{n}", (0,)) for n in range(n_tensors)]
    error = damaged(tmp_path, header_bytes({f"k{n}": True for n in range(n_keys)}, tensors))
    assert error.kind == "malformed"
    assert says in str(error)


def test_what_is_kept_of_one_file_is_bounded(tmp_path: Path) -> None:
    """Long names, many arrays, long texts: each within limits of its own, together too many."""
    path = write_gguf(tmp_path / "names.gguf", {f"{n:0>60000}": True for n in range(200)})
    assert "names without end" in str(refusal(path))
    path = write_gguf(tmp_path / "arrays.gguf", {f"a{n}": [n] * 1000 for n in range(300)})
    kept = [v for v in read_header(path).metadata.values() if isinstance(v, tuple)]
    assert sum(map(len, kept)) == part.KEPT_ELEMENTS // 1000 * 1000
    path = write_gguf(tmp_path / "texts.gguf", {f"t{n}": "x" * 900_000 for n in range(9)})
    texts = [v for v in read_header(path).metadata.values() if isinstance(v, str)]
    assert sum(map(len, texts)) <= part.KEPT_STRINGS


def test_a_header_is_not_read_without_end(tmp_path: Path) -> None:
    """Strings that lie far apart, in a file of terabytes that takes no room."""
    path = tmp_path / "m.gguf"
    with path.open("wb") as file:
        file.write(kv(b"k", struct.pack("<IIQ", 9, 8, 1 << 22)))
        for n in range(5000):
            file.seek(49 + n * 100_000)
            file.write(struct.pack("<Q", 100_000 - 8))
        try:
            file.truncate(1 << 40)
        except OSError:
            pytest.skip("no sparse file of this size here")
    assert "longer than 128 MiB" in str(refusal(path))


def test_a_count_of_tensors_means_nothing_in_a_whole_model(tmp_path: Path) -> None:
    """llama.cpp reads it only beside a split.count above 1."""
    path = write_gguf(tmp_path / "m.gguf", {"split.tensors.count": "many"}, [Tensor("a", (8,))])
    assert len(read_header(path).tensors) == 1


def test_the_types_of_values_are_kept(tmp_path: Path) -> None:
    metadata = {
        "a": Typed(1, UINT64),
        "b": "text",
        "c": ["x", "y"],
        "d": Typed([1.0], ARRAY, FLOAT32),
        "e": True,
        "f": 2,
    }
    header = read_header(write_gguf(tmp_path / "m.gguf", metadata))
    expected = {"a": "u64", "b": "str", "c": "arr[str]", "d": "arr[f32]", "e": "bool", "f": "u32"}
    assert header.value_types == expected
