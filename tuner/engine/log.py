"""The engine's log file: where it is, how it is kept small, what its last words were."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import platformdirs

FILES_KEPT = 3  # engine.log, engine.log.1, engine.log.2
ROTATE_BYTES = 2 << 20
_TAIL_BYTES = 16 << 10

# A line that says why the engine ended; of several, the last one said.
_FATAL_MARKS = ("GGML_ASSERT", "GGML_ABORT", "CUDA error", "ROCm error", "error:", "Error:")
_MEMORY_MARKS = ("out of memory", "OutOfDeviceMemory", "MemoryError", "bad_alloc")


def default_log_path(environ: Mapping[str, str] = os.environ) -> Path:
    """`engine.log` in $KVCHAT_LOG_DIR, else in the user's log folder for kvchat; where that cannot
    be made, in the system's temporary folder."""
    stated = environ.get("KVCHAT_LOG_DIR")
    folder = Path(stated or platformdirs.user_log_dir("kvchat", appauthor=False))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written is no reason not to chat
        folder = Path(tempfile.gettempdir())
    return folder / "engine.log"


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
        with path.open("a", encoding="utf-8", errors="replace") as file:
            file.write(f"kvchat: {text}\n")
    except OSError:
        return


def last_fatal_line(path: Path, start: int) -> str:
    """The last line after byte `start` that names a fatal error, or "" where there is none."""
    lines = _tail(path, start).splitlines()
    for line in reversed(lines):
        if any(mark in line for mark in (*_FATAL_MARKS, *_MEMORY_MARKS)):
            return line.strip()[:300]
    return ""


def names_memory(text: str) -> bool:
    """Whether an engine message is about running out of memory."""
    return any(mark in text for mark in _MEMORY_MARKS)


def _tail(path: Path, start: int) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - _TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
