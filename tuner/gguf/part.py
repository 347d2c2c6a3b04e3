"""Parses the header of one GGUF file. `header` puts split models together."""

from __future__ import annotations

import mmap
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import NoReturn

from tuner.errors import FileError
from tuner.gguf import package_names
from tuner.gguf.types import GGML_TYPES
from tuner.units import padded

Scalar = bool | int | float | str
Value = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class SkippedArray:
    """An array that was stepped over (token lists, merges): its element type and length."""

    element_type: int  # enum gguf_type
    length: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One row of the tensor table. `shape` is in ggml's order (ne[0] first: the row length)."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int  # enum ggml_type
    offset: int  # bytes from the start of the data section of its part
    n_bytes: int  # ggml_nbytes: no padding
    part: int = 0  # index of the split file that holds it


@dataclass(frozen=True, slots=True)
class Part:
    """The header of one file."""

    path: Path
    size: int
    version: int
    metadata: Mapping[str, Value | SkippedArray]
    tensors: tuple[TensorInfo, ...]
    data_offset: int


# Limits, each far above any real model's. gguf.cpp allows strings of 1 GiB and 2^30 elements; a
# reader that keeps strings and walks over string arrays needs lower ones, since a sparse file
# can hold terabytes of zeros that look like empty strings.
MAX_KEY = 65_535  # bytes; the limit that the format names
MAX_TENSOR_NAME = 63  # bytes; GGML_MAX_NAME in ggml.h, less the terminator
MAX_DIMS = 4  # of a tensor; GGML_MAX_DIMS in ggml.h
MAX_LENGTH = 1 << 30  # bytes of a string, elements of an array; gguf.cpp
KEPT_STRING = 1 << 20  # bytes; a longer one (an embedded tokenizer.json) is stepped over
KEPT_STRINGS = 16 << 20  # bytes of all strings kept from one file
KEPT_ARRAY = 1024  # elements; covers per-layer arrays (llama.cpp allows 512 layers)
STEPPED_STRINGS = 1 << 24  # strings in all arrays of a file; the largest vocabularies have 2^18
MAX_ELEMENTS = (1 << 63) - 1  # of a tensor; gguf.cpp

_UINT8, _UINT32, _BOOL, _STRING, _ARRAY = 0, 4, 7, 8, 9
_SCALARS = {
    0: struct.Struct("<B"), 1: struct.Struct("<b"), 2: struct.Struct("<H"),
    3: struct.Struct("<h"), 4: struct.Struct("<I"), 5: struct.Struct("<i"),
    6: struct.Struct("<f"), 7: struct.Struct("<?"), 10: struct.Struct("<Q"),
    11: struct.Struct("<q"), 12: struct.Struct("<d"),
}  # fmt: skip
_U32, _U64 = _SCALARS[4], _SCALARS[10]
_DIMS = tuple(struct.Struct(f"<{n}Q") for n in range(MAX_DIMS + 1))
_PLACE = struct.Struct("<IQ")  # type and offset of a tensor

# What people pass instead of a GGUF file, by how it begins.
_OTHER_FORMATS = (
    (b"version https://git-lfs", "a Git LFS pointer; run `git lfs pull` to fetch the model"),
    (b"PK\x03\x04", "a zip or PyTorch file; convert the model to GGUF"),
    (b"<", "a web page; download the .gguf file itself"),
    (b"lmgg", "in the old GGML format; download the model as GGUF"),
    (b"fmgg", "in the old GGML format; download the model as GGUF"),
    (b"tjgg", "in the old GGML format; download the model as GGUF"),
)


def read_part(path: Path) -> Part:
    """The header of one file. Raises FileError."""
    try:
        mode = path.stat().st_mode
    except PermissionError as error:
        _refuse_access(path, error)
    except (OSError, ValueError):  # no such file, a loop of links, a name that cannot be one
        raise FileError(
            "missing", path, f"{path} does not exist; check the path of the model file."
        ) from None
    if stat.S_ISDIR(mode):
        inside = next(iter(sorted(path.glob("*.gguf"))), None)
        hint = f", for example {inside}" if inside else ""
        raise FileError("directory", path, f"{path} is a folder; name a .gguf file instead{hint}.")
    if not stat.S_ISREG(mode):  # opening a pipe would block
        raise FileError("not_gguf", path, f"{path} is not a file; name a .gguf file instead.")
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size == 0:
                raise FileError("empty", path, f"{path} is empty; download it again.")
            with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
                return _Cursor(path, data, size).read()
    except OSError as error:
        _refuse_access(path, error)


