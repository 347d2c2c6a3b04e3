"""Asks the engine which devices it has: `python -m tuner.engine.probe [RPC_SERVER ...]`.

Runs as a short child process, since loading the engine takes a while, may start a graphics
driver, and may die of it. Prints one JSON list, one object per device in the engine's order:
name, description, type (enum ggml_backend_dev_type), backend, device_id, free, total (bytes).
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any


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


def devices(rpc_servers: list[str]) -> list[dict[str, Any]]:
    """The engine's devices. Raises ImportError or OSError where there is no engine."""
    engine = importlib.import_module("llama_cpp")
    engine.llama_backend_init()
    folder = Path(os.environ.get("LLAMA_CPP_LIB_PATH") or Path(str(engine.__file__)).parent / "lib")
    ggml, base = open_library("ggml", folder), open_library("ggml-base", folder)
    for server in rpc_servers:
        add_rpc_server(ggml, open_library("ggml-rpc", folder), server)

    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    base.ggml_backend_dev_get_props.restype = None
    base.ggml_backend_dev_get_props.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Properties)]
    base.ggml_backend_dev_backend_reg.restype = ctypes.c_void_p
    base.ggml_backend_dev_backend_reg.argtypes = [ctypes.c_void_p]
    base.ggml_backend_reg_name.restype = ctypes.c_char_p
    base.ggml_backend_reg_name.argtypes = [ctypes.c_void_p]

    found = []
    for index in range(ggml.ggml_backend_dev_count()):
        device = ggml.ggml_backend_dev_get(index)
        properties = _Properties()
        base.ggml_backend_dev_get_props(device, ctypes.byref(properties))
        registry = base.ggml_backend_dev_backend_reg(device)
        found.append(
            {
                "name": _text(properties.name),
                "description": _text(properties.description),
                "type": properties.type,
                "backend": _text(base.ggml_backend_reg_name(registry)),
                "device_id": _text(properties.device_id),
                "free": properties.memory_free,
                "total": properties.memory_total,
            }
        )
    return found


def add_rpc_server(ggml: ctypes.CDLL, rpc: ctypes.CDLL, server: str) -> None:
    """Registers the devices of "host:port" with the engine. Raises OSError."""
    # ggml-rpc.cpp aborts the process where it cannot connect, so that is tried first.
    host, _, port = server.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError):
        raise OSError(f"the RPC server {server} does not answer") from None
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


def main() -> int:
    # What the engine prints while it starts must not mix with the answer.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        found = devices(sys.argv[1:])
    except (ImportError, OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    with answer:
        json.dump(found, answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
