"""A conversation's state as a file: what the engine wrote, and what it must fit.

First the engine's bytes, the whole state and then each checkpoint, then the tokens, then a
description as JSON and its length, its checksum and a magic number. So the engine writes into the
file directly, no state lies in RAM twice, and a file that was cut has no end.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tuner.engine.blocks import Block
from tuner.json_values import Bytes, from_json
from tuner.private_files import open_private, why
from tuner.units import MIB

_MAGIC = b"kvchat state 1\n\0"
_END = struct.Struct("<II16s")  # bytes of the description, its checksum, the magic number
_MOST_DESCRIPTION = 1 << 20
_TOKEN = np.dtype("<i4")
_PIECE = 16 * MIB  # that is read between two looks at whether to go on


def _nothing() -> None:
    pass


class StateFileError(Exception):
    """A state that cannot be had, or not be kept: the reason."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What two loads must have in common for the state of the one to be the other's, but that
    types can be converted."""

    fingerprint: str  # of the model
    engine: str  # its version
    type_k: str
    type_v: str
    flash_attn: bool
    swa_full: bool

    def fits(self, other: Layout) -> str:
        """Why it does not; "" where it does."""
        if self.fingerprint != other.fingerprint:
            return "it is another model's"
        if self.engine != other.engine:
            return "it was written by another engine"
        if self.swa_full != other.swa_full or self.flash_attn != other.flash_attn:
            return "it was written with another kind of cache"
        return ""


@dataclass(frozen=True, slots=True)
class Part:
    """One state in the file."""

    n_tokens: int
    n_bytes: Bytes
    checksum: int


@dataclass(frozen=True, slots=True)
class Description:
    """What stands at the end of the file."""

    layout: Layout
    parts: tuple[Part, ...]  # the whole state, then the checkpoints
    tokens_checksum: int
    n_exact: int  # tokens up to which reading them anew would give the same


@dataclass(frozen=True, slots=True)
class Source:
    """One state to be written: how large it is, and what writes it into a block of that size."""

    n_tokens: int
    n_bytes: int
    write: Callable[[Block], bool]


def write(
    path: Path,
    layout: Layout,
    tokens: list[int],
    n_exact: int,
    sources: list[Source],
    most_bytes: int,
    *,
    is_memory: bool = False,
    between: Callable[[], object] = _nothing,
) -> int:
    """Writes a state in place of whatever is there and returns its bytes. Raises StateFileError;
    the file is then gone, since what it held is older than the conversation. `is_memory`: it is
    there for this alone, and stays. `between`: is called now and then, and may raise to end it."""
    if is_memory:
        try:
            return _written(path, layout, tokens, n_exact, sources, most_bytes, between)
        except OSError as error:
            raise StateFileError(f"it could not be kept ({why(error)})") from error
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        kept = _written(new, layout, tokens, n_exact, sources, most_bytes, between)
        os.replace(new, path)
        return kept
    except OSError as error:
        raise StateFileError(f"it could not be written ({why(error)})") from error
    finally:
        with contextlib.suppress(OSError):
            new.unlink()


def _written(
    path: Path,
    layout: Layout,
    tokens: list[int],
    n_exact: int,
    sources: list[Source],
    most_bytes: int,
    between: Callable[[], object],
) -> int:
    listed = np.array(tokens, _TOKEN).tobytes()
    n_states = sum(source.n_bytes for source in sources)
    if n_states + len(listed) > most_bytes:
        raise StateFileError("it is larger than all states may be")
    descriptor = open_private(path, os.O_RDWR | os.O_TRUNC)
    try:
        parts, at = [], 0
        block = Block.of_file(descriptor, n_states)
        for source in sources:
            part = block.part(at, source.n_bytes)
            if not source.write(part):
                raise StateFileError("the engine did not write it")
            parts.append(Part(source.n_tokens, source.n_bytes, _checksum(part, between)))
            at += source.n_bytes
        described = Description(layout, tuple(parts), zlib.crc32(listed), n_exact)
        text = json.dumps(asdict(described)).encode()
        os.lseek(descriptor, at, os.SEEK_SET)
        end = _END.pack(len(text), zlib.crc32(text), _MAGIC)
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(listed + text + end)
        return at + len(listed) + len(text) + len(end)
    finally:
        os.close(descriptor)


class StateFile:
    """A file that was written so. What it holds is checked as it is read."""

    def __init__(self, path: Path):
        """Raises StateFileError, FileNotFoundError where there is none."""
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
            try:
                self._block = Block.read(descriptor)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            raise StateFileError(f"it cannot be read ({error})") from error
        self.described, end = self._description()
        n_states = sum(part.n_bytes for part in self.described.parts)
        n_tokens = self.described.parts[0].n_tokens
        if n_states + n_tokens * _TOKEN.itemsize != end:
            raise StateFileError("it is damaged")
        with self._block.part(n_states, end - n_states).view() as listed:
            if zlib.crc32(listed) != self.described.tokens_checksum:
                raise StateFileError("it is damaged")
            self.tokens: list[int] = np.frombuffer(listed, _TOKEN).tolist()

    def states(self, between: Callable[[], object] = _nothing) -> Iterator[tuple[int, Block]]:
        """Of so many tokens: the whole state, then the checkpoints. Raises StateFileError at one
        that is damaged. `between`: as in `write`."""
        at = 0
        for part in self.described.parts:
            block = self._block.part(at, part.n_bytes)
            if _checksum(block, between) != part.checksum:
                raise StateFileError("it is damaged")
            yield part.n_tokens, block
            at += part.n_bytes

    def _description(self) -> tuple[Description, int]:
        """And where it begins."""
        end = self._block.n_bytes - _END.size
        if end < 0:
            raise StateFileError("it is no state")
        with self._block.part(end, _END.size).view() as last:
            size, checksum, magic = _END.unpack(last)
        if magic != _MAGIC or not 0 < size <= min(end, _MOST_DESCRIPTION):
            raise StateFileError("it is no state")
        with self._block.part(end - size, size).view() as text:
            data = bytes(text)
        try:
            if zlib.crc32(data) != checksum:
                raise ValueError
            described = from_json(Description, json.loads(data))
            if not described.parts:
                raise ValueError
        except (ValueError, RecursionError):
            raise StateFileError("it is damaged") from None
        return described, end - size


def _checksum(block: Block, between: Callable[[], object]) -> int:
    checksum = 0
    with block.view() as data:
        for at in range(0, len(data), _PIECE):
            between()
            checksum = zlib.crc32(data[at : at + _PIECE], checksum)
    return checksum
