"""Large pieces of memory beside Python's heap: in RAM, or a file's."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tuner.machine.host import free_ram
from tuner.units import MIB

_SPARE = 256 * MIB  # of RAM, that stays free of them


class Block:
    """Some bytes of a mapping, which goes back to the system as soon as nothing refers to it."""

    def __init__(self, mapped: mmap.mmap, first: int = 0, n_bytes: int | None = None):
        self._mapped, self._first = mapped, first
        self.n_bytes = len(mapped) - first if n_bytes is None else n_bytes

    @classmethod
    def in_ram(cls, n_bytes: int) -> Block | None:
        """None where there is no room: a system may give more than it has, and then end whoever
        uses it."""
        if n_bytes <= 0 or free_ram() < n_bytes + _SPARE:
            return None
        try:
            return cls(mmap.mmap(-1, n_bytes))
        except (OSError, ValueError, OverflowError, MemoryError):
            return None

    @classmethod
    def of_file(cls, descriptor: int, n_bytes: int) -> Block:
        """The first bytes of an open file, which is made as long as that, and the disk's room
        taken: a mapping of which a page cannot be written ends the process. Raises OSError."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, n_bytes)
        else:
            os.ftruncate(descriptor, n_bytes)
        return cls(mmap.mmap(descriptor, n_bytes))

    @classmethod
    def on_disk(cls, folder: Path, n_bytes: int) -> Block | None:
        """A file's without a name, which is gone with it; None where the disk has no room: half of
        what is free stays so."""
        try:
            if n_bytes > shutil.disk_usage(folder).free // 2:
                return None
            with tempfile.TemporaryFile(dir=folder) as file:
                return cls.of_file(file.fileno(), n_bytes)
        except (OSError, ValueError, OverflowError, MemoryError):
            return None

    @classmethod
    def read(cls, descriptor: int) -> Block:
        """All bytes of an open file; what is written to them is not written to the file. Raises
        OSError, or ValueError where it has none."""
        return cls(mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY))

    def part(self, first: int, n_bytes: int) -> Block:
        """Some of them."""
        return Block(self._mapped, self._first + first, n_bytes)

    def copy(self) -> Block | None:
        """The same in RAM; None where there is no room."""
        other = Block.in_ram(self.n_bytes)
        return other if other is not None and self.copy_to(other) else None

    def copy_to(self, other: Block) -> bool:
        """The same in a block of the same size."""
        with self.view() as source, other.view() as target:
            target[:] = source
        return True

    @contextmanager
    def view(self) -> Iterator[memoryview]:
        """All of them for Python."""
        end = self._first + self.n_bytes
        with memoryview(self._mapped) as whole, whole[self._first : end] as part:
            yield part

    @contextmanager
    def array(self) -> Iterator[Array]:
        """All of them for C."""
        array = (ctypes.c_uint8 * self.n_bytes).from_buffer(self._mapped, self._first)
        try:
            yield array
        finally:
            del array


Array = ctypes.Array[ctypes.c_uint8]
Room = Callable[[int], Block | None]  # for so many bytes; None: there is none


def in_ram_or(folder: str) -> Room:
    """On the disk where RAM has no room; a folder "" is none."""

    def room(n_bytes: int) -> Block | None:
        block = Block.in_ram(n_bytes)
        return Block.on_disk(Path(folder), n_bytes) if block is None and folder else block

    return room
