"""A log file of any size, read in pieces; only lines that may say something are looked at."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from tuner.errors import FileError
from tuner.logs.loads import LoadReader, LoggedLoad
from tuner.private_files import open_plain, why
from tuner.safe_text import cut

_PIECE = 1 << 20  # bytes
_LONGEST_LINE = 1 << 14  # bytes; what goes beyond is no line of llama.cpp's
# A piece without one of these has nothing that counts, and is passed over.
_MARKS = (b"llama_", b"load_tensors", b"print_info", b"print_meta", b"MiB", b'msg="')
_WORTH = re.compile(
    rb"buffer size|llama_|load_tensors|print_(?:info|meta)|sched_res|kv_cache|MiB|msg=\"|"
    rb"build|version: |layer +\d+ assigned|buffer type over"
)
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours
_LOOKED_AT = 1 << 13  # bytes, for what no text has
_MOST_NAME = 200  # characters
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # as PowerShell writes what it redirects


def read_loads(
    path: Path, on_read: Callable[[int], None] = lambda n_read: None
) -> list[LoggedLoad]:
    """The loads that a log tells of, in order, at least one. `on_read` is told the bytes read so
    far, piece by piece.

    Raises FileError: missing, directory, permission, empty, not_a_log (no text, or nothing in it
    of a load).
    """
    reader = LoadReader()
    try:
        with open_plain(path) as file:
            for number, line in _lines(path, file, on_read):
                reader.feed(number, line)
                if reader.full:
                    break
    except OSError as error:
        raise _unreadable(path, error) from error
    found = reader.loads()
    if not found:
        raise FileError(
            "not_a_log",
            path,
            f"{_named(path)} has none of the lines in which llama.cpp tells its buffers (like "
            '"CUDA0 model buffer size = 4155.99 MiB"); run the program with -v and keep all that '
            "it prints.",
        )
    return found


def _lines(path: Path, file: BinaryIO, on_read: Callable[[int], None]) -> Iterator[tuple[int, str]]:
    """The lines that may count, with their numbers."""
    rest, before, n_read = b"", 0, 0
    for piece in _pieces(path, file):
        block = rest + piece
        n_whole = block.count(b"\n")
        if any(mark in block for mark in _MARKS):
            for number, line in enumerate(block.split(b"\n")[:n_whole], before + 1):
                if len(line) <= _LONGEST_LINE and _WORTH.search(line):
                    yield number, _text(line)
        before += n_whole
        rest = block[block.rfind(b"\n") + 1 :][-_LONGEST_LINE:]
        n_read += len(piece)
        on_read(n_read)
    if _WORTH.search(rest):
        yield before + 1, _text(rest)


def _pieces(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """The file as UTF-8, about a MiB at a time."""
    piece = file.read(_PIECE)
    if not piece:
        raise FileError("empty", path, f"{_named(path)} is empty.")
    wide = codecs.getincrementaldecoder("utf-16")("replace") if piece[:2] in _UTF16 else None
    if wide is None and b"\0" in piece[:_LOOKED_AT]:
        raise FileError("not_a_log", path, f"{_named(path)} is no text, so it is no log.")
    while piece:
        yield piece if wide is None else wide.decode(piece).encode("utf-8", "replace")
        piece = file.read(_PIECE)


def _text(line: bytes) -> str:
    return _ESCAPES.sub("", line.decode("utf-8", "replace").rstrip("\r"))


def _unreadable(path: Path, error: OSError) -> FileError:
    if isinstance(error, FileNotFoundError):
        return FileError("missing", path, f"There is no log {cut(str(path), _MOST_NAME)}.")
    if path.is_dir():
        return FileError("directory", path, f"{_named(path)} is a folder; name the file in it.")
    if isinstance(error, PermissionError):
        return FileError("permission", path, f"{_named(path)} may not be read.")
    return FileError("not_a_log", path, f"{_named(path)} cannot be read ({why(error)}).")


def _named(path: Path) -> str:
    return f"The log {cut(str(path), _MOST_NAME)}"
