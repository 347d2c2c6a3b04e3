"""Whether the file that is to be loaded is the one that was planned for."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tuner.errors import FileError
from tuner.gguf.header import files_of, read_header
from tuner.model.model import fingerprint

_LOOKS = 64  # of each file, at places that are as far from each other as can be,
_LOOK = 4096  # bytes


class ChangedError(Exception):
    """The file is another than the one that was planned for, or changed while it was read; or it
    is none at all. The message is a sentence."""


class PlannedFile:
    """One model's file or files, looked at before a load and after it: between the two the engine
    has read them, so what is the same at both ends is what was loaded."""

    def __init__(self, path: str, planned: str):
        """`planned`: the model's fingerprint, "" where any will do. Raises ChangedError."""
        self._paths: Sequence[Path] = [Path(path)]
        _require_file(path)
        if planned:
            try:
                header = read_header(path)
                self._paths = files_of(header)
                found = fingerprint(header)
            except FileError as error:
                raise ChangedError(f"The file changed since it was planned: {error}") from error
            if found != planned:
                raise ChangedError(f"{path} is no longer the file that was planned for.")
        self._stamps = stamps(self._paths)

    def content(self) -> str:
        """A hash of some of what the files hold, in milliseconds: a fine-tune, or a file that was
        quantized anew, may say of itself what the other said, and has the same fingerprint."""
        digest = hashlib.blake2b(digest_size=16)
        for path in self._paths:
            with suppress(OSError), path.open("rb") as file:
                last = max(0, os.fstat(file.fileno()).st_size - _LOOK)
                for n in range(_LOOKS):
                    file.seek(last * n // (_LOOKS - 1))
                    digest.update(file.read(_LOOK))
        return digest.hexdigest()

    def require_unchanged(self) -> None:
        """Raises ChangedError."""
        if stamps(self._paths) != self._stamps:
            raise ChangedError(f"{self._paths[0]} changed while it was loaded.")


def _require_file(path: str) -> None:
    """A pipe or a device would be read for ever."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return  # the engine says so in its own words
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ChangedError(f"{path} is not a file.")


def stamps(paths: Sequence[Path]) -> list[tuple[int, int, int] | None]:
    """Size, time and place of each; None for one that cannot be seen."""
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            seen = path.stat()
            found.append((seen.st_size, seen.st_mtime_ns, seen.st_ino))
        except (OSError, ValueError):
            found.append(None)
    return found
