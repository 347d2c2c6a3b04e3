"""The installed engine: its build seen from its files, its devices from a child process."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_hardware import engine_folder, write_files
from tests.support.standin_gpu import standin_gpu
from tests.support.terminal import ROOT
from tuner.engine.probe import EngineDevice
from tuner.errors import EngineError
from tuner.machine import measure
from tuner.machine.engine_build import (
    ask_engine,
    built_backends,
    devices_of,
    has_accelerator,
    library_folder,
)
from tuner.units import GIB

needs_rpc = pytest.mark.skipif(
    "RPC" not in (built_backends(library_folder()) or ()), reason="an engine without RPC"
)
LINUX = ["libggml-base.so.0", "libggml-cuda.so", "libggml-cuda.so.0.25.3", "libggml-rpc.so"]
WINDOWS = ["ggml-base.dll", "ggml-cpu.dll", "ggml-vulkan.dll", "llama.dll"]
MACOS = ["libggml-base.0.dylib", "libggml-metal.dylib", "libggml-blas.dylib"]


@pytest.mark.parametrize(
    ("names", "backends"),
    [
        (LINUX, {"CUDA", "RPC"}),
        (WINDOWS, {"Vulkan"}),
        (MACOS, {"Metal"}),
        (["libggml-base.so", "libggml-hip.so"], {"ROCm"}),
        (["libggml-base.so", "libggml-cpu.so"], set()),
        (["libllama.so"], None),
        ([], None),
    ],
)
def test_the_build_is_seen_from_its_files(
    tmp_path: Path, names: list[str], backends: set[str] | None
) -> None:
    write_files(tmp_path, dict.fromkeys(names, ""))
    assert built_backends(tmp_path) == backends


def test_no_engine_tells_nothing(tmp_path: Path) -> None:
    assert built_backends(None) is None
    assert built_backends(tmp_path / "none") is None


def test_the_environment_may_name_another_build(tmp_path: Path) -> None:
    folder = engine_folder(tmp_path, "cuda")
    assert library_folder({"LLAMA_CPP_LIB_PATH": str(folder)}) == folder


def test_looking_never_imports_the_engine() -> None:
    """Measuring the machine, in a fresh interpreter, leaves the engine and the screen alone."""
    code = (
        "import sys; from tuner.machine import measure, stated; measure.measure();"
        "stated.stated([1 << 30]);"
        "bad = {'llama_cpp', 'textual', 'numpy', 'gguf'} & set(sys.modules); sys.exit(str(bad)"
        " if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- the engine's list


def listed(name: str, kind: int, backend: str, device_id: str = "") -> dict[str, Any]:
    return asdict(EngineDevice(name, f"the {name}", kind, backend, device_id, 7 * GIB, 8 * GIB))


def test_an_answer_becomes_devices_in_its_order() -> None:
    found = devices_of([listed("RPC0", 1, "RPC"), listed("CUDA0", 1, "CUDA", "0000:01:00.0")])
    assert [(d.id, d.engine_name, d.kind, d.backend, d.device_id) for d in found] == [
        ("GPU0", "RPC0", "rpc", "RPC", ""),
        ("GPU1", "CUDA0", "gpu", "CUDA", "0000:01:00.0"),
    ]
    assert (found[1].name, found[1].free, found[1].total) == ("the CUDA0", 7 * GIB, 8 * GIB)
    assert devices_of([listed("Vulkan0", 2, "Vulkan")])[0].unified


def test_metal_goes_by_its_name() -> None:
    (gpu,) = devices_of([listed("MTL0", 1, "MTL")])
    assert gpu.backend == "Metal"
    assert gpu.unified


# ---------------------------------------------------------------- the child process


def test_the_real_engine_answers() -> None:
    """Whatever it is built with, it lists its devices without a problem, and the host is none."""
    pytest.importorskip("llama_cpp")
    answer = ask_engine()
    assert answer.problem == ""
    assert all(device.kind == "gpu" and device.total > 0 for device in answer.devices)


def child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """ask_engine's child runs `code` instead of the probe."""
    script = tmp_path / "child"
    script.write_text(f"#!{sys.executable}\n{code}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in child is a script")
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "status -9"),
        ("import sys; sys.exit('no engine is installed')", "no engine is installed"),
        ("print('hello')", "could not be understood"),
        ("print('[{}]')", "could not be understood"),
        ("import time; time.sleep(60)", "did not list its devices"),
    ],
)
def test_a_child_that_fails_is_an_empty_list(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, says: str
) -> None:
    child(monkeypatch, tmp_path, code)
    answer = ask_engine(timeout=0.5 if "sleep" in code else 30.0)
    assert answer.devices == ()
    assert says in answer.problem


def test_a_python_that_is_gone_is_an_empty_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert "could not be asked" in ask_engine().problem


@needs_rpc
def test_a_real_rpc_server_is_listed_and_tried() -> None:
    """Whose CPU it is: one thread, on this machine. What its kernels reach is no data sheet."""
    with standin_gpu() as server:
        answer = ask_engine([server])
    assert answer.problem == ""
    device = answer.devices[0]
    assert (device.kind, device.backend, device.name) == ("rpc", "RPC", server)
    assert device.engine_name.startswith("RPC0")
    assert 0 < device.free <= device.total
    assert device.bandwidth_source == "measured"
    assert 0.2e9 < device.bandwidth < 100e9
    assert 1e9 < device.flops < 2e12
    assert 0 < device.round_trip < 0.1
    assert device.pcie_bandwidth > 10e6


@contextmanager
def listening(answer: bytes | None) -> Iterator[str]:
    """Something that listens and says this to whoever speaks; None: nothing at all."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                with client:
                    if client.recv(33, socket.MSG_WAITALL) and answer is not None:
                        client.sendall(answer)
                    while answer is None and client.recv(100):
                        pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


# As `rpc_msg_hello_rsp` (ggml-rpc.cpp): its size, the version, what the connection can do.
OLD_HELLO = struct.pack("<Q4B24x", 28, 6, 1, 2, 0)


@needs_rpc
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (OLD_HELLO, r"server {} is of another version \(RPC protocol 6\.1\.2\): it must be of the"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", r"what answers at {} is no RPC server, or one of"),
        (None, r"server {} does not speak: it serves one client at a time and may have another"),
    ],
)
def test_what_is_no_such_server_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: bytes | None, says: str
) -> None:
    # The child is called as `python -m tuner.engine.probe SERVER`.
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[1:3] = []\n"
        "from tuner.engine import probe; probe.SILENCE = 0.5; sys.exit(probe.main())"
    )
    child(monkeypatch, tmp_path, code)
    with listening(answer) as address:
        told = ask_engine([address])
    assert re.search(says.format(re.escape(address)), told.problem)


@needs_rpc
def test_a_server_that_is_not_there_is_no_plan_without_it() -> None:
    """Whoever names one counts on it."""
    with pytest.raises(EngineError, match=r"no RPC server runs at 127\.0\.0\.1:9: the conn"):
        measure.measure(rpc_servers=["127.0.0.1:9"])


@pytest.mark.parametrize(("library", "there"), [("ggml-blas", True), ("ggml-cuda", False)])
def test_a_library_for_the_cpus_products_is_an_accelerator(
    tmp_path: Path, library: str, there: bool
) -> None:
    (tmp_path / f"lib{library}.so.0").touch()
    assert has_accelerator(tmp_path) == there
    assert not has_accelerator(None)
