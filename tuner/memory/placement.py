"""Which layers go to which device, and the bytes of weights that this puts there.

llama.cpp counts slots: one per layer (multi-token-prediction blocks included) and a last one
for the output. The last `n_gpu_layers` slots go to the GPUs, so 1 is the output alone
(`llama_model_base::load_tensors`, src/llama-model.cpp).

The figures are those of a load without mmap. With mmap, the engine's default, host weights are
pages of the file instead of a buffer: the same tensors, without alignment, but counted as the
range from the first to the last of them, and reclaimable by the operating system.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

from tuner.gguf.header import TensorInfo
from tuner.gguf.types import GGML_NUMBERS
from tuner.machine.backends import HOST_LAYOUT, BufferLayout, backend, row_padding
from tuner.machine.machine import Device
from tuner.model.model import Model
from tuner.settings import Settings
from tuner.units import padded


def _bytes(tensors: Iterable[TensorInfo], layout: BufferLayout) -> int:
    return sum(
        padded(t.n_bytes + row_padding(t.ggml_type, t.shape[0], layout), layout.alignment)
        for t in tensors
    )


def _f32(value: float) -> float:
    """Rounds to a C float: the engine splits layers in that precision."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where the slots live. Equal only to itself, so that looking something up for a placement
    costs nothing.

    A device's slots are always consecutive, the host's come first, then each GPU's: they end
    before `ends`. `spans` holds (first, end) of the layers per GPU, then the host's. `output` is
    an index into `Machine.gpus`, or -1 for the host.
    """

    ends: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    output: int
    n_cpu_moe: int

    @property
    def slots(self) -> tuple[int, ...]:
        """The device of each slot, as `output` has it."""
        counts = (end - first for first, end in pairwise((0, *self.ends)))
        return tuple(device for device, n in enumerate(counts, -1) for _ in range(n))

    @property
    def on_host(self) -> int:
        """How many slots the host has."""
        return self.ends[0]

    @property
    def all_on_gpus(self) -> bool:
        """Whether every layer and the output are on GPUs."""
        return not self.on_host

    @property
    def on_gpus(self) -> tuple[int, ...]:
        """How many slots each GPU has."""
        return tuple(end - first for first, end in pairwise(self.ends))


def place(n_layers: int, n_gpus: int, settings: Settings) -> Placement:
    """The placement of `n_layers` slots plus the output. Without a `tensor_split` all of it
    goes to the first GPU, which is what the engine is told then."""
    n_gpu_layers = min(settings.n_gpu_layers, n_layers + 1) if n_gpus else 0
    if n_gpu_layers < 0:
        n_gpu_layers = n_layers + 1
    ends = [n_layers + 1 - n_gpu_layers]  # of the host's slots, then of each GPU's
    shares = _shares(n_gpu_layers)
    for point in _split_points(settings.tensor_split or (1.0,), n_gpus)[:-1]:
        ends.append(ends[0] + bisect_left(shares, point))
    if n_gpus:
        ends.append(n_layers + 1)
    parts = list(pairwise((0, *ends)))
    spans = [(first, min(end, n_layers)) for first, end in parts]
    host, *gpus = [span if span[0] < span[1] else (0, 0) for span in spans]
    output = max(device for device, (first, end) in enumerate(parts, -1) if first < end)
    return Placement(tuple(ends), (*gpus, host), output, max(0, settings.n_cpu_moe))


@lru_cache(maxsize=1024)
def _shares(n: int) -> list[float]:
    """What part of n slots lies before each of them; a GPU's last slot is before its point."""
    return [_f32(i / n) for i in range(n)]


def _split_points(split: Sequence[float], n_gpus: int) -> list[float]:
    shares = [_f32(x) for x in list(split)[:n_gpus]]
    shares += [0.0] * (n_gpus - len(shares))
    if not any(shares):
        shares = [1.0, *[0.0] * (n_gpus - 1)]
    sums = list(accumulate(shares, lambda a, b: _f32(a + b)))
    return [_f32(s / sums[-1]) for s in sums]


