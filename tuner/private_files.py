"""Files and folders of the user's own: no other user may read them, and none is written through
somebody's link."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import platformdirs

FILE_MODE, FOLDER_MODE = 0o600, 0o700
STATES = "states"  # the folder beside the conversations for what was read of them
_KINDS = ("config", "data", "log")


def kvchat_folder(kind: str, environ: Mapping[str, str] = os.environ) -> Path:
    """The folder for "config", "data" or "log": what KVCHAT_CONFIG_DIR and so on say, else the
    system's usual one."""
    return Path(environ.get(f"KVCHAT_{kind.upper()}_DIR") or _usual_folder(kind))


def _usual_folder(kind: str) -> Path:
    return Path(getattr(platformdirs, f"user_{kind}_dir")("kvchat", appauthor=False))


def private_folder(path: Path) -> Path:
    """The folder, made with those above it where they are missing, for the user alone. One that is
    there keeps its mode, unless it is one of kvchat's usual ones: a folder that the user stated
    may be there for others, too. Raises OSError."""
    if not path.is_dir():
        private_folder(path.parent)
        path.mkdir(mode=FOLDER_MODE, exist_ok=True)
    elif os.name == "posix":
        usual = [_usual_folder(kind) for kind in _KINDS]
        for folder in (path, *path.parents):
            if any(folder.is_relative_to(one) for one in usual):
                _close_to_others(folder)
    return path


def _close_to_others(folder: Path) -> None:
    with contextlib.suppress(OSError):
        found = folder.lstat()
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        if ours and found.st_mode & 0o077:
            folder.chmod(FOLDER_MODE)


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
    with open_plain(path) as file:
        return file.read(most + 1)


def open_plain(path: Path) -> BinaryIO:
    """A plain file, to be read; neither a pipe nor a device. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    file = os.fdopen(descriptor, "rb")
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return file
    file.close()
    raise OSError(f"{path.name} is no plain file")


def why(error: OSError) -> str:
    """What the system said, in a few words."""
    return error.strerror or str(error)
