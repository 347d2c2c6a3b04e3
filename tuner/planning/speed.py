"""Predicts tokens/s from what must be read and multiplied per token.

Decoding one token reads every active weight and the filled part of the cache once, so its time is
bytes over bandwidth, summed over the devices, which work one after the other. Prompt processing
multiplies many tokens with each weight it reads, so its time is arithmetic over FLOP/s, and, for
weights that stay in RAM while a GPU does the work, a copy of them over PCIe for every batch.

The prediction ranks plans; `Calibration` scales it to what was measured on this machine.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod

from tuner.gguf.header import TensorInfo
from tuner.machine.host import ASSUMED_FLOPS_PER_CORE
from tuner.machine.machine import ASSUMED_PCIE, Device, Machine
from tuner.memory.kv_cache import CacheSizes
from tuner.model.model import Model
from tuner.planning.plan import Speed
from tuner.settings import Settings

CONTEXT_FILLED = 2_048  # tokens in the cache for which speed is quoted

# Shares of the peak that llama.cpp's kernels reach, and what is assumed where a device does not
# say. Rough on purpose: only their order matters for a choice, and a measured load replaces them.
GPU_BANDWIDTH_SHARE = 0.72
HOST_BANDWIDTH_SHARE = 0.80
HOST_BYTES_PER_CORE = 6e9  # bytes/s of quantized weights that one core can unpack and multiply
GPU_FLOPS_PER_BANDWIDTH = 50.0  # FLOP/s per byte/s of memory bandwidth, prompt processing
SECONDS_PER_TOKEN_GPU = 2e-4  # launching one graph
SECONDS_PER_HOP = 3e-5  # handing the hidden state from one device to another
SLOW_PAIR_SHARE = 0.25  # of prompt speed, where every step converts the cache to f16 first
SECONDS_PER_HOST_LAYER = 1.5e-5  # threads meeting at barriers


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured over predicted tokens/s on this machine, from earlier loads (None: not yet)."""

    decode: float | None = None
    prompt: float | None = None


@dataclass(frozen=True, slots=True)
class Offload:
    """Which device computes what: `counts[g]` items (layers, the output last) on GPU g, in the
    engine's order, after those of the host."""

    n_gpu_layers: int
    n_cpu_moe: int
    counts: tuple[int, ...]


