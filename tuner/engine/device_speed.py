"""How fast a device of the engine's is, and the way to it, tried out: for RPC servers, of which
nothing else is known. A short one-off in the process that lists the devices (`probe.py`).

What is timed is what a chat will do there: matrices in the model's own quantization times one
column (decoding: bytes/s of weights read) and times many (prompts: FLOP/s), by graphs of the
engine's own, and a tensor sent and read back. What is too quick to be told from the round trip is
done more often.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median

from tuner.gguf.types import GGML_TYPES
from tuner.machine.engine_build import USUAL_WEIGHTS

_F32 = 0  # enum ggml_type
_ROW = 4096  # elements; a multiple of 512, to which CUDA pads quantized rows
_PATTERN = 0x3C  # of every byte: 1.06 as f16, 0.011 as f32, no number that is slow to handle

# Bytes of weights that are read: more than caches hold, or less where that cannot be had.
_READ_BYTES = (256 << 20, 64 << 20, 16 << 20)
_SHARE = 4  # of what is free, that they may take for a moment
_ROWS = 4096  # of the matrix for prompts
_STEPS = ((64, 1), (512, 1), (512, 8))  # columns, products in one graph
_REPEATS = (1, 4, 16)  # readings in one graph
_CLEAR_SECONDS = 0.005  # beyond the round trip, from which on a time says enough
_LINK_BYTES = tuple(1 << n for n in range(16, 24, 2))  # 64 KiB to 4 MiB; from 10 MiB on llama.cpp
#                                                        asks for a hash first
_TRIPS = 9
_BEST_OF = 3


@dataclass(frozen=True, slots=True)
class DeviceSpeed:
    """What was found; 0: there was no room to try."""

    bandwidth: float = 0.0  # bytes/s of quantized weights read
    flops: float = 0.0  # FLOP/s of products with quantized weights
    round_trip: float = 0.0  # seconds until an answer is there
    link: float = 0.0  # bytes/s on the way


NOT_TRIED = DeviceSpeed()


class _Parameters(ctypes.Structure):
    """struct ggml_init_params (ggml.h)."""

    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


class SpeedTrial:
    """Tries devices by the functions of the loaded ggml-base."""

    def __init__(self, base: ctypes.CDLL, weights: int = USUAL_WEIGHTS):
        """`weights`: their `ggml_type`, one of `TRIED_WEIGHTS`."""
        self._weights = weights
        kind = GGML_TYPES[weights]
        self._row_bytes = _ROW // kind.block * kind.block_bytes
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        signatures: dict[str, tuple[type | None, tuple[type, ...]]] = {
            "ggml_init": (pointer, (_Parameters,)),
            "ggml_free": (None, (pointer,)),
            "ggml_new_tensor_2d": (
                pointer, (pointer, ctypes.c_int, ctypes.c_int64, ctypes.c_int64),
            ),
            "ggml_mul_mat": (pointer, (pointer, pointer, pointer)),
            "ggml_new_graph": (pointer, (pointer,)),
            "ggml_build_forward_expand": (None, (pointer, pointer)),
            "ggml_backend_dev_init": (pointer, (pointer, ctypes.c_char_p)),
            "ggml_backend_dev_buffer_type": (pointer, (pointer,)),
            "ggml_backend_free": (None, (pointer,)),
            "ggml_backend_alloc_ctx_tensors_from_buft": (pointer, (pointer, pointer)),
            "ggml_backend_buffer_clear": (None, (pointer, ctypes.c_uint8)),
            "ggml_backend_buffer_free": (None, (pointer,)),
            "ggml_backend_tensor_set": (None, (pointer, ctypes.c_char_p, size, size)),
            "ggml_backend_tensor_get": (None, (pointer, pointer, size, size)),
            "ggml_backend_graph_compute": (ctypes.c_int, (pointer, pointer)),
        }  # fmt: skip
        for name, (result, arguments) in signatures.items():
            function = getattr(base, name)
            function.restype, function.argtypes = result, arguments
        self._ggml = base

    def of(self, device: int, free: int) -> DeviceSpeed:
        """What the device (`ggml_backend_dev_t`) with so many free bytes reaches. Some tenths of a
        second."""
        backend = self._ggml.ggml_backend_dev_init(device, None)
        try:
            for n_bytes in (size for size in _READ_BYTES if size <= free // _SHARE):
                with self._context() as context:
                    found = self._tried(context, backend, device, n_bytes // self._row_bytes)
                if found is not None:
                    return found
            return NOT_TRIED
        finally:
            self._ggml.ggml_backend_free(backend)

    def _tried(self, context: int, backend: int, device: int, rows: int) -> DeviceSpeed | None:
        ggml = self._ggml

        def products(weights: int, columns: int, times: int) -> int:
            """A graph that multiplies so often."""
            graph = ggml.ggml_new_graph(context)
            activations = ggml.ggml_new_tensor_2d(context, _F32, _ROW, columns)
            for _ in range(times):
                made = ggml.ggml_mul_mat(context, weights, activations)
                ggml.ggml_build_forward_expand(graph, made)
            return int(graph)

        large = ggml.ggml_new_tensor_2d(context, self._weights, _ROW, rows)
        square = ggml.ggml_new_tensor_2d(context, self._weights, _ROW, _ROWS)
        way = ggml.ggml_new_tensor_2d(context, _F32, _ROW, max(_LINK_BYTES) // 4 // _ROW)
        readings = [(times, products(large, 1, times)) for times in _REPEATS]
        prompts = [(n * times, products(square, n, times)) for n, times in _STEPS]
        kind = ggml.ggml_backend_dev_buffer_type(device)
        buffer = ggml.ggml_backend_alloc_ctx_tensors_from_buft(context, kind)
        if not buffer:
            return None
        word = ctypes.create_string_buffer(4)

        def answered(act: Callable[[], object] | None = None) -> float:
            """Seconds until something is done there: only what is read back waits for it."""
            began = time.perf_counter()
            if act is not None:
                act()
            ggml.ggml_backend_tensor_get(way, word, 0, 4)
            return time.perf_counter() - began

        def taken(act: Callable[[], object]) -> float:
            """Seconds beyond the round trip, at best."""
            return max(1e-9, min(answered(act) for _ in range(_BEST_OF)) - min(trips))

        def clearly(graphs: list[tuple[int, int]]) -> float:
            """How often per second what a graph of these does once or more is done."""
            rate = 0.0
            for times, graph in graphs:
                seconds = taken(partial(ggml.ggml_backend_graph_compute, backend, graph))
                rate = times / seconds
                if seconds > _CLEAR_SECONDS:
                    break
            return rate

        try:
            ggml.ggml_backend_buffer_clear(buffer, _PATTERN)
            answered()
            trips = [answered() for _ in range(_TRIPS)]
            link = 0.0
            for n_bytes in _LINK_BYTES:
                seconds = taken(
                    partial(ggml.ggml_backend_tensor_set, way, bytes(n_bytes), 0, n_bytes)
                )
                link = n_bytes / seconds
                if seconds > _CLEAR_SECONDS:
                    break
            return DeviceSpeed(
                bandwidth=rows * self._row_bytes * clearly(readings),
                flops=2.0 * _ROW * _ROWS * clearly(prompts),
                round_trip=median(trips),
                link=link,
            )
        finally:
            ggml.ggml_backend_buffer_free(buffer)

    @contextmanager
    def _context(self) -> Iterator[int]:
        made = self._ggml.ggml_init(_Parameters(4 << 20, None, True))
        try:
            yield made
        finally:
            self._ggml.ggml_free(made)
