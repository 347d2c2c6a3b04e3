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
    Only a plain file is opened: neither a pipe, which would be waited for, nor a device.
    `flags`: as for `os.open`. Raises OSError."""
    wait = getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags | os.O_CREAT | wait, FILE_MODE)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(f"{path.name} is no plain file")
        if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
            os.fchmod(descriptor, FILE_MODE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
