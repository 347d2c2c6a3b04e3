"""The parts of ggml that llama_cpp does not bind: RPC devices, buffer types, the breakdown, what
packs and unpacks rows."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tuner.engine.probe import add_rpc_server, devices, handles, offloaded_to, open_library
from tuner.engine.protocol import DeviceMemory
from tuner.memory.cache_types import CacheType
from tuner.memory.footprint import Buffer

_TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _TypeTraits(ctypes.Structure):
    """struct ggml_type_traits (ggml.h), but for its end."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", _TO_FLOAT),
    )


_BREAKDOWN = "_Z26llama_get_memory_breakdownPK13llama_context"


class GgmlLibraries:
    """Handles of the ggml libraries that the loaded libllama uses. `folder` holds them."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._base = open_library("ggml-base", folder)
        self._base.ggml_backend_cpu_buffer_type.restype = ctypes.c_void_p
        self._base.ggml_backend_buft_name.restype = ctypes.c_char_p
        self._base.ggml_backend_buft_name.argtypes = [ctypes.c_void_p]
        self._base.ggml_backend_dev_name.restype = ctypes.c_char_p
        self._base.ggml_backend_dev_name.argtypes = [ctypes.c_void_p]
        self._base.ggml_backend_dev_memory.restype = None
        self._base.ggml_backend_dev_memory.argtypes = [
            ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t),
        ]  # fmt: skip
        self._base.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
        self._base.ggml_get_type_traits.argtypes = [ctypes.c_int]
        self._base.ggml_quantize_chunk.restype = ctypes.c_size_t
        self._base.ggml_quantize_chunk.argtypes = [
            ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
            ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
        ]  # fmt: skip

    def cpu_buffer_type(self) -> int:
        """The plain CPU buffer type, for tensors that shall stay in RAM."""
        pointer: int = self._base.ggml_backend_cpu_buffer_type()
        return pointer

    def offload_devices(self, left_out: Collection[str]) -> list[int]:
        """The devices that the engine would offload to, in its order, without those named in
        `left_out`: their `ggml_backend_dev_t`."""
        chosen = offloaded_to(devices(self._folder))
        return [device.handle for device in chosen if device.name not in left_out]

    def device_memory(self, names: Collection[str]) -> tuple[DeviceMemory, ...]:
        """What is free of each of these devices. No other is asked: a remote one would take its
        time. A driver that fails says that there is nothing at all, and is left out."""
        found = []
        for handle in handles(open_library("ggml", self._folder)):
            name = self._base.ggml_backend_dev_name(handle).decode("utf-8", "replace")
            if name in names:
                free, total = ctypes.c_size_t(), ctypes.c_size_t()
                self._base.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
                if total.value:
                    found.append(DeviceMemory(name, free.value, total.value))
        return tuple(found)

    def register_rpc(self, server: str) -> None:
        """Makes the devices of an RPC server ("host:port") usable. Raises OSError where the
        engine was built without RPC or the server does not answer."""
        add_rpc_server(
            open_library("ggml", self._folder), open_library("ggml-rpc", self._folder), server
        )

    def breakdown(self, libllama: ctypes.CDLL, context: int) -> tuple[Buffer, ...] | None:
        """Exact bytes per buffer type, as llama.cpp itself would print them at exit; under
        `no_alloc` what would be allocated. Weights, cache (recurrent state included) and
        compute. None where the C++ function cannot be called from here.

        It returns a std::map by value, so this walks libstdc++'s red-black tree: x86-64 Linux
        only (elsewhere the hidden result pointer or the tree differ)."""
        if sys.platform != "linux" or platform.machine() != "x86_64":
            return None
        try:
            function = libllama[_BREAKDOWN]
        except AttributeError:
            return None
        function.restype = None
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        tree = (ctypes.c_uint64 * 6)()
        function(ctypes.addressof(tree), context)
        buffers: list[Buffer] = []
        self._walk(tree[2], buffers)
        return tuple(buffers)

    def floats(self, kind: CacheType, rows: memoryview, out: NDArray[np.float32]) -> None:
        """Unpacks rows of a type, one after the other."""
        if kind.name == "f32":
            out.reshape(-1)[:] = np.frombuffer(rows, np.float32)
            return
        unpack = self._base.ggml_get_type_traits(kind.ggml).contents.to_float
        unpack(np.frombuffer(rows, np.uint8).ctypes.data, out.ctypes.data, out.size)

    def pack(self, kind: CacheType, rows: NDArray[np.float32], out: memoryview) -> None:
        """Packs rows of a type, one after the other. [rows, elements of one]"""
        rows = np.ascontiguousarray(rows)
        target = np.frombuffer(out, np.uint8).ctypes.data
        self._base.ggml_quantize_chunk(
            kind.ggml, rows.ctypes.data, target, 0, rows.shape[0], rows.shape[1], None
        )

    def _walk(self, node: int, buffers: list[Buffer]) -> None:
        """In order: left at +16, right at +24, key at +32, the three sizes from +40."""
        if not node:
            return
        words = (ctypes.c_uint64 * 8).from_address(node)
        self._walk(words[2], buffers)
        name = self._base.ggml_backend_buft_name(words[4]).decode()
        for kind, size in zip(("weights", "kv_cache", "compute"), words[5:8], strict=True):
            if size:
                buffers.append(Buffer(name, kind, size))
        self._walk(words[3], buffers)
