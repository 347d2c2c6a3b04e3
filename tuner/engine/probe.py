"""Asks the engine which devices it has: `python -m tuner.engine.probe WEIGHTS [RPC_SERVER ...]`.

Runs as a short child process, since loading the engine takes a while, may start a graphics
driver, and may die of it. Prints one JSON list, one object per device that layers are offloaded to,
in the engine's order, with the fields of `EngineDevice`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tuner.engine.device_speed import NOT_TRIED, DeviceSpeed, SpeedTrial
from tuner.engine.lifeline import end_with_parent
from tuner.machine.engine_build import ASKING, GPU, INTEGRATED_GPU, TRYING, library_folder
from tuner.machine.rpc import SILENCE, reach, silent


class _Properties(ctypes.Structure):
    """struct ggml_backend_dev_props (ggml-backend.h), with room to spare for new fields."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("device_id", ctypes.c_char_p),
        ("rest", ctypes.c_uint8 * 256),
    )


def engine_folder() -> Path:
    """Where the libraries of the installed engine lie. Raises OSError where there are none."""
    folder = library_folder()
    if folder is None:
        raise OSError("the engine's libraries were not found")
    return folder


def open_library(name: str, folder: Path) -> ctypes.CDLL:
    """A ggml library that the engine has loaded already. On Linux only its soname finds the copy
    in use (a wheel holds three, and each opened by path has its own, empty device registry);
    elsewhere the engine's folder holds the one that was loaded."""
    if sys.platform == "win32":
        candidates = [f"{name}.dll", str(folder / f"{name}.dll"), str(folder / f"lib{name}.dll")]
    elif sys.platform == "darwin":
        candidates = [f"@rpath/lib{name}.0.dylib", str(folder / f"lib{name}.0.dylib"),
                      str(folder / f"lib{name}.dylib")]  # fmt: skip
    else:
        candidates = [f"lib{name}.so.0", str(folder / f"lib{name}.so")]
    for candidate in candidates:
        try:
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    raise OSError(f"the engine has no library {name}")


@dataclass(frozen=True, slots=True)
class EngineDevice:
    """One device of the engine's registry. Sizes in bytes."""

    name: str
    description: str
    type: int  # enum ggml_backend_dev_type
    backend: str  # as its registry is called; "RPC" for those of every server
    device_id: str  # its PCI address, where the backend tells
    free: int
    total: int
    handle: int = field(default=0, compare=False)  # ggml_backend_dev_t, of this process alone
    speed: DeviceSpeed = NOT_TRIED  # of an RPC server's


def handles(ggml: ctypes.CDLL) -> list[int]:
    """The `ggml_backend_dev_t` of all devices, in the order of the engine's registry."""
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    return [ggml.ggml_backend_dev_get(index) for index in range(ggml.ggml_backend_dev_count())]


def devices(folder: Path) -> list[EngineDevice]:
    """All devices of the engine that this process has loaded, in the order of its registry."""
    ggml, base = open_library("ggml", folder), open_library("ggml-base", folder)
    base.ggml_backend_dev_get_props.restype = None
    base.ggml_backend_dev_get_props.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Properties)]
    base.ggml_backend_dev_backend_reg.restype = ctypes.c_void_p
    base.ggml_backend_dev_backend_reg.argtypes = [ctypes.c_void_p]
    base.ggml_backend_reg_name.restype = ctypes.c_char_p
    base.ggml_backend_reg_name.argtypes = [ctypes.c_void_p]

    found = []
    for device in handles(ggml):
        properties = _Properties()
        base.ggml_backend_dev_get_props(device, ctypes.byref(properties))
        registry = base.ggml_backend_dev_backend_reg(device)
        found.append(
            EngineDevice(
                name=_text(properties.name),
                description=_text(properties.description),
                type=properties.type,
                backend=_text(base.ggml_backend_reg_name(registry)),
                device_id=_text(properties.device_id),
                free=properties.memory_free,
                total=properties.memory_total,
                handle=device,
            )
        )
    return found


def offloaded_to(registry: Sequence[EngineDevice]) -> list[EngineDevice]:
    """Those of all devices that llama.cpp gives layers to, in its order
    (`llama_prepare_model_devices`, src/llama.cpp): RPC first, then GPUs, each card once, and
    integrated GPUs, of one backend, where there is no other."""
    rpc = [one for one in registry if one.type == GPU and one.backend.startswith("RPC")]
    own: list[EngineDevice] = []
    for one in registry:
        shown = {other.device_id for other in own if other.device_id}
        if one.type == GPU and one not in rpc and one.device_id not in shown:
            own.append(one)
    if not own:
        integrated = [one for one in registry if one.type == INTEGRATED_GPU]
        own = [one for one in integrated if one.backend == integrated[0].backend]
    return [*rpc, *own]


def add_rpc_server(ggml: ctypes.CDLL, rpc: ctypes.CDLL, server: str) -> None:
    """Registers the devices of "host:port" with the engine. Raises OSError."""
    reach(server)  # where it cannot connect, ggml-rpc.cpp aborts the process
    rpc.ggml_backend_rpc_add_server.restype = ctypes.c_void_p
    rpc.ggml_backend_rpc_add_server.argtypes = [ctypes.c_char_p]
    registry = rpc.ggml_backend_rpc_add_server(server.encode())
    if not registry:
        raise OSError(f"the RPC server {server} has no devices")
    ggml.ggml_backend_register.restype = None
    ggml.ggml_backend_register.argtypes = [ctypes.c_void_p]
    ggml.ggml_backend_register(registry)


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def _ask(weights: int, rpc_servers: Sequence[str]) -> list[EngineDevice]:
    """Loads the engine. Raises ImportError or OSError where there is none, or a server is of no
    use; over one that is worse the process ends, having said which."""
    importlib.import_module("llama_cpp").llama_backend_init()
    folder = engine_folder()
    for server in rpc_servers:
        print(ASKING, server, sep="", file=sys.stderr, flush=True)
        with _no_longer_than(SILENCE, silent(server)):
            add_rpc_server(open_library("ggml", folder), open_library("ggml-rpc", folder), server)
    found = offloaded_to(devices(folder))
    if rpc_servers:
        print(TRYING, file=sys.stderr, flush=True)
        trial = SpeedTrial(open_library("ggml-base", folder), weights)
        found = [
            replace(one, speed=trial.of(one.handle, one.free))
            if one.backend.startswith("RPC")
            else one
            for one in found
        ]
    return found


@contextlib.contextmanager
def _no_longer_than(seconds: float, why: str) -> Iterator[None]:
    """Ends the process with a word about it where what is inside does not come to an end."""

    def end() -> None:
        print(why, file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def main() -> int:
    end_with_parent()
    # What the engine prints while it starts must not mix with the answer.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        found = _ask(int(sys.argv[1]), sys.argv[2:])
    except (ImportError, OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    with answer:
        json.dump([asdict(one) for one in found], answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
