"""What goes wrong with a model process, brought about from outside of it. Linux, and what of it
other systems have."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import psutil

from tests.support.standin_gpu import Server, rpc_server
from tuner.units import MIB

_CLOCK = "KVCHAT_CLOCK"  # the file with how far the clock is off; so named, children inherit it
_JUMPS = (-400 * 86400, -3600, -2, 2, 3600, 400 * 86400)  # seconds
_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile int64_t *off;

__attribute__((constructor)) static void look(void) {
    const char *path = getenv("KVCHAT_CLOCK");
    int file = path ? open(path, O_RDONLY) : -1;
    void *map = file < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
    if (map != MAP_FAILED) off = map;
}

int clock_gettime(clockid_t id, struct timespec *to) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, to);
    if (!result && off && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) to->tv_sec += *off;
    return result;
}

int gettimeofday(struct timeval *restrict to, void *restrict zone) {
    struct timespec now;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    to->tv_sec = now.tv_sec;
    to->tv_usec = now.tv_nsec / 1000;
    return result;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}
"""


def with_a_clock_that_jumps(arguments: Sequence[str]) -> None:
    """Starts this program anew, with a clock between it and the system's that `jump` moves; its
    children have the same. Returns where it has one, or cannot have one (no compiler)."""
    if _CLOCK in os.environ or not shutil.which("gcc") or sys.platform != "linux":
        return
    folder = Path(tempfile.mkdtemp(prefix="clock-"))
    (folder / "clock.c").write_text(_SHIM)
    (folder / "off").write_bytes(bytes(8))
    library = folder / "clock.so"
    files = [str(library), str(folder / "clock.c")]
    build = ["gcc", "-shared", "-fPIC", "-O1", "-o", *files, "-ldl"]
    if subprocess.run(build, check=False, stderr=subprocess.DEVNULL).returncode == 0:
        clock = {"LD_PRELOAD": str(library), _CLOCK: str(folder / "off")}
        os.execve(sys.executable, [sys.executable, *arguments], {**os.environ, **clock})


def clock_jumps() -> bool:
    return _CLOCK in os.environ


def jump(chance: Random) -> None:
    """The wall clock of this program and its children is off from now on."""
    with Path(os.environ[_CLOCK]).open("r+b") as file, mmap.mmap(file.fileno(), 8) as off:
        off[:8] = chance.choice(_JUMPS).to_bytes(8, sys.byteorder, signed=True)


def send(pid: int | None, number: int) -> None:
    """A signal."""
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def limit(pid: int | None, what: int, most: int) -> None:
    """Of a process, from now on; what it has already it keeps."""
    if pid is not None:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            process.rlimit(what, (most, process.rlimit(what)[1]))


def no_memory(pid: int | None, more: int) -> None:
    """It can allocate so many bytes more, and then nothing."""
    if pid is not None:
        with contextlib.suppress(psutil.Error):
            limit(pid, psutil.RLIMIT_AS, psutil.Process(pid).memory_info().vms + more)


def lift_limits(pid: int | None) -> None:
    """There is memory again, and room on the disk."""
    for what in (psutil.RLIMIT_AS, psutil.RLIMIT_FSIZE):
        limit(pid, what, psutil.RLIM_INFINITY)


def template_child(pid: int | None) -> int | None:
    """The process that renders a model process' template."""
    with contextlib.suppress(psutil.Error):
        return next((child.pid for child in psutil.Process(pid).children()), None)
    return None


def garbage(chance: Random) -> bytes:
    """What no program would say, or not there."""
    lines = (
        b'{"type": "Text", "n": 1', b"null\n", b"[" * 5000 + b"\n", b"\xff\xfe\n", b"\n",
        b"\0" * 99, b'{"type": "Done"}\n', b'{"type": "Nothing", "n": 2}\n', b"llama: error\n",
        b'{"type": "Text", "n": -1, "text": "?", "n_tokens": 1, "thought": false}\n',
        chance.randbytes(chance.choice((1, 80, 70_000))),
    )  # fmt: skip
    return chance.choice(lines)


def into_pipe(pid: int | None, inode: int, what: bytes) -> None:
    """Writes into a pipe that a process has open, at either end."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            if os.stat(entry.path).st_ino == inode:
                # Never waits: there is room, or the pipe has enough.
                end = os.open(entry.path, os.O_WRONLY | os.O_NONBLOCK)
                try:
                    os.write(end, what)
                finally:
                    os.close(end)
                return


def left_over(variable: str, value: str) -> list[psutil.Process]:
    """Processes that have inherited this."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(variable) == value:
                found.append(process)
    return found


class RemoteGpu:
    """An RPC server that its machine starts again whenever it ends."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._server = self._start(0)

    def _start(self, port: int) -> Server:
        return self._stack.enter_context(rpc_server(port=port))

    @property
    def address(self) -> str:
        return self._server.address

    @property
    def pid(self) -> int:
        return self._server.process.pid

    def kill(self) -> None:
        self._server.kill()

    def mend(self) -> None:
        """It is there, and has what it needs."""
        send(self.pid, signal.SIGCONT)
        if self._server.process.poll() is None:
            lift_limits(self.pid)
            return
        self._stack.close()
        self._server = self._start(int(self.address.partition(":")[2]))

    def close(self) -> None:
        self._stack.close()


@contextlib.contextmanager
def remote_gpu(wanted: bool) -> Iterator[RemoteGpu | None]:
    """One, where it is wanted."""
    gpu = RemoteGpu() if wanted else None
    try:
        yield gpu
    finally:
        if gpu is not None:
            gpu.close()


SLACK = (0, 1 * MIB, 8 * MIB, 64 * MIB)  # bytes that a process may still have where memory ends