class Weights:
    """Bytes, bytes read and FLOP of a model's weights under any placement, from prefix sums."""

    def __init__(self, model: Model, gpus: Sequence[Device], host: Device):
        self._model = model
        self._layouts = [backend(d.backend).layout for d in (*gpus, host)]
        self._repack = host.backend == "CPU" and not gpus
        self._sums = {layout: _Sums(model, layout) for layout in {*self._layouts, HOST_LAYOUT}}
        self._rope = set(model.tensors.rope_layers)

    def sizes(self, placement: Placement, extra_bufts: bool) -> tuple[int, ...]:
        """Bytes of weights per GPU, then on the host."""
        host = len(self._layouts) - 1
        used = [0] * (host + 1)
        moe = placement.n_cpu_moe
        host_sums = self._sums[HOST_LAYOUT]
        for device, (first, end) in enumerate(placement.spans):
            sums = self._sums[self._layouts[device]]
            used[device] += sums.others[end] - sums.others[first]
            kept = min(max(moe, first), end)  # experts of first..kept stay on the host
            used[device] += sums.experts[end] - sums.experts[kept]
            used[host] += host_sums.experts[kept] - host_sums.experts[first]
            if sums.rope and any(il in self._rope for il in range(first, end)):
                used[device] += sums.rope
        used[host] += host_sums.input
        output = placement.output if placement.output >= 0 else host
        sums = self._sums[self._layouts[output]]
        used[output] += sums.output
        if sums.tied and self._copied(output, host, extra_bufts):
            used[output] += sums.tied
        return tuple(used)

    def prefix(self, n_cpu_moe: int) -> list[int]:
        """Bytes that the first 0, 1, 2, ... slots take on any GPU, at least, experts of the first
        `n_cpu_moe` layers left out; the output behind them all."""
        sums = self._sums[HOST_LAYOUT]
        moe = min(n_cpu_moe, len(sums.experts) - 1)
        experts = [max(0, size - sums.experts[moe]) for size in sums.experts]
        layers = [a + b for a, b in zip(sums.others, experts, strict=True)]
        return [*layers, layers[-1] + sums.output + sums.tied]

    def _copied(self, output: int, host: int, extra_bufts: bool) -> bool:
        """Whether a tied output is a second copy of the embedding."""
        tensors = self._model.tensors
        if output != host or tensors.output_first:
            return True
        tied = tensors.tied
        # a repacked output cannot be the buffer that rows are read from (ggml-cpu/repack.cpp)
        return extra_bufts and self._repack and tied is not None and repacks(tied)


_REPACKED = frozenset(GGML_NUMBERS[name] for name in ("q4_0", "q4_K", "iq4_nl", "mxfp4"))


def repacks(tensor: TensorInfo) -> bool:
    """Whether an x86 CPU with AVX2 wants a matrix in an order of its own; others repack more
    types (`ggml_repack_get_optimal_repack_type`, ggml-cpu/repack.cpp)."""
    return (
        tensor.ggml_type in _REPACKED and len(tensor.shape) in (2, 3) and tensor.shape[1] % 8 == 0
    )


def repacks_any(model: Model) -> bool:
    """Whether an x86 CPU would keep some of the weights in an order of its own."""
    groups = model.tensors
    layers = (t for layer in groups.layers for t in (*layer.others, *layer.experts))
    return any(map(repacks, (*layers, *groups.output)))


class _Sums:
    """Prefix sums over a model's layers, for buffers of one layout."""

    def __init__(self, model: Model, layout: BufferLayout):
        groups = model.tensors
        self.others = _ints(_bytes(layer.others, layout) for layer in groups.layers)
        self.experts = _ints(_bytes(layer.experts, layout) for layer in groups.layers)
        self.input = _bytes(groups.input, layout)
        self.output = _bytes(groups.output, layout)
        self.rope = _bytes(groups.rope, layout)
        self.tied = _bytes((groups.tied,), layout) if groups.tied else 0


def _ints(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(accumulate(values, initial=0))
