"""A stand-in GPU: llama.cpp's RPC server over its own CPU backend, in a child process.

The engine treats an RPC device as a GPU: layers are really placed there, buffers really
allocated, and under an address-space limit it really runs out of memory.

    with standin_gpu() as server:
        client.load(Load(path, settings, 1, rpc_servers=(server,)))
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

_SERVER = """
import ctypes, sys
port, limit = sys.argv[1], int(sys.argv[2])
import llama_cpp
libs = {n: ctypes.CDLL(f"lib{n}.so.0") for n in ("ggml", "ggml-rpc")}
by_type = libs["ggml"].ggml_backend_dev_by_type
by_type.restype, by_type.argtypes = ctypes.c_void_p, [ctypes.c_int]
device = ctypes.c_void_p(by_type(0))
if limit:
    import resource
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + limit, used + limit))
start = libs["ggml-rpc"].ggml_backend_rpc_start_server
start.restype = None
start.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t,
                  ctypes.POINTER(ctypes.c_void_p)]
start(f"127.0.0.1:{port}".encode(), None, 1, 1, ctypes.byref(device))
"""


@contextlib.contextmanager
def standin_gpu(memory: int | None = None) -> Iterator[str]:
    """Starts one and gives its "host:port". `memory`: bytes that it may allocate in all."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(port), str(memory or 0)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the stand-in GPU ended with status {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise TimeoutError("the stand-in GPU did not start")
