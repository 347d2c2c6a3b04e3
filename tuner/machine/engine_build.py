"""The engine as it is installed: what it was built with, seen from its files alone, and its own
device list, asked in a child process. Never imports the engine."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.machine.machine import Device

# The library of each GPU backend (ggml/src/ggml-*): the word in its file name -> what the engine
# calls that backend.
GPU_LIBRARIES = {
    "cuda": "CUDA", "hip": "ROCm", "metal": "Metal", "vulkan": "Vulkan", "sycl": "SYCL",
    "musa": "MUSA", "opencl": "OpenCL", "cann": "CANN",
}  # fmt: skip
_BACKEND_NAMES = {"MTL": "Metal", "HIP": "ROCm"}
_GPU, _IGPU = 1, 2  # enum ggml_backend_dev_type

REQUIREMENT = "llama-cpp-python>=0.3.36,<0.3.37"
_CMAKE = {"CUDA": "-DGGML_CUDA=on", "ROCm": "-DGGML_HIP=on", "Vulkan": "-DGGML_VULKAN=on",
          "Metal": "-DGGML_METAL=on", "SYCL": "-DGGML_SYCL=on"}  # fmt: skip


def library_folder(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Where the engine's libraries lie, found without importing it; None: not installed."""
    override = environ.get("LLAMA_CPP_LIB_PATH")
    if override:
        return Path(override)
    try:
        spec = importlib.util.find_spec("llama_cpp")
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / "lib").is_dir():
            return Path(folder) / "lib"
    return None


def built_backends(folder: Path | None) -> frozenset[str] | None:
    """The GPU backends that the engine in this folder was built with ("CUDA", "Metal", ...; "RPC"
    too). None where its files do not tell: no engine, or everything linked into one library."""
    try:
        names = [path.name for path in folder.iterdir()] if folder else []
    except OSError:
        return None
    stems = {name.removeprefix("lib").split(".", 1)[0] for name in names}
    if not any(stem.startswith("ggml-") for stem in stems):
        return None
    known = {**GPU_LIBRARIES, "rpc": "RPC"}
    return frozenset(backend for word, backend in known.items() if f"ggml-{word}" in stems)


def rebuild_command(backend: str, platform: str = sys.platform) -> str:
    """The command that gives the installed engine this GPU backend."""
    install = f'pip install --force-reinstall --no-cache-dir "{REQUIREMENT}"'
    if platform == "win32":  # PowerShell
        return f'$env:CMAKE_ARGS="{_CMAKE[backend]}"; {install}'
    return f'CMAKE_ARGS="{_CMAKE[backend]}" {install}'


# ---------------------------------------------------------------- the engine's own list


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    """What the engine said: its GPU and RPC devices, in its order, or why it said nothing."""

    devices: tuple[Device, ...] = ()
    problem: str = ""


def ask_engine(rpc_servers: Sequence[str] = (), timeout: float = 30.0) -> EngineAnswer:
    """The engine's device list, from a child process. A crash or a hang is an empty list."""
    command = [sys.executable, "-m", "tuner.engine.probe", *rpc_servers]
    home = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "GGML_NO_BACKTRACE": "1"},
        )
    except subprocess.TimeoutExpired:
        return EngineAnswer(problem=f"the engine did not list its devices in {timeout:.0f} s")
    except OSError as error:
        return EngineAnswer(problem=f"the engine could not be asked for its devices ({error})")
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = lines[-1] if lines and done.returncode == 1 else f"status {done.returncode}"
        return EngineAnswer(problem=f"the engine could not list its devices ({reason})")
    try:
        return EngineAnswer(devices_of(json.loads(done.stdout)))
    except (ValueError, KeyError, TypeError):
        return EngineAnswer(problem="the engine's device list could not be understood")


def engine_devices(rpc_servers: Sequence[str] = ()) -> list[Device]:
    """The engine's GPU and RPC devices, in its order; empty where it does not answer."""
    return list(ask_engine(rpc_servers).devices)


def devices_of(listed: list[dict[str, Any]]) -> tuple[Device, ...]:
    """Devices of a probe's answer, in the order in which llama.cpp uses them (src/llama.cpp):
    RPC first, then GPUs, and integrated ones only where there is no other. Reserve, overhead
    and bandwidth are left for the caller."""
    rpc = [one for one in listed if one["type"] == _GPU and one["backend"].startswith("RPC")]
    own: list[dict[str, Any]] = []
    for one in listed:
        shown = {other["device_id"] for other in own if other["device_id"]}
        if one["type"] == _GPU and one not in rpc and one["device_id"] not in shown:
            own.append(one)
    if not own:
        integrated = [one for one in listed if one["type"] == _IGPU]
        own = [one for one in integrated if one["backend"] == integrated[0]["backend"]]
    return tuple(_device(index, one) for index, one in enumerate([*rpc, *own]))


def _device(index: int, one: dict[str, Any]) -> Device:
    named = str(one["backend"])
    backend = "RPC" if named.startswith("RPC") else _BACKEND_NAMES.get(named, named)
    return Device(
        id=f"GPU{index}",
        kind="rpc" if backend == "RPC" else "gpu",
        backend=backend,
        name=one["description"] or one["name"],
        total=int(one["total"]),
        free=int(one["free"]),
        reserve=0,
        engine_name=one["name"],
        unified=backend == "Metal" or one["type"] == _IGPU,
    )
