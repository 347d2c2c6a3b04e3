"""The engine's own word on any file and settings: dry runs in a child process.

    with Oracle(n_gpus=1) as oracle:
        answer = oracle.ask(path, Settings(8192, n_gpu_layers=20))

Stand-in GPUs are RPC servers on loopback, each a child process that serves the CPU backend: the
engine places layers there as on a real one, and under `no_alloc` nothing is allocated, so sparse
files of any size will do. Needs an engine built with GGML_RPC=ON; x86-64 Linux. A stand-in with a
GPU backend's own rules (`bench.backend_rules`) is asked with the library that has them:

    with Oracle(n_gpus=2, backend="Vulkan", rules=built(sources, folder)) as oracle:
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from tuner.errors import KvchatError
from tuner.settings import Settings

_LOADS = "KVCHAT_ORACLE_LOADS"  # tells the child to load
ROOT = Path(__file__).resolve().parent.parent


_USUAL = {f.name: f.default for f in fields(Settings)}


def off_usual(settings: Settings) -> dict[str, Any]:
    """What of these settings is not the usual."""
    return {k: v for k, v in asdict(settings).items() if v != _USUAL[k]}


@dataclass(frozen=True, slots=True)
class Sizes:
    """One device's share, in bytes: llama.cpp's model, context and compute."""

    weights: int = 0
    cache: int = 0
    compute: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """The devices' shares, GPUs first, the host last; or why the engine refused."""

    sizes: tuple[Sizes, ...] = ()
    error: str = ""


@cache
def rpc_available() -> bool:
    """Whether the engine here was built with RPC (Linux: stand-ins are found by its soname)."""
    if sys.platform != "linux":
        return False
    probe = "import ctypes, llama_cpp; ctypes.CDLL('libggml-rpc.so.0')"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False)
    return done.returncode == 0


def available() -> bool:
    """Whether this machine's engine can serve as an oracle."""
    return rpc_available() and platform.machine() == "x86_64"


class Oracle:
    """Dry runs on this machine with `n_gpus` stand-ins. A crash of the engine costs one answer."""

    def __init__(
        self,
        n_gpus: int = 1,
        *,
        backend: str = "RPC",
        rules: Path | None = None,
        optimizes: bool = True,
        loads: bool = False,
    ):
        """`rules`: a library of `bench.backend_rules`, for any `backend` but RPC; `optimizes`:
        whether the backend changes graphs as it does (`graph_optimize`); `loads`: with real loads
        instead of dry runs, which takes the memory (of the host, here)."""
        self._n_gpus = n_gpus
        self._loads = loads
        self._posed = (
            ["pose", str(rules), backend, str(n_gpus), str(int(optimizes))] if rules else []
        )
        self._servers: list[subprocess.Popen[bytes]] = []
        self._child: subprocess.Popen[str] | None = None
        self._ports: list[int] = []

    def __enter__(self) -> Oracle:
        for _ in range(0 if self._posed else self._n_gpus):
            port = _free_port()
            self._servers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "bench.oracle", "serve", str(port)],
                    cwd=ROOT,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
            self._ports.append(port)
        for port in self._ports:
            _wait_for(port)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in (self._child, *self._servers):
            if process is not None:
                process.kill()
                process.wait()

    def ask(self, path: Path, settings: Settings, n_outputs_max: int = 1) -> Answer:
        """What the engine would allocate for these settings and rows of logits (0: one for each
        token that is computed at once)."""
        if self._child is None or self._child.poll() is not None:
            self._child = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "bench.oracle",
                    *(self._posed or ("dry", *map(str, self._ports))),
                ],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={
                    **os.environ,
                    "GGML_NO_BACKTRACE": "1",
                    **({_LOADS: "1"} if self._loads else {}),
                },
            )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps([str(path), asdict(settings), n_outputs_max]) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            return Answer(error=f"the engine died ({self._child.wait()})")
        found = json.loads(line)
        if "error" in found:
            return Answer(error=found["error"])
        return Answer(sizes=tuple(Sizes(*x) for x in found["sizes"]))


def _serve(port: int) -> None:
    """Never returns."""
    from tuner.engine import llama  # noqa: PLC0415

    llama.init()
    ggml = ctypes.CDLL("libggml.so.0")  # by soname: the copy that the engine uses
    ggml.ggml_backend_dev_by_type.restype = ctypes.c_void_p
    device = ctypes.c_void_p(ggml.ggml_backend_dev_by_type(0))
    serve = ctypes.CDLL("libggml-rpc.so.0").ggml_backend_rpc_start_server
    serve.restype = None
    serve.argtypes = [
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_size_t,
        ctypes.c_void_p,
    ]
    serve(f"127.0.0.1:{port}".encode(), None, 1, 1, ctypes.byref(device))


def _answer_dry_runs(ports: list[int], posed: list[str]) -> None:
    """On RPC servers at `ports`, or on what is `posed`: a library, a backend, how many."""
    from tuner.engine import llama  # noqa: PLC0415

    out = os.fdopen(os.dup(1), "w")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    log = llama.LogTap(silence)
    llama.init()
    for port in ports:
        llama.libraries.register_rpc(f"127.0.0.1:{port}")
    names = [f"127.0.0.1:{port}" for port in ports]
    if posed:
        from bench.backend_rules import place_weights, pose_as  # noqa: PLC0415

        library, backend, count, optimizes = posed
        pose_as(Path(library), backend, int(count), optimizes=optimizes == "1")
        names = [f"{backend}{i}" for i in range(int(count))]
    for line in sys.stdin:
        path, stated, n_outputs_max = json.loads(line)
        if posed:
            with contextlib.suppress(KvchatError):  # the engine will say what is wrong
                place_weights(Path(library), Path(path))
        stated["tensor_split"] = tuple(stated["tensor_split"])
        found = _dry_run(llama, log, names, path, Settings(**stated), n_outputs_max)
        print(json.dumps(found), file=out)
        out.flush()


def _dry_run(
    llama: Any, log: Any, names: list[str], path: str, settings: Settings, n_outputs_max: int
) -> Any:
    with log.recording():
        try:
            model = llama.NativeModel(path, settings, log, dry=_LOADS not in os.environ)
            try:
                context = llama.Context(model, settings, 1, log, n_outputs=n_outputs_max)
                try:
                    buffers = context.breakdown()
                finally:
                    context.close()
            finally:
                model.close()
        except llama.LlamaError as error:
            return {"error": str(error)}
    sizes = [[0, 0, 0] for _ in range(len(names) + 1)]
    column = {"weights": 0, "kv_cache": 1, "recurrent_state": 1, "compute": 2}
    for buffer in buffers:
        device = next((i for i, n in enumerate(names) if n in buffer.device), len(names))
        sizes[device][column[buffer.kind]] += buffer.size
    return {"sizes": sizes}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError("the stand-in GPU did not start")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve(int(sys.argv[2]))
    elif sys.argv[1] == "pose":
        _answer_dry_runs([], sys.argv[2:])
    else:
        _answer_dry_runs([int(p) for p in sys.argv[2:]], [])
