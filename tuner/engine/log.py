"""The engine's log file: where it is, how it is kept small, what its last words were."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from tuner.engine.log_lines import last_words
from tuner.private_files import kvchat_folder, open_private, private_folder, why

FILES_KEPT = 3  # engine.log, engine.log.1, engine.log.2
ROTATE_BYTES = 2 << 20
_TAIL_BYTES = 16 << 10
_TEMPORARY = "kvchat-engine-"  # how a log in the temporary folder begins


def default_log_path(environ: Mapping[str, str] = os.environ) -> Path:
    """`engine.log` in $KVCHAT_LOG_DIR, else in the user's log folder for kvchat."""
    return kvchat_folder("log", environ) / "engine.log"


def open_log(path: Path) -> tuple[Path, IO[bytes], str]:
    """A log to append to, where it is, and why that is not `path`, if so: a log that cannot be
    written is no reason not to chat. Then it is a new file in the system's temporary folder that
    only the user can read, or where there is no room either, nothing (`os.devnull`)."""
    try:
        private_folder(path.parent)
        rotate(path)
        return path, _appended(open_private(path, os.O_WRONLY | os.O_APPEND)), ""
    except OSError as error:
        problem = f"The engine's log cannot be written to {path} ({why(error)})"
    try:
        descriptor, name = tempfile.mkstemp(prefix=_TEMPORARY, suffix=".log")
        return Path(name), _appended(descriptor), f"{problem}; it is {name}."
    except OSError:
        null = Path(os.devnull)
        return null, null.open("ab"), f"{problem}, nor to the temporary folder; there is none."


def discard(path: Path) -> None:
    """Removes a log that lies in the temporary folder; any other stays. Never raises."""
    if path.name.startswith(_TEMPORARY):
        with contextlib.suppress(OSError):
            path.unlink()


def _appended(descriptor: int) -> IO[bytes]:
    log = os.fdopen(descriptor, "ab")
    log.seek(0, os.SEEK_END)
    return log


def rotate(path: Path) -> None:
    """Moves a log of 2 MiB or more aside; three files are kept. Never raises: a log that
    another program holds open (Windows) is simply appended to."""
    try:
        if path.stat().st_size < ROTATE_BYTES:
            return
        for n in range(FILES_KEPT - 1, 0, -1):
            older = path.with_name(f"{path.name}.{n}")
            newer = path if n == 1 else path.with_name(f"{path.name}.{n - 1}")
            if newer.exists():
                newer.replace(older)
    except OSError:
        return


def note(path: Path, text: str) -> None:
    """Adds a line of the program's own. Never raises."""
    try:
        with _appended(open_private(path, os.O_WRONLY | os.O_APPEND)) as file:
            file.write(f"kvchat: {text}\n".encode("utf-8", "replace"))
    except OSError:
        return


def size(path: Path) -> int:
    """Bytes, 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def last_fatal_line(path: Path, start: int) -> str:
    """Of the last lines after byte `start` the one that says why the engine died, or ""."""
    return last_words(_tail(path, start))


def _tail(path: Path, start: int) -> list[str]:
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(start, end - _TAIL_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