class SpeedModel:
    """Decode and prompt speed of one model on one machine, for any offload, in microseconds.

    Items are the model's layers in order and, last, the output. Prefix sums over them hold the
    bytes read and the FLOP per token, and the bytes stored, experts apart.
    """

    def __init__(
        self,
        model: Model,
        machine: Machine,
        calibration: Calibration | None = None,
        cache: CacheSizes | None = None,
    ) -> None:
        """`cache`: that of the model, where it is at hand."""
        self.calibration = calibration or Calibration()
        self.n_items = model.n_items
        self._gpus = [_rate(gpu) for gpu in machine.gpus]
        self._host = _host_rate(machine)
        self._pcie = min((g.pcie_bandwidth or ASSUMED_PCIE for g in machine.gpus), default=0.0)
        groups = model.tensors
        tied = (groups.tied,) if groups.tied else ()
        others = [*(layer.others for layer in groups.layers), (*groups.output, *tied)]
        experts = [*(layer.experts for layer in groups.layers), ()]
        used = model.n_expert_used / model.n_expert if model.n_expert else 1.0
        cache = cache or CacheSizes(model.hparams)
        # A quantized cache is read faster but must be unpacked: in time it counts as f16.
        f16 = Settings(n_ctx=CONTEXT_FILLED)
        cache_read = [
            cache.read(f16, il, il + 1, CONTEXT_FILLED) for il in range(model.n_layer_all)
        ]
        self._stored = _prefix(_bytes(ts) for ts in others)
        self._expert_stored = _prefix(_bytes(ts) for ts in experts)
        self._read = _prefix(
            _bytes(ts) + kv for ts, kv in zip(others, (*cache_read, 0), strict=True)
        )
        self._experts = [used * x for x in self._expert_stored]
        # the most that is read per byte stored of any layer, without its experts and with them
        self._dense_share = _steepest(self._read, self._stored)
        self._full_share = _steepest(
            [a + b for a, b in zip(self._read, self._experts, strict=True)][:-1],
            [a + b for a, b in zip(self._stored, self._expert_stored, strict=True)][:-1],
        )
        self._flops = _prefix(_flops(ts) for ts in others)
        self._expert_flops = [used * x for x in _prefix(_flops(ts) for ts in experts)]

    def calibrated(self, calibration: Calibration) -> SpeedModel:
        """The same model with predictions scaled to what was measured."""
        other = copy.copy(self)
        other.calibration = calibration
        return other

    def decode_seconds(self, offload: Offload) -> float:
        """Seconds per token, uncalibrated."""
        on_gpu = min(offload.n_gpu_layers, self.n_items) if self._gpus else 0
        start = first = self.n_items - on_gpu
        host_bytes = self._read[first] + self._experts[first]
        seconds = first * SECONDS_PER_HOST_LAYER
        moe = max(first, min(offload.n_cpu_moe, self.n_items))
        hops = (1 if first and on_gpu else 0) + 2 * (moe - first)
        for (bandwidth, _), count in zip(self._gpus, offload.counts, strict=False):
            end = min(start + count, self.n_items)
            if end <= start:
                continue
            hops += 1
            experts_from = min(max(start, moe), end)
            read = self._read[end] - self._read[start]
            read += self._experts[end] - self._experts[experts_from]
            host_bytes += self._experts[experts_from] - self._experts[start]
            seconds += read / bandwidth
            start = end
        if on_gpu:
            seconds += SECONDS_PER_TOKEN_GPU
        return seconds + host_bytes / self._host[0] + hops * SECONDS_PER_HOP

    def least_seconds(self, n_gpu_layers: int, n_cpu_moe: int, room: Sequence[float]) -> float:
        """No split of these layers decodes a token faster, where GPU g has `room[g]` bytes.

        The fastest GPU is given what is read most per byte stored, as much as it has room for,
        then the next. Layers with and without their experts are told apart, not single ones.
        """
        on_gpu = min(n_gpu_layers, self.n_items)
        order = sorted(range(len(self._gpus)), key=lambda g: -self._gpus[g][0])
        counts = [0] * len(order)
        if order:
            counts[order[0]] = on_gpu
        seconds = self.decode_seconds(Offload(n_gpu_layers, n_cpu_moe, tuple(counts)))
        if len(order) <= 1 or not on_gpu:
            return seconds
        first, output = self.n_items - on_gpu, self.n_items - 1
        moe = max(first, min(n_cpu_moe, output))
        bare = self._read[moe] - self._read[first] + self._read[-1] - self._read[output]
        full = self._read[output] - self._read[moe] + self._experts[output] - self._experts[moe]
        whole = left = bare + full
        seconds -= whole / self._gpus[order[0]][0]
        held = 0.0
        for g in order:
            held += max(0.0, room[g])
            bytes_bare = min(bare, held * self._dense_share)
            rest = held - bytes_bare / self._dense_share
            most = bytes_bare + min(full, rest * self._full_share)
            taken = left if g == order[-1] else most - (whole - left)
            seconds += taken / self._gpus[g][0]
            left -= taken
        return seconds

    def prompt_tps(self, offload: Offload, n_ubatch: int, *, slow_pair: bool = False) -> float:
        """Tokens/s of prompt processing, uncalibrated."""
        on_gpu = min(offload.n_gpu_layers, self.n_items) if self._gpus else 0
        first = self.n_items - on_gpu
        moe = max(first, min(offload.n_cpu_moe, self.n_items))
        total = self._flops[-1] + self._expert_flops[-1]
        host_flops = self._flops[first] + self._expert_flops[moe]
        if not self._gpus:
            return self._host[1] / max(total, 1.0)
        seconds = 0.0
        start = first
        for (_, flops), count in zip(self._gpus, offload.counts, strict=False):
            end = min(start + count, self.n_items)
            if end > start:
                experts_from = min(max(start, moe), end)
                work = self._flops[end] - self._flops[start]
                work += self._expert_flops[end] - self._expert_flops[experts_from]
                seconds += work / flops
                start = end
        # llama.cpp's op_offload: a large batch brings the weights to the GPU if that is quicker.
        stored = self._stored[first] + self._expert_stored[moe]
        copied = stored / (self._pcie * n_ubatch) + host_flops / self._gpus[0][1]
        seconds += min(host_flops / self._host[1], copied)
        return 1.0 / max(seconds, 1e-9) * (SLOW_PAIR_SHARE if slow_pair else 1.0)

    def weights_offloaded(self, n_gpu_layers: int, n_cpu_moe: int) -> float:
        """Bytes of weights on all GPUs together, without any padding."""
        if not self._gpus:
            return 0.0
        first = self.n_items - min(n_gpu_layers, self.n_items)
        moe = max(first, min(n_cpu_moe, self.n_items))
        experts = self._expert_stored[-1] - self._expert_stored[moe]
        return self._stored[-1] - self._stored[first] + experts

    def predict(self, settings: Settings, offload: Offload, *, slow_pair: bool = False) -> Speed:
        """Calibrated speed of a whole decision."""
        known = self.calibration
        decode = (known.decode or 1.0) / self.decode_seconds(offload)
        prompt = self.prompt_tps(offload, settings.n_ubatch, slow_pair=slow_pair)
        return Speed(
            decode,
            (known.prompt or 1.0) * prompt,
            "measured" if known.decode else "computed",
            "measured" if known.prompt else "computed",
        )


def _prefix(values: Iterable[float]) -> list[float]:
    return list(accumulate(values, initial=0.0))


def _steepest(read: Sequence[float], stored: Sequence[float]) -> float:
    """The largest growth of one prefix sum against another, item by item."""
    steps = zip(pairwise(read), pairwise(stored), strict=True)
    return max(((b - a) / (d - c) for (a, b), (c, d) in steps if d > c), default=1.0)


def _bytes(tensors: Iterable[TensorInfo]) -> int:
    return sum(t.n_bytes for t in tensors)


def _flops(tensors: Iterable[TensorInfo]) -> float:
    """Two per weight of every matrix that a token is multiplied with."""
    return 2.0 * sum(prod(t.shape) for t in tensors if len(t.shape) > 1)


def _rate(gpu: Device) -> tuple[float, float]:
    """(bytes/s, FLOP/s) that decode and prompt processing can count on."""
    flops = gpu.flops or gpu.bandwidth * GPU_FLOPS_PER_BANDWIDTH
    return gpu.bandwidth * GPU_BANDWIDTH_SHARE, flops


def _host_rate(machine: Machine) -> tuple[float, float]:
    host, cores = machine.host, max(1, machine.physical_cores)
    flops = host.flops or cores * ASSUMED_FLOPS_PER_CORE
    return min(host.bandwidth * HOST_BANDWIDTH_SHARE, cores * HOST_BYTES_PER_CORE), flops
