"""One model process as the parent sees it: start, write, read, and how it died."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tuner.engine.lifeline import child_command
from tuner.engine.log import last_fatal_line, open_log, size
from tuner.engine.log_lines import names_memory
from tuner.engine.protocol import Event, ProtocolError, Quit, Request, decode, encode
from tuner.errors import EngineError
from tuner.machine.control_groups import oom_kills

WORKER_COMMAND = child_command("tuner.engine.worker")

# How the engine's threads wait for each other (libgomp), unless the user's environment says so. By
# its default they spin, and where another program takes one of their cores, all of them spin for
# the one that has none. Those that sleep too soon must be woken: on two cores that nobody else uses
# 1000 turns cost a twentieth of the speed, 1500 a fortieth, 2000 nothing; on busy ones 2000 are two
# thirds as fast as 1000, and ten times as fast as 10,000.
THREADS = {"GOMP_SPINCOUNT": "2000"}

_QUIT_SECONDS = 1.0
_START_SECONDS = 30.0  # for the system to start a process
_MAX_LINE = 4 << 20  # bytes; the longest event has some thousands
_MAX_WAITING = 4096  # events that nobody has read yet

# Windows' exit codes for what POSIX calls a signal (winnt.h). Untested: no Windows at hand.
_WINDOWS_DEATHS = {
    0xC000001D: "SIGILL",
    0xC0000005: "SIGSEGV",
    0xC0000096: "SIGILL",
    0xC0000409: "SIGABRT",
    3: "SIGABRT",  # the C runtime's abort()
}


_BY_KERNEL = "from the kernel, since memory ran out"


class WorkerDiedError(Exception):
    """The process ended without being asked, or had to be ended. The message says how, beginning
    with a verb. `signal_name` is "" for anything but a signal from outside or of its own."""

    def __init__(self, how: str, signal_name: str = "", fatal_line: str = ""):
        super().__init__(how)
        self.signal_name = signal_name
        self.fatal_line = fatal_line  # the log's last fatal line, may be empty
        self.broken_off = False  # it lost an RPC server, and all are there

    @property
    def by_memory(self) -> bool:
        """Whether memory ran out: somebody said so, or Linux killed it for that."""
        return names_memory(self.fatal_line) or self.signal_name == "SIGKILL"

    @property
    def surely_by_memory(self) -> bool:
        """The same where it is known: of SIGKILL, which anybody may send, the kernel's own."""
        return names_memory(self.fatal_line) or _BY_KERNEL in str(self)

    @property
    def by_instruction(self) -> bool:
        """Whether it met code that this CPU cannot run."""
        return self.signal_name == "SIGILL" and not self.by_memory

    @property
    def maybe_by_instruction(self) -> bool:
        """Whether repacked weights (AMX) may be to blame, which on a virtual machine that announces
        more than it has die in many ways: also of an assertion, since their buffers fail in
        ggml-backend.cpp's allocation, too. But so does much else."""
        if self.by_memory:
            return False
        aborted = self.signal_name == "SIGABRT" and "GGML_ASSERT" in self.fatal_line
        return aborted or self.signal_name in {"SIGILL", "SIGSEGV", "SIGBUS"}

    def like(self, other: WorkerDiedError) -> bool:
        """Whether it is the same death again."""
        return (self.signal_name, self.fatal_line) == (other.signal_name, other.fatal_line)


