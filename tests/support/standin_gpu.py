"""A stand-in GPU: llama.cpp's RPC server over its own CPU backend, in a child process.

The engine treats an RPC device as a GPU: layers are really placed there, buffers really
allocated, and under an address-space limit it really runs out of memory.

    with standin_gpu() as server:
        client.load(Load(path, settings, 1, rpc_servers=(server,)))
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.terminal import ROOT

# The CPU backend says that all of the RAM is free, always. Here what this process has taken of its
# address space is not: `get_memory`, the third function of struct ggml_backend_device_i.
_SERVER = """
import ctypes, resource, runpy, sys
limit, told, script, *sys.argv[1:] = sys.argv[1:]
import llama_cpp
llama_cpp.llama_backend_init()
if int(told):
    def taken():
        return int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
    begun, size = taken(), ctypes.POINTER(ctypes.c_size_t)
    @ctypes.CFUNCTYPE(None, ctypes.c_void_p, size, size)
    def get_memory(device, free, total):
        free[0], total[0] = max(0, int(told) - taken() + begun), int(told)
    ggml = ctypes.CDLL("libggml.so.0")
    ggml.ggml_backend_dev_by_name.restype = ctypes.c_void_p
    functions = ctypes.cast(ggml.ggml_backend_dev_by_name(b"CPU"), ctypes.POINTER(ctypes.c_void_p))
    functions[2] = ctypes.cast(get_memory, ctypes.c_void_p).value
if int(limit):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + int(limit),) * 2)
runpy.run_path(script, run_name="__main__")
"""


@dataclass(frozen=True, slots=True)
class Server:
    """One that runs."""

    address: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """Ends it as a power cut would: from then on nothing listens there."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def rpc_server(
    memory: int | None = None, cache: Path | None = None, port: int = 0, told: int = 0
) -> Iterator[Server]:
    """Starts one of one thread. `memory`: bytes that it may allocate in all; `cache`: the folder
    for its tensors; `port`: 0 for any that is free; `told`: bytes that it says to have, less what
    it has allocated; 0: all of the RAM, whatever it has."""
    port = port or _free_port()
    address = f"127.0.0.1:{port}"
    script = str(ROOT / "examples" / "rpc_server.py")
    kept = ["--cache", str(cache)] if cache else []
    limits = [str(memory or 0), str(told)]
    # What is freed is given back at once, so that what is taken is what there is now.
    environ = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"} if told else {}
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER, *limits, script, address, "--threads", "1", *kept],
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port, process)
        yield Server(address, process)
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def standin_gpu(memory: int | None = None) -> Iterator[str]:
    """The same, of which only its "host:port" is of interest."""
    with rpc_server(memory) as server:
        yield server.address


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the stand-in GPU ended with status {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise TimeoutError("the stand-in GPU did not start")
