"""The program on a terminal of its own, its model process by script: what keys and signals do to
the whole of it, and what it leaves behind."""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
_ESCAPES = re.compile(r"\x1b(\[[0-9;?<>=]*[ -/]*[@-~]|\].*?(\x07|\x1b\\)|[()].|.)")

# Runs kvchat's command line with another worker and little patience.
_PROGRAM = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl+C is a signal from this terminal
from tests.support.scripted_worker import scripted_worker
from tuner.launch import launcher
from tuner.engine.client import EngineClient
from tuner.engine.patience import LIMITS, Limits, Patience
limits = {**{name: Limits(1.5, 1.5) for name in LIMITS}, "start": Limits(20, 20)}
quick = Patience(limits, stop=1, stop_at_work=3)
launcher.EngineClient = lambda: EngineClient(command=scripted_worker(**SCRIPT), patience=quick)
BEFORE
from tui.start import main
sys.exit(main())
"""


class Terminal:
    """A running program and the terminal that it is on."""

    def __init__(self, process: subprocess.Popen[bytes], master: int):
        self.process = process
        self._master = master
        self.output = ""  # all of it, escapes included
        self.before = termios.tcgetattr(master)

    @property
    def shown(self) -> str:
        """All text that came, without its escapes and spaces."""
        return "".join(_ESCAPES.sub("", self.output).split())

    @property
    def worker(self) -> psutil.Process:
        """The model process."""
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def read(self, seconds: float = 0.05) -> None:
        end = time.monotonic() + 5 * seconds
        while time.monotonic() < end and select.select([self._master], [], [], seconds)[0]:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # the other end is closed
                return
            if not data:
                return
            self.output += data.decode("utf-8", "replace")

    def until(self, condition: Callable[[], object], seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            self.read()
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError(f"it never came to that: {self.shown[-2000:]}")

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def ends(self, seconds: float) -> int:
        """The exit status. Fails where it takes longer, leaves a process behind, or leaves the
        terminal in another state than it found it in."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            self.read()
            assert time.monotonic() < end, f"it does not end: {self.shown[-2000:]}"
        self.read()
        _, alive = psutil.wait_procs(children, timeout=2)
        assert not alive
        assert termios.tcgetattr(self._master) == self.before
        if "\x1b[?1049h" in self.output:
            assert self.output.rindex("\x1b[?1049l") > self.output.rindex("\x1b[?1049h")
            for mode in ("1000", "1003", "1004", "2004"):
                on, off = f"\x1b[?{mode}h", f"\x1b[?{mode}l"
                assert self.output.rfind(off) >= self.output.rfind(on), mode
        assert "Traceback" not in self.output
        return self.process.returncode


@contextmanager
def kvchat(
    *args: str, before: str = "", term: str = "xterm-256color", **script: object
) -> Iterator[Terminal]:
    """Starts it. `script`: of the scripted worker; `before`: code that runs first; `term`: what
    the terminal calls itself."""
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    code = _PROGRAM.replace("SCRIPT", repr(script)).replace("BEFORE", before)
    process = subprocess.Popen(
        [sys.executable, "-c", code, *args],
        cwd=ROOT,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env={**os.environ, "TERM": term},
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)
