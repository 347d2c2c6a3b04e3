"""Lends this machine's GPUs, or without one its CPU and RAM, to a kvchat elsewhere (docs/rpc.md).

    python rpc_server.py 192.168.1.20:50052 --cache ~/rpc-cache

An RPC server of llama.cpp's as llama-cpp-python brings it along, where that was built with
-DGGML_RPC=on: the same version as kvchat's by the same pip install. Nothing is encrypted and anyone
who reaches the port may use it, so it belongs on a network that you trust, and on no other.
"""

from __future__ import annotations

import argparse
import ctypes
import os
from pathlib import Path

import llama_cpp

CPU, ACCELERATOR = 0, 3  # enum ggml_backend_dev_type (ggml-backend.h): no memory of their own
FOLDER = Path(llama_cpp.__file__).parent / "lib"


def library(name: str) -> ctypes.CDLL:
    """One of ggml's, the copy that llama_cpp has loaded."""
    for file in (f"lib{name}.so.0", f"@rpath/lib{name}.0.dylib", FOLDER / f"{name}.dll"):
        try:
            return ctypes.CDLL(str(file))
        except OSError:
            continue
    raise SystemExit(f"llama-cpp-python has no {name}; install it with CMAKE_ARGS=-DGGML_RPC=on")


def devices() -> list[int]:
    """All GPUs, or the CPU: their `ggml_backend_dev_t`."""
    ggml, base = library("ggml"), library("ggml-base")
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    base.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    found = [ggml.ggml_backend_dev_get(i) for i in range(ggml.ggml_backend_dev_count())]
    types = [base.ggml_backend_dev_type(one) for one in found]
    gpus = [one for one, type_ in zip(found, types, strict=True) if type_ not in (CPU, ACCELERATOR)]
    return gpus or [one for one, type_ in zip(found, types, strict=True) if type_ == CPU]


def main() -> None:
    """Serves until it is ended, one client at a time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", metavar="HOST:PORT", help="where to listen: an IPv4 address")
    parser.add_argument("--cache", metavar="FOLDER", help="keep large tensors for the next load")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    args = parser.parse_args()
    cache = None
    if args.cache:
        folder = Path(args.cache).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        cache = os.fsencode(folder)
    llama_cpp.llama_backend_init()
    served = devices()
    start = library("ggml-rpc").ggml_backend_rpc_start_server
    start.restype = None
    start.argtypes = [
        ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t,
        ctypes.POINTER(ctypes.c_void_p),
    ]  # fmt: skip
    array = (ctypes.c_void_p * len(served))(*served)
    start(args.address.encode(), cache, args.threads, len(served), array)
    raise SystemExit(f"the server at {args.address} could not be started, or its port was lost")


if __name__ == "__main__":
    main()
