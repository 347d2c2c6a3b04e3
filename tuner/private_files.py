"""Files and folders of the user's own: no other user may read them, and none is written through
somebody's link."""

from __future__ import annotations

import os
import stat
from pathlib import Path

FILE_MODE, FOLDER_MODE = 0o600, 0o700


def private_folder(path: Path) -> Path:
    """The folder, made with those above it where they are missing, for the user alone; one that
    is there keeps its mode. Raises OSError."""
    if not path.is_dir():
        private_folder(path.parent)
        path.mkdir(mode=FOLDER_MODE, exist_ok=True)
    return path


def open_private(path: Path, flags: int) -> int:
    """A descriptor of the file, made if it is not there; it is the user's alone from then on.
    Only a plain file is opened: neither a pipe, which would be waited for, nor a device; and in a
    folder that others may write neither through a link nor somebody else's. `flags`: as for
    `os.open`. Raises OSError."""
    shared = os.name == "posix" and bool(path.parent.stat().st_mode & 0o022)
    flags |= os.O_CREAT | getattr(os, "O_NONBLOCK", 0)
    if shared:
        flags |= os.O_NOFOLLOW
    descriptor = os.open(path, flags, FILE_MODE)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{path.name} is no plain file")
        if shared and (found.st_uid != os.geteuid() or found.st_nlink > 1):
            raise OSError(f"{path.name} is not the user's own")
        if os.name == "posix" and stat.S_IMODE(found.st_mode) & 0o077:
            os.fchmod(descriptor, FILE_MODE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_bounded(path: Path, most: int) -> bytes:
    """What a plain file holds, one byte more than `most` at the most: a pipe or a device, which
    may have no end, is not read. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path.name} is no plain file")
        return file.read(most + 1)


def why(error: OSError) -> str:
    """What the system said, in a few words."""
    return error.strerror or str(error)
