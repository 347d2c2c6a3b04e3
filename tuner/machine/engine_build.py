"""The engine as it is installed: what it was built with, seen from its files alone, and its own
device list, asked in a child process. Never imports the engine."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuner.child_environment import child_environment
from tuner.engine_version import REQUIREMENT
from tuner.gguf.types import GGML_NUMBERS
from tuner.machine.backends import BACKENDS, of_engine
from tuner.machine.machine import Device
from tuner.machine.rpc import SILENCE, gone, lost_text, rejected

GPU, INTEGRATED_GPU = 1, 2  # enum ggml_backend_dev_type (ggml-backend.h)
_ACCELERATORS = frozenset({"ggml-blas", "ggml-zdnn", "ggml-zendnn"})
USUAL_WEIGHTS = GGML_NUMBERS["q4_K"]
# What every backend multiplies: a server dies of what its own does not.
TRIED_WEIGHTS = frozenset(
    number
    for name, number in GGML_NUMBERS.items()
    if name in {"f16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"}
    or name in {"q2_K", "q3_K", "q4_K", "q5_K", "q6_K"}
)
# The child's last words before it may die of an RPC server, and of any of them.
ASKING, TRYING = "asking the RPC server ", "trying the devices of RPC servers"


def library_folder(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Where the engine's libraries lie, found as llama_cpp itself does it (llama_cpp/llama_cpp.py),
    but without importing it; None: not installed."""
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
    stems = _libraries(folder)
    if not any(stem.startswith("ggml-") for stem in stems):
        return None
    rows = [row for row in BACKENDS.values() if row.library]
    return frozenset(row.name for row in rows if f"ggml-{row.library}" in stems)


def has_accelerator(folder: Path | None) -> bool:
    """Whether the engine in this folder computes some products of the CPU by another library: a
    device of its own, of type ACCEL, and without events."""
    return bool(_libraries(folder) & _ACCELERATORS)


def _libraries(folder: Path | None) -> frozenset[str]:
    """The names of the libraries in a folder, without what the system puts around them."""
    try:
        names = [path.name for path in folder.iterdir()] if folder else []
    except OSError:
        return frozenset()
    return frozenset(name.removeprefix("lib").split(".", 1)[0] for name in names)


def rebuild_command(name: str, platform: str = sys.platform) -> str:
    """The command that gives the installed engine this GPU backend."""
    install = f'pip install --force-reinstall --no-cache-dir "{REQUIREMENT}"'
    flag = BACKENDS[name].cmake
    if platform == "win32":  # PowerShell
        return f'$env:CMAKE_ARGS="{flag}"; {install}'
    return f'CMAKE_ARGS="{flag}" {install}'


# ---------------------------------------------------------------- the engine's own list


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    """What the engine said: its GPU and RPC devices, in its order, or why it said nothing."""

    devices: tuple[Device, ...] = ()
    problem: str = ""


def ask_engine(
    rpc_servers: Sequence[str] = (), timeout: float = 30.0, weights: int = USUAL_WEIGHTS
) -> EngineAnswer:
    """The engine's device list, from a child process. A crash or a hang is an empty list. Each
    server takes what time it takes, up to `SILENCE`, beside the seconds of `timeout`. `weights`:
    the `ggml_type` that servers are tried out with; the usual one where it is no `TRIED_WEIGHTS`.
    """
    timeout += SILENCE * len(rpc_servers)
    tried = weights if weights in TRIED_WEIGHTS else USUAL_WEIGHTS
    command = [sys.executable, "-m", "tuner.engine.probe", str(tried), *rpc_servers]
    home = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**child_environment(), "PYTHONPATH": path, "GGML_NO_BACKTRACE": "1"},
        )
    except subprocess.TimeoutExpired:
        return EngineAnswer(problem=f"the engine did not list its devices in {timeout:.0f} s")
    except OSError as error:
        return EngineAnswer(problem=f"the engine could not be asked for its devices ({error})")
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace")
        return EngineAnswer(problem=_why(done.returncode, said, rpc_servers))
    try:
        return EngineAnswer(devices_of(json.loads(done.stdout)))
    except (ValueError, KeyError, TypeError):
        return EngineAnswer(problem="the engine's device list could not be understood")


def _why(status: int, said: str, rpc_servers: Sequence[str]) -> str:
    """Why the child has no answer."""
    lines = said.strip().splitlines()
    if TRYING in said:
        return lost_text(rpc_servers, gone(rpc_servers))
    if ASKING in said:
        server, _, rest = said.rpartition(ASKING)[2].partition("\n")
        return lines[-1] if status == 1 else rejected(server, rest)
    reason = lines[-1] if lines and status == 1 else f"status {status}"
    return f"the engine could not list its devices ({reason})"


def devices_of(listed: list[dict[str, Any]]) -> tuple[Device, ...]:
    """The devices of a probe's answer, in its order. Reserve, overhead and bandwidth are left for
    the caller."""
    found: list[Device] = []
    for index, one in enumerate(listed):
        device = _device(index, one)
        if device.kind == "rpc":
            of_server = sum(d.kind == "rpc" and d.name == device.name for d in found)
            device = replace(device, buffer_name=f"RPC{of_server}[{device.name}]")
        found.append(device)
    return tuple(found)


def _device(index: int, one: dict[str, Any]) -> Device:
    row = of_engine(str(one["backend"]))
    speed = one["speed"]
    return Device(
        id=f"GPU{index}",
        kind="rpc" if row.name == "RPC" else "gpu",
        backend=row.name,
        name=one["description"] or one["name"],
        total=int(one["total"]),
        free=int(one["free"]),
        reserve=0,
        engine_name=one["name"],
        device_id=one["device_id"],
        unified=row.unified or one["type"] == INTEGRATED_GPU,
        bandwidth=float(speed["bandwidth"]),
        bandwidth_source="measured" if speed["bandwidth"] else "assumed",
        flops=float(speed["flops"]),
        pcie_bandwidth=float(speed["link"]),
        round_trip=float(speed["round_trip"]),
    )
