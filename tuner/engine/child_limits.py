"""The system's limits of a child that runs what others wrote, where there are such (POSIX)."""

from __future__ import annotations

import contextlib
import time


def limit_memory(size: int) -> None:
    """No more address space than `size` bytes from now on, and no core file of it."""
    _limit("RLIMIT_AS", size, hard=True)
    _limit("RLIMIT_CORE", 0, hard=True)


def limit_time(seconds: float) -> None:
    """So much more CPU time from now on, for where nobody is left who would kill this process; may
    be given again."""
    _limit("RLIMIT_CPU", int(time.process_time() + seconds), hard=False)


def _limit(kind: str, most: int, *, hard: bool) -> None:
    try:
        import resource  # noqa: PLC0415 - POSIX
    except ImportError:
        return
    name: int = getattr(resource, kind)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(name, (most, most if hard else resource.getrlimit(name)[1]))
