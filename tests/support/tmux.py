"""The program in a terminal emulator, as a person would see and drive it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest

from tests.support.terminal import ROOT

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


class Pane:
    """One program in a window of its own server."""

    def __init__(self, socket: str):
        self._tmux = ("tmux", "-L", socket)

    def run(self, *args: str) -> str:
        done = subprocess.run([*self._tmux, *args], capture_output=True, text=True, check=True)
        return done.stdout

    @property
    def shown(self) -> str:
        return self.run("capture-pane", "-p")

    def press(self, *keys: str) -> None:
        """Keys by tmux' names."""
        self.run("send-keys", *keys)

    def write(self, text: str) -> None:
        self.run("send-keys", "-l", text)

    def until(self, condition: Callable[[str], object], seconds: float = 60.0) -> str:
        """What is shown once the condition holds."""
        end = time.monotonic() + seconds
        while not condition(shown := self.shown):
            assert time.monotonic() < end, f"it never came to that:\n{shown}"
            time.sleep(0.05)
        return shown

    def sees(self, *texts: str, seconds: float = 60.0) -> str:
        return self.until(lambda shown: all(text in shown for text in texts), seconds)


@contextmanager
def kvchat_in_tmux(
    *args: str, environ: Mapping[str, str], size: tuple[int, int] = (80, 24)
) -> Iterator[Pane]:
    """Starts it; `ended N` stands in the window once it has ended with the status N."""
    socket = f"kvchat-test-{os.getpid()}-{time.monotonic_ns()}"
    command = shlex.join([sys.executable, "-m", "tui.start", *args])
    variables = [f"{name}={value}" for name, value in environ.items()]
    # Those of the terminal that runs the tests: readline hands them on to all that is started.
    variables = ["-u", "COLUMNS", "-u", "LINES", *variables]
    pane = Pane(socket)
    try:
        pane.run(
            "-f", "/dev/null", "new-session", "-d", "-x", str(size[0]), "-y", str(size[1]),
            "-c", str(ROOT), f"env {shlex.join(variables)} {command}; echo ended $?; sleep 600",
        )  # fmt: skip
        yield pane
    finally:
        subprocess.run(["tmux", "-L", socket, "kill-server"], capture_output=True, check=False)