class WorkerProcess:
    """A running worker. `send`, `quit` and `kill` may be called from any thread, `read` from one;
    none of them waits for a process that does not answer. Two threads of its own read and write
    the pipes."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log_path: Path):
        """Starts the process; its stderr is the log, at `log_path` or where it can be written
        instead. Raises EngineError("crashed") where it cannot be started at all."""
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._events: queue.Queue[tuple[int, Event] | None] = queue.Queue(_MAX_WAITING)
        self._ended = ""  # why it had to be ended, if so
        self._served = False  # it has begun with a request
        self._oom_kills = oom_kills()
        started: queue.SimpleQueue[subprocess.Popen[bytes] | OSError] = queue.SimpleQueue()
        self.log_path, log, self.log_problem = open_log(log_path)
        with log:
            self._log_start = log.tell()
            # By the thread that reads: the process ends with the thread that started it.
            arguments = (started, tuple(command), dict(env), log)
            threading.Thread(target=self._live, args=arguments, daemon=True).start()
            try:
                process = started.get(timeout=_START_SECONDS)
            except queue.Empty:
                process = OSError("the system does not answer")
        if isinstance(process, OSError):
            raise EngineError(
                "crashed", f"the engine's process could not be started: {process}"
            ) from process
        threading.Thread(target=self._write, daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, request: Request, number: int = 0) -> None:
        """Queues one request. A dead worker is noticed by the next `read`, not here."""
        self._requests.put(encode(request, number))

    def read(self, seconds: float) -> tuple[int, Event] | None:
        """The next event and the number of its request; None where none comes within `seconds`.
        Raises WorkerDiedError at the end of the stream, or where it holds anything else."""
        try:
            event = self._events.get(timeout=seconds)
        except queue.Empty:
            return None
        if event is None:
            self._events.put(None)  # the next read finds it ended, too
            raise self._death()
        return event

    def quit(self) -> None:
        """Asks it to end, and kills it when it does not within a second."""
        self.send(Quit())
        self._requests.put(None)  # its stdin ends: a second reason to leave
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_QUIT_SECONDS)
        self.kill()

    def begin(self, request: Request, number: int) -> None:
        """Sends one that takes time. If the process dies, what is in the log from now on says why:
        what it survived before does not."""
        if self._served and self.alive:  # what it says as it starts may be why it is about to die
            self._log_start = size(self.log_path)
            self._oom_kills = oom_kills()
        self._served = True
        self.send(request, number)

    def give_up(self, why: str) -> WorkerDiedError:
        """Kills it for a reason, which begins with a verb. Returns what `read` raises from now on,
        once what it said before is read."""
        self._ended = f"{why} and was ended"
        self.kill()
        return WorkerDiedError(self._ended)

    def kill(self) -> None:
        """Ends it at once and reaps it."""
        if self.alive:
            self._process.kill()
        self._requests.put(None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_QUIT_SECONDS)

    def _live(
        self,
        started: queue.SimpleQueue[subprocess.Popen[bytes] | OSError],
        command: Sequence[str],
        env: Mapping[str, str],
        log: IO[bytes],
    ) -> None:
        """Starts the process, then reads what it says to the end."""
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=env,
                # Ctrl-C in the terminal is for the program, not for the model.
                start_new_session=os.name == "posix",
                creationflags=_windows_flags(),
            )
        except OSError as error:
            started.put(error)
            return
        self._process = process
        self.pid = process.pid
        started.put(process)
        assert process.stdout is not None
        try:
            # A line without an end is one that a death cut short, or nonsense.
            while (line := process.stdout.readline(_MAX_LINE)).endswith(b"\n"):
                self._events.put(decode(line))
            if len(line) == _MAX_LINE:
                self.give_up("said what cannot be understood (a line without an end)")
        except ProtocolError as error:
            self.give_up(f"said what cannot be understood ({error})")
        except (OSError, ValueError, MemoryError):
            pass
        process.stdout.close()
        self._events.put(None)
        process.wait()

    def _write(self) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        while (line := self._requests.get()) is not None:
            with contextlib.suppress(OSError, ValueError):
                pipe.write(line)
                pipe.flush()
        with contextlib.suppress(OSError, ValueError):
            pipe.close()

    @property
    def _killer(self) -> str:
        """Who sent SIGKILL. The kernel counts what it kills for want of memory, and nothing else;
        where it killed nothing, another program may have done that in its place."""
        before, now = self._oom_kills, oom_kills()
        if before is not None and now is not None and now > before:
            return _BY_KERNEL
        return "from the system, if memory ran out, or from somebody"

    def _death(self) -> WorkerDiedError:
        if self._ended:
            return WorkerDiedError(self._ended)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_QUIT_SECONDS)
        if self.alive:  # closed its stdout, yet lives: of no use any more
            return self.give_up("closed its output")
        name = _signal_name(self._process.returncode)
        how = f"by signal {name}" if name else f"with exit status {self._process.returncode}"
        if name == "SIGKILL":
            how += f" ({self._killer})"
        fatal_line = last_fatal_line(self.log_path, self._log_start)
        return WorkerDiedError(f"ended unexpectedly {how}", name, fatal_line)


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
