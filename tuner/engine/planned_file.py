"""Whether the file that is to be loaded is the one that was planned for."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from tuner.errors import FileError
from tuner.gguf.header import files_of, read_header
from tuner.model.model import fingerprint


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
