"""One model process as the parent sees it: start, write, read, and how it died."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from tuner.engine.log import last_fatal_line, names_memory, rotate
from tuner.engine.protocol import Event, Quit, Request, decode, encode
from tuner.errors import EngineError

_ROOT = Path(__file__).resolve().parents[2]

# -P and the append keep the folder that the user happens to stand in off the path: a stray
# jinja2.py or tuner/ there must not be picked up instead of ours.
WORKER_COMMAND = (
    sys.executable,
    "-P",
    "-c",
    f"import sys; sys.path.append({str(_ROOT)!r}); from tuner.engine.worker import main; main()",
)

_QUIT_SECONDS = 1.0

# Windows' exit codes for what POSIX calls a signal (winnt.h). Untested: no Windows at hand.
_WINDOWS_DEATHS = {
    0xC000001D: "SIGILL",
    0xC0000005: "SIGSEGV",
    0xC0000096: "SIGILL",
    0xC0000409: "SIGABRT",
    3: "SIGABRT",  # the C runtime's abort()
}


class WorkerDiedError(Exception):
    """The process ended without being asked. `signal_name` is "" for a plain exit."""

    def __init__(self, how: str, signal_name: str, fatal_line: str):
        super().__init__(how)
        self.how = how
        self.signal_name = signal_name
        self.fatal_line = fatal_line  # the log's last fatal line, may be empty

    @property
    def by_instruction(self) -> bool:
        """Whether it looks like code that this CPU cannot run: what repacked weights (AMX) do
        on a virtual machine that announces more than it has. An assertion counts, since AMX
        buffers also fail in ggml-backend.cpp's allocation; a GPU's abort does not."""
        if self.signal_name in {"SIGILL", "SIGSEGV", "SIGBUS"}:
            return True
        return self.signal_name == "SIGABRT" and "GGML_ASSERT" in self.fatal_line

    @property
    def by_memory(self) -> bool:
        """Whether memory ran out: the engine said so, or Linux killed it for that."""
        return names_memory(self.fatal_line) or self.signal_name == "SIGKILL"


class WorkerProcess:
    """A running worker. `send` and `kill` may be called from any thread, `read` from one."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log_path: Path):
        """Starts the process; its stderr is the log. Raises EngineError("crashed") where it
        cannot be started at all."""
        self._write_lock = threading.Lock()
        self._log_path = log_path
        log_path.parent.mkdir(parents=True, exist_ok=True)
        rotate(log_path)
        with log_path.open("ab") as log:
            self._log_start = log.tell()
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=dict(env),
                    # Ctrl-C in the terminal is for the program, not for the model.
                    start_new_session=os.name == "posix",
                    creationflags=_windows_flags(),
                )
            except OSError as error:
                raise EngineError(
                    "crashed", f"the engine's process could not be started: {error}"
                ) from error
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, request: Request) -> None:
        """Writes one request. A dead worker is noticed by the next `read`, not here."""
        pipe = self._process.stdin
        assert pipe is not None
        with self._write_lock, contextlib.suppress(OSError, ValueError):
            pipe.write(encode(request))
            pipe.flush()

    def read(self) -> Event:
        """The next event; blocks. Raises WorkerDiedError at the end of the stream."""
        pipe = self._process.stdout
        assert pipe is not None
        while True:
            try:
                line = pipe.readline()
            except ValueError:  # closed by close()
                line = b""
            if not line.endswith(b"\n"):  # also a line that a death cut short
                raise self._death()
            try:
                event: Event = decode(line)
            except ValueError:
                continue  # no event of ours: nothing that a user could act on
            return event

    def quit(self) -> None:
        """Asks it to end, and kills it when it does not within a second."""
        pipe = self._process.stdin
        assert pipe is not None
        if self.alive and self._write_lock.acquire(timeout=0.2):
            try:
                with contextlib.suppress(OSError, ValueError):
                    pipe.write(encode(Quit()))
                    pipe.close()  # its stdin ends: a second reason to leave
            finally:
                self._write_lock.release()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_QUIT_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Ends it at once and reaps it."""
        if self.alive:
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_QUIT_SECONDS)

    def _death(self) -> WorkerDiedError:
        try:
            code = self._process.wait(_QUIT_SECONDS)
        except subprocess.TimeoutExpired:  # closed its stdout, yet lives: of no use any more
            self.kill()
            code = self._process.returncode
        name = _signal_name(code)
        how = f"by signal {name}" if name else f"with exit status {code}"
        if name == "SIGKILL":
            how += ", as the system does when memory runs out"
        return WorkerDiedError(how, name, last_fatal_line(self._log_path, self._log_start))


def _signal_name(code: int) -> str:
    if os.name == "nt":
        return _WINDOWS_DEATHS.get(code & 0xFFFFFFFF, "")
    if code >= 0:
        return ""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return str(-code)


def _windows_flags() -> int:
    if sys.platform != "win32":
        return 0
    # Untested: no Windows at hand. Its own process group keeps Ctrl-C away from it.
    return subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