def _refuse_access(path: Path, error: OSError) -> NoReturn:
    reason = error.strerror or str(error)
    raise FileError(
        "permission", path, f"{path} cannot be read ({reason}); check that you may read it."
    ) from None


@dataclass(slots=True)
class _Cursor:
    """A position in the bytes of one file, and what was found up to there."""

    path: Path
    data: mmap.mmap | bytes
    size: int
    pos: int = 0
    kept: int = 0  # bytes of strings
    stepped: int = 0  # strings in arrays
    metadata: dict[str, Value | SkippedArray] = field(default_factory=dict)

    def read(self) -> Part:
        magic = bytes(self.data[:24])
        if magic[:4] != b"GGUF":
            self._refuse_format(magic)
        self.pos = 4
        version = self.scalar(_U32)
        self._check_version(version)
        n_tensors, n_keys = self.scalar(_U64), self.scalar(_U64)
        for what, n, at in (("tensors", n_tensors, 8), ("metadata keys", n_keys, 16)):
            if n > MAX_LENGTH:
                self.malformed(f"it claims {n} {what}", at)
        for _ in range(n_keys):
            self.key_value()
        tensors = self.tensor_table(n_tensors)
        if not tensors:
            return Part(self.path, self.size, version, self.metadata, (), self.pos)
        alignment = self.alignment()
        data_offset = padded(self.pos, alignment)
        self._check_places(tensors, data_offset, alignment)
        return Part(self.path, self.size, version, self.metadata, tuple(tensors), data_offset)

    # ------------------------------------------------ pieces

    def scalar(self, form: struct.Struct) -> int:
        at = self.pos
        self.pos = at + form.size
        if self.pos > self.size:
            self.truncated()
        return form.unpack_from(self.data, at)[0]  # type: ignore[no-any-return]

    def length(self, what: str, limit: int = MAX_LENGTH) -> int:
        n = self.scalar(_U64)
        if n > limit:
            self.malformed(f"{what} has length {n}", self.pos - 8)
        return n

    def raw(self, n: int) -> bytes:
        at = self.pos
        self.pos = at + n
        if self.pos > self.size:
            self.truncated()
        return bytes(self.data[at : self.pos])

    def skip(self, n: int) -> None:
        self.pos += n
        if self.pos > self.size:
            self.truncated()

    def name(self, what: str, limit: int) -> str:
        # A name that is no UTF-8 must still stay different from every other name.
        return self.raw(self.length(what, limit)).decode("utf-8", "backslashreplace")

    # ------------------------------------------------ metadata

    def key_value(self) -> None:
        at = self.pos
        key = self.name("the name of a metadata key", MAX_KEY)
        if not key:
            self.malformed("a metadata key has no name", at)
        if key in self.metadata:
            self.malformed(f"the metadata key {key!r} occurs twice", at)
        kind = self.scalar(_U32)
        if key == "general.alignment" and kind != _UINT32:
            self.malformed(f"general.alignment has type {kind}", self.pos - 4)
        self.metadata[key] = self.value(key, kind)

    def value(self, key: str, kind: int) -> Value | SkippedArray:
        if kind == _ARRAY:
            return self.array(key)
        if kind == _STRING:
            return self.string(key)
        form = _SCALARS.get(kind)
        if form is None:
            self.malformed(f"the metadata key {key!r} has the unknown type {kind}", self.pos - 4)
        return self.scalar(form)

    def string(self, key: str) -> Value | SkippedArray:
        n = self.length(f"the text of {key!r}")
        self.kept += n
        if n > KEPT_STRING or self.kept > KEPT_STRINGS:
            self.kept -= n
            self.skip(n)
            return SkippedArray(_UINT8, n)
        return self.raw(n).decode("utf-8", "replace")

    def array(self, key: str) -> Value | SkippedArray:
        kind = self.scalar(_U32)
        at = self.pos
        n = self.length(f"the array {key!r}")
        if kind == _STRING:
            self.step_over_strings(key, n, at)
            return SkippedArray(kind, n)
        form = _SCALARS.get(kind)
        if form is None:
            what = "an array" if kind == _ARRAY else f"the unknown type {kind}"
            self.malformed(f"the elements of {key!r} have {what} as their type", at - 4)
        start = self.pos
        self.skip(n * form.size)
        if n > KEPT_ARRAY:
            return SkippedArray(kind, n)
        return struct.unpack_from(f"<{n}{form.format[-1]}", self.data, start)

    def step_over_strings(self, key: str, n: int, at: int) -> None:
        """The hot loop: 262,144 tokens of a large vocabulary."""
        self.stepped += n
        if self.stepped > STEPPED_STRINGS:
            self.malformed(f"the array {key!r} claims {n} strings", at)
        data, pos, last = self.data, self.pos, self.pos
        unpack = _U64.unpack_from
        try:
            for _ in range(n):
                (length,) = unpack(data, pos)
                last = pos
                pos += length + 8
        except (struct.error, OverflowError):  # `pos` has left the file
            pos = self.size + 1
        if pos > self.size:
            self.pos = last
            self.skip(self.length(f"a string in {key!r}"))
            self.truncated()
        self.pos = pos

    # ------------------------------------------------ tensors

    def tensor_table(self, n_tensors: int) -> list[TensorInfo]:
        tensors: list[TensorInfo] = []
        names: set[str] = set()
        for _ in range(n_tensors):
            at = self.pos
            tensor = self.tensor()
            if tensor.name in names:
                self.malformed(f"the tensor {tensor.name!r} occurs twice", at)
            names.add(tensor.name)
            tensors.append(tensor)
        return tensors

    def tensor(self) -> TensorInfo:
        name = self.name("the name of a tensor", MAX_TENSOR_NAME)
        at = self.pos
        n_dims = self.scalar(_U32)
        if n_dims > MAX_DIMS:
            self.malformed(f"the tensor {name!r} has {n_dims} dimensions", at)
        self.skip(8 * n_dims)
        shape: tuple[int, ...] = _DIMS[n_dims].unpack_from(self.data, at + 4)
        if prod(n for n in shape if n) > MAX_ELEMENTS:
            self.malformed(f"the tensor {name!r} has the shape {shape}", at + 4)
        at = self.pos
        self.skip(_PLACE.size)
        kind, offset = _PLACE.unpack_from(self.data, at)
        form = GGML_TYPES.get(kind)
        if form is None:
            newer = package_names.tensor_type(kind)
            called = f" ({newer}, newer than this program)" if newer else ""
            self.malformed(f"the tensor {name!r} has the unknown type {kind}{called}", at)
        if (shape[0] if shape else 1) % form.block:
            self.malformed(
                f"the rows of the tensor {name!r} ({shape[0] if shape else 1} elements) do not "
                f"divide into blocks of {form.name}",
                at,
            )
        n_bytes = prod(shape) // form.block * form.block_bytes
        return TensorInfo(name, shape, kind, offset, n_bytes)

    def alignment(self) -> int:
        value = self.metadata.get("general.alignment", 32)
        if not isinstance(value, int) or value <= 0 or value & (value - 1):
            self.malformed(f"general.alignment is {value}, not a power of two", self.pos)
        return value

    def _check_places(self, tensors: list[TensorInfo], start: int, alignment: int) -> None:
        """gguf.cpp wants the tensors one after the other, each padded to the alignment."""
        position = 0
        end = start
        for tensor in tensors:
            if tensor.offset != position:
                self.malformed(
                    f"the tensor {tensor.name!r} lies at {tensor.offset} of the data instead of "
                    f"{position}",
                    self.pos,
                )
            end = max(end, start + position + tensor.n_bytes)
            position += padded(tensor.n_bytes, alignment)
        if end > self.size:
            self.truncated(end - self.size)

    # ------------------------------------------------ refusals

    def _refuse_format(self, magic: bytes) -> NoReturn:
        if b"GGUF".startswith(magic[:4]):
            self.truncated()
        what = next((text for start, text in _OTHER_FORMATS if magic.startswith(start)), None)
        if what is None and magic[8:9] == b"{":
            what = "a safetensors file; convert the model to GGUF"
        raise FileError(
            "not_gguf",
            self.path,
            f"{self.path} is {what or 'not a GGUF file; name a model in GGUF format'}.",
        )

    def _check_version(self, version: int) -> None:
        if version in (2, 3):
            return
        if version & 0xFFFF == 0 and version:
            what = "is a big-endian GGUF file; download the little-endian one."
        elif version == 1:
            what = "is in GGUF version 1, which llama.cpp no longer reads; download a newer file."
        else:
            what = f"is in GGUF version {version}, but only 2 and 3 are known; update kvchat."
        raise FileError("unsupported_version", self.path, f"{self.path} {what}", offset=4)

    def truncated(self, missing: int | None = None) -> NoReturn:
        if missing is None:
            what = f"its header is cut off at byte {self.size}"
        else:
            what = f"the last {missing:,} bytes of its tensor data are missing"
        raise FileError(
            "truncated",
            self.path,
            f"{self.path} is incomplete: {what}; download it again.",
            offset=self.size,
        )

    def malformed(self, what: str, offset: int) -> NoReturn:
        raise FileError(
            "malformed",
            self.path,
            f"{self.path} is damaged: at byte {offset} {what}; download it again.",
            offset=offset,
        )
