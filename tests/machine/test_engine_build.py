"""The installed engine: its build seen from its files, its devices from a child process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_hardware import engine_folder, write_files
from tests.support.standin_gpu import standin_gpu
from tuner.machine.engine_build import ask_engine, built_backends, devices_of, library_folder
from tuner.units import GIB

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
    return {
        "name": name, "description": f"the {name}", "type": kind, "backend": backend,
        "device_id": device_id, "free": 7 * GIB, "total": 8 * GIB,
    }  # fmt: skip


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


@pytest.mark.skipif(
    "RPC" not in (built_backends(library_folder()) or ()), reason="an engine without RPC"
)
def test_a_real_rpc_server_is_listed() -> None:
    with standin_gpu() as server:
        answer = ask_engine([server])
    assert answer.problem == ""
    device = answer.devices[0]
    assert (device.kind, device.backend) == ("rpc", "RPC")
    assert device.engine_name.startswith("RPC0")
    assert 0 < device.free <= device.total


@pytest.mark.skipif(
    "RPC" not in (built_backends(library_folder()) or ()), reason="an engine without RPC"
)
def test_a_silent_rpc_server_is_named() -> None:
    assert "127.0.0.1:9" in ask_engine(["127.0.0.1:9"]).problem
