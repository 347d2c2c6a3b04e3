"""Parses the header of one GGUF file. `header` puts split models together.

The file is read in blocks, never mapped: one that is cut meanwhile (a download that starts anew, a
network drive) then ends in an error, where a mapped page that is gone would end the process.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import NoReturn

from tuner.engine_version import ENGINE_VERSION
from tuner.errors import FileError
from tuner.gguf.foreign_types import FROM_ELSEWHERE, MAX_TYPE, foreign_type, is_shared
from tuner.gguf.pieces import fetched_beside, pieces_of, unfinished
from tuner.gguf.types import GGML_TYPES, VALUE_TYPES
from tuner.safe_text import quoted
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
    shape: tuple[int, ...]  # at least one: a tensor without dimensions has one element
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
    value_types: Mapping[str, str]  # of each key: "u32", of an array "arr[str]"
    tensors: tuple[TensorInfo, ...]
    data_offset: int

    @property
    def end(self) -> int:
        """Where the data of its last tensor ends."""
        return self.data_offset + max((t.offset + t.n_bytes for t in self.tensors), default=0)


# Limits, each far above any real model's. gguf.cpp allows strings of 1 GiB, 2^30 elements and as
# many keys and tensors as a file holds; a reader that keeps names and walks over string arrays
# needs lower ones, since a sparse file can hold terabytes of zeros that look like empty strings.
# All together they keep a header of any kind under a second and 64 MiB.
MAX_KEY = 65_535  # bytes; the limit that the format names
MAX_KEYS = 1 << 14  # real files have about 60
MAX_TENSOR_NAME = 63  # bytes; GGML_MAX_NAME in ggml.h, less the terminator
MAX_TENSORS = 1 << 16  # the largest models have about 2,000, those with a tensor per expert 50,000
MAX_DIMS = 4  # of a tensor; GGML_MAX_DIMS in ggml.h
MAX_LENGTH = 1 << 30  # bytes of a string, elements of an array; gguf.cpp
MAX_READ = 1 << 27  # bytes of a file that are looked at; large vocabularies take 20 MiB
KEPT_STRING = 1 << 20  # bytes; a longer one (an embedded tokenizer.json) is stepped over
KEPT_STRINGS = 4 << 20  # bytes of all strings and names of keys kept from one file
KEPT_ARRAY = 1024  # elements; covers per-layer arrays (llama.cpp allows 512 layers)
KEPT_ELEMENTS = 1 << 17  # of all arrays kept from one file
STEPPED_STRINGS = 1 << 22  # strings in all arrays of a file; the largest vocabularies have 2^18
MAX_ELEMENTS = (1 << 63) - 1  # of a tensor; gguf.cpp
_MAX_VERSION = 255  # of the format, that a file could have; there are three
_BLOCK = 1 << 16  # bytes read at once

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

# What files of other programs may have, beyond what llama.cpp reads; more is damage.
_FOREIGN_VALUE_TYPES = 31  # the format has 0 to 12
_FOREIGN_NAME = 1024  # bytes
_FOREIGN_DIMS = 16


def read_part(path: Path) -> Part:
    """The header of one file. Raises FileError."""
    try:
        mode = path.stat().st_mode
    except PermissionError as error:
        _refuse_access(path, error)
    except (OSError, ValueError):  # no such file, a loop of links, a name that cannot be one
        from tuner.gguf.near_names import missing  # noqa: PLC0415

        raise FileError("missing", path, missing(path)) from None
    goes_on = unfinished(path)
    if goes_on:
        raise FileError("truncated", path, f"{path} is {goes_on}.")
    _require_regular(path, mode)
    try:
        # by the time it is opened it may be another: a pipe must not block then either
        descriptor = os.open(path, os.O_RDONLY | _AT_ONCE)
        with io.FileIO(descriptor) as file:
            found = os.fstat(descriptor)
            _require_regular(path, found.st_mode)
            if found.st_size == 0:
                raise FileError("empty", path, f"{path} is empty; {_how_to_get_it(path)}.")
            return _Cursor(path, file, found.st_size).read()
    except OSError as error:
        _refuse_access(path, error)


# not all systems have these flags; Windows reads text unless it is told otherwise
_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def _require_regular(path: Path, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        from tuner.gguf.near_names import folder  # noqa: PLC0415

        raise FileError("directory", path, folder(path))
    raise FileError("not_gguf", path, f"{path} is not a file; name a .gguf file instead.")


def _how_to_get_it(path: Path) -> str:
    """What to do about bytes that are missing."""
    beside = fetched_beside(path)
    if beside:
        return f"{beside} beside it is a download that has not finished: let it finish"
    return "download it again"


def _refuse_access(path: Path, error: OSError) -> NoReturn:
    reason = error.strerror or str(error)
    raise FileError(
        "permission", path, f"{path} cannot be read ({reason}); check that you may read it."
    ) from None


@dataclass(slots=True)
class _Cursor:
    """A position in one file, the block of bytes around it, and what was found up to there."""

    path: Path
    file: io.FileIO
    size: int
    base: int = 0  # where `data` starts in the file
    data: bytes = b""
    at: int = 0  # in `data`, or behind it
    looked_at: int = 0  # bytes that were read
    kept: int = 0  # bytes of strings
    elements: int = 0  # of arrays that were kept
    stepped: int = 0  # strings in arrays
    metadata: dict[str, Value | SkippedArray] = field(default_factory=dict)
    value_types: dict[str, str] = field(default_factory=dict)

    def read(self) -> Part:
        self.fill(min(24, self.size))
        if self.data[:4] != b"GGUF":
            self._refuse_format()
        self.at = 4
        version = self.scalar(_U32)
        self._check_version(version)
        n_tensors, n_keys = self.scalar(_U64), self.scalar(_U64)
        counts = (("tensors", n_tensors, 8, MAX_TENSORS), ("metadata keys", n_keys, 16, MAX_KEYS))
        for what, n, at, _ in counts:
            if n > MAX_LENGTH:
                self.malformed(f"it claims {n} {what}", at)
        for _ in range(min(n_keys, MAX_KEYS)):
            self.key_value()
        for what, n, at, most in counts:
            if n > most:
                self.malformed(f"it has {n:,} {what}, more than {most:,}", at)
        tensors = self.tensor_table(n_tensors)
        if not tensors:
            return Part(
                self.path, self.size, version, self.metadata, self.value_types, (), self.pos
            )
        alignment = self.alignment()
        data_offset = padded(self.pos, alignment)
        self._check_places(tensors, data_offset, alignment)
        return Part(
            self.path,
            self.size,
            version,
            self.metadata,
            self.value_types,
            tuple(tensors),
            data_offset,
        )

    # ------------------------------------------------ pieces

    @property
    def pos(self) -> int:
        return self.base + self.at

    def fill(self, n: int) -> None:
        """Reads on, so that `data` starts here and has the next `n` bytes at least."""
        self.base, self.at, self.data = self.pos, 0, b""
        if self.base + n > self.size:
            self.truncated()
        self.file.seek(self.base)
        while len(self.data) < n:
            more = self.file.read(max(n, _BLOCK) - len(self.data))
            if not more:  # the file was cut since it was opened
                self.size = self.base + len(self.data)
                self.truncated()
            self.data += more
        self.looked_at += len(self.data)
        if self.looked_at > MAX_READ:
            self.malformed(f"its header is longer than {MAX_READ >> 20} MiB", self.base)

    def take(self, n: int) -> int:
        """Moves over the next `n` bytes; where in `data` they lie."""
        at = self.at
        if at + n > len(self.data):
            self.fill(n)
            at = 0
        self.at = at + n
        return at

    def scalar(self, form: struct.Struct) -> int:
        at = self.take(form.size)
        return form.unpack_from(self.data, at)[0]  # type: ignore[no-any-return]

    def length(self, what: str, limit: int = MAX_LENGTH) -> int:
        n = self.scalar(_U64)
        if n > limit:
            self.malformed(f"{what} has length {n}", self.pos - 8)
        return n

    def raw(self, n: int) -> bytes:
        at = self.take(n)
        return self.data[at : at + n]

    def skip(self, n: int) -> None:
        self.at += n
        if self.pos > self.size:
            self.truncated()

    def name(self, n: int) -> str:
        """The next `n` bytes as a name: one that is no UTF-8 stays different from every other."""
        return self.raw(n).decode("utf-8", "backslashreplace")

    # ------------------------------------------------ metadata

    def key_value(self) -> None:
        at = self.pos
        key = self.name(self.length("the name of a metadata key", MAX_KEY))
        if not key:
            self.malformed("a metadata key has no name", at)
        if key in self.metadata:
            self.malformed(f"the metadata key {quoted(key)} occurs twice", at)
        self.kept += len(key)
        if self.kept > KEPT_STRINGS:
            self.malformed("its metadata keys have names without end", at)
        kind = self.scalar(_U32)
        if key == "general.alignment" and kind != _UINT32 and kind <= _FOREIGN_VALUE_TYPES:
            what = f"general.alignment has type {kind}, and must have {_UINT32}"
            self.incompatible(what, self.pos - 4)
        self.metadata[key] = self.value(key, kind)
        if kind != _ARRAY:
            self.value_types[key] = VALUE_TYPES[kind]

    def value(self, key: str, kind: int) -> Value | SkippedArray:
        if kind == _ARRAY:
            return self.array(key)
        if kind == _STRING:
            return self.string(key)
        return self.scalar(self.form(key, kind))

    def form(self, key: str, kind: int, at: int | None = None) -> struct.Struct:
        """How a value of a metadata key is stored; `at`: where its type stands."""
        found = _SCALARS.get(kind)
        if found is None:
            at = self.pos - 4 if at is None else at
            if kind == _ARRAY:
                self.incompatible(f"the metadata key {quoted(key)} is an array of arrays", at)
            what = f"the metadata key {quoted(key)} has the unknown type {kind}"
            if kind > _FOREIGN_VALUE_TYPES:
                self.malformed(what, at)
            self.incompatible(what, at)
        return found

    def string(self, key: str) -> Value | SkippedArray:
        n = self.length(f"the text of {quoted(key)}")
        self.kept += n
        if n > KEPT_STRING or self.kept > KEPT_STRINGS:
            self.kept -= n
            self.skip(n)
            return SkippedArray(_UINT8, n)
        return self.raw(n).decode("utf-8", "replace")

    def array(self, key: str) -> Value | SkippedArray:
        kind = self.scalar(_U32)
        at = self.pos
        n = self.length(f"the array {quoted(key)}")
        self.value_types[key] = f"arr[{VALUE_TYPES[kind]}]" if kind < len(VALUE_TYPES) else ""
        if kind == _STRING:
            self.step_over_strings(key, n, at)
            return SkippedArray(kind, n)
        form = self.form(key, kind, at - 4)
        if n > KEPT_ARRAY or self.elements + n > KEPT_ELEMENTS:
            self.skip(n * form.size)
            return SkippedArray(kind, n)
        self.elements += n
        start = self.take(n * form.size)
        return struct.unpack_from(f"<{n}{form.format[-1]}", self.data, start)

    def step_over_strings(self, key: str, n: int, at: int) -> None:
        self.stepped += n
        if self.stepped > STEPPED_STRINGS:
            self.malformed(f"the array {quoted(key)} claims {n} strings", at)
        while n:
            walked, last, self.at = _walk(self.data, self.at, n)
            n -= walked
            if self.pos > self.size:
                self.at = last
                self.skip(self.length(f"a string in {quoted(key)}"))
            if n:
                self.fill(_U64.size)

    # ------------------------------------------------ tensors

    def tensor_table(self, n_tensors: int) -> list[TensorInfo]:
        tensors: list[TensorInfo] = []
        names: set[str] = set()
        for _ in range(n_tensors):
            at = self.pos
            tensor = self.tensor()
            if tensor.name in names:
                self.malformed(f"the tensor {quoted(tensor.name)} occurs twice", at)
            names.add(tensor.name)
            tensors.append(tensor)
        return tensors

    def tensor(self) -> TensorInfo:
        length = self.length("the name of a tensor", _FOREIGN_NAME)
        name = self.name(length)
        if length > MAX_TENSOR_NAME:
            self.incompatible(
                f"the name of the tensor {quoted(name)} has length {length}, and may have "
                f"{MAX_TENSOR_NAME}",
                self.pos - length - _U64.size,
            )
        at = self.pos
        n_dims = self.scalar(_U32)
        if n_dims > MAX_DIMS:
            what = f"the tensor {quoted(name)} has {n_dims} dimensions, and may have {MAX_DIMS}"
            if n_dims > _FOREIGN_DIMS:
                self.malformed(what, at)
            self.incompatible(what, at)
        sizes = self.take(8 * n_dims)
        shape: tuple[int, ...] = _DIMS[n_dims].unpack_from(self.data, sizes) or (1,)
        if prod(n for n in shape if n) > MAX_ELEMENTS:
            self.malformed(f"the tensor {quoted(name)} has the shape {shape}", at + 4)
        at = self.pos
        place = self.take(_PLACE.size)
        kind, offset = _PLACE.unpack_from(self.data, place)
        form = GGML_TYPES.get(kind)
        if form is None:
            if kind > MAX_TYPE:
                self.malformed(f"the tensor {quoted(name)} has the unknown type {kind}", at)
            whose, advice = foreign_type(kind)
            self.incompatible(f"the tensor {quoted(name)} has the {whose}", at, advice)
        if shape[0] % form.block:
            what = (
                f"the rows of the tensor {quoted(name)} ({shape[0]} elements) do not "
                f"divide into blocks of {form.name}"
            )
            if is_shared(kind):
                self.incompatible(what, at, kind=kind)
            self.malformed(what, at)
        n_bytes = prod(shape) // form.block * form.block_bytes
        return TensorInfo(name, shape, kind, offset, n_bytes)

    def alignment(self) -> int:
        value = self.metadata.get("general.alignment", 32)
        if not isinstance(value, int) or value <= 0 or value & (value - 1):
            what = f"general.alignment is {value}, not a power of two"
            if isinstance(value, int) and value > 0 and value % 8 == 0:  # as the format has it
                self.incompatible(what, self.pos)
            self.malformed(what, self.pos)
        return value

    def _check_places(self, tensors: list[TensorInfo], start: int, alignment: int) -> None:
        """gguf.cpp wants the tensors one after the other, each padded to the alignment."""
        position = 0
        end = start
        kind = -1  # of the tensor before, whose length is in question
        for tensor in tensors:
            if tensor.offset != position:
                what = (
                    f"the tensor {quoted(tensor.name)} lies at {tensor.offset} of the data "
                    f"instead of {position}"
                )
                gap = tensor.offset > position or is_shared(kind)
                if gap and self._in_order(tensors, start, alignment):
                    self.incompatible(what, self.pos, kind=kind)
                self.malformed(what, self.pos)
            kind = tensor.ggml_type
            end = max(end, start + position + tensor.n_bytes)
            position += padded(tensor.n_bytes, alignment)
        if end > self.size:
            self.truncated(end - self.size)

    def _in_order(self, tensors: list[TensorInfo], start: int, alignment: int) -> bool:
        """Whether the tensors lie one after the other all the same, as another program places
        them; a number that is damaged lies anywhere."""
        offsets = [tensor.offset for tensor in tensors]
        rising = all(one < next_one for one, next_one in pairwise(offsets))
        aligned = not any(offset % alignment for offset in offsets)
        return rising and aligned and start + offsets[-1] < self.size

    # ------------------------------------------------ refusals

    def _refuse_format(self) -> NoReturn:
        from tuner.gguf.other_formats import HEAD, other_format, zeros  # noqa: PLC0415

        if b"GGUF".startswith(self.data[:4]):
            self.truncated()
        head = self.data[:HEAD]
        what = other_format(head, self.path)
        pieces = None if what else pieces_of(self.path)
        if pieces:
            raise FileError("in_pieces", self.path, f"{self.path} is {pieces.text()}.")
        what = what or zeros(head) or "not a GGUF file; name a model in GGUF format"
        raise FileError("not_gguf", self.path, f"{self.path} is {what}.")

    def _check_version(self, version: int) -> None:
        if version in (2, 3):
            return
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        if version > _MAX_VERSION < swapped:
            self.malformed(f"it is in GGUF version {version:,}", 4)
        if 0 < swapped <= _MAX_VERSION:
            what = "is a big-endian GGUF file; download the little-endian one."
        elif version == 0:
            what = "states GGUF version 0, which does not exist; download it again."
        elif version == 1:
            what = "is in GGUF version 1, which llama.cpp no longer reads; download a newer file."
        else:
            what = f"is in GGUF version {version}, but only 2 and 3 are known; update kvchat."
        raise FileError("unsupported_version", self.path, f"{self.path} {what}", offset=4)

    def truncated(self, missing: int | None = None) -> NoReturn:
        """Raises FileError where bytes are missing. Those of a split model are found by their own
        names, so only a file that is none may have been cut into pieces."""
        pieces = None if "split.count" in self.metadata else pieces_of(self.path)
        if pieces:
            raise FileError("in_pieces", self.path, f"{self.path} is {pieces.text()}.")
        if missing is None:
            what = f"its header is cut off at byte {self.size}"
        else:
            what = f"the last {missing:,} bytes of its tensor data are missing"
        raise FileError(
            "truncated",
            self.path,
            f"{self.path} is incomplete: {what}; {_how_to_get_it(self.path)}.",
            offset=self.size,
        )

    def incompatible(
        self, what: str, offset: int, advice: str = FROM_ELSEWHERE, *, kind: int = -1
    ) -> NoReturn:
        """Raises FileError where a file may be sound, but is none for this llama.cpp. `kind`: the
        type of a tensor that has another length than llama.cpp's type of this number."""
        if is_shared(kind):
            whose, advice = foreign_type(kind)
            what = f"{what}; it may be {whose}"
        raise FileError(
            "incompatible",
            self.path,
            f"{self.path} was not made for llama.cpp ({ENGINE_VERSION}): {what}; {advice}.",
            offset=offset,
        )

    def malformed(self, what: str, offset: int) -> NoReturn:
        raise FileError(
            "malformed",
            self.path,
            f"{self.path} is damaged: at byte {offset} {what}; download it again.",
            offset=offset,
        )


def _walk(data: bytes, at: int, n: int) -> tuple[int, int, int]:
    """The hot loop, over the strings of large vocabularies: of the `n` strings from `at` on, those
    whose lengths lie in `data`. Their number, where the last of them starts, and where it ends."""
    unpack = _U64.unpack_from
    last, walked = at, 0
    try:
        for walked in range(n):  # noqa: B007
            (length,) = unpack(data, at)
            last = at
            at += length + 8
    except (struct.error, OverflowError):  # `at` has left the data
        return walked, last, at
    return n, last, at
