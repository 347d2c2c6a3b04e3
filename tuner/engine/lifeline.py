"""Child processes of our own Python: how they are started, and that they end with their parent."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def child_command(module: str) -> tuple[str, ...]:
    """Runs `main` of a module."""
    # -P and the append keep the folder that the user happens to stand in off the path: a stray
    # jinja2.py or tuner/ there must not be picked up instead of ours.
    code = f"import sys; sys.path.append({str(_ROOT)!r}); from {module} import main; main()"
    return (sys.executable, "-P", "-c", code)


def end_with_parent() -> None:
    """Linux kills this process, even one that was stopped or computes without a pause, once the
    thread that started it is gone. Elsewhere the end of stdin must do."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
