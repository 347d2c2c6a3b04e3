"""How fast devices are at a model's two jobs: reading weights per token, multiplying prompts.

The form is that of a roofline: what a data sheet promises, the part of it that llama.cpp's kernels
reach, and what else bounds them. The constants are fitted to public measurements of about thirty
cards and hosts (`python -m bench.speed_accuracy` says how far off each is); a backend's own are in
its row (`machine/backends.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from tuner.machine.backends import backend
from tuner.machine.host import ASSUMED_FLOPS_PER_CORE
from tuner.machine.machine import Device, Machine

# Weights that the multiprocessors of a CUDA card get through, in bytes per multiprocessor and
# clock: what bounds the cards that have much bandwidth for their size. Before Volta they unpack
# quantized weights more slowly.
BYTES_PER_SM_CLOCK = 6.1
BYTES_PER_SM_CLOCK_PASCAL = 4.4

# Of a data sheet's bandwidth what decoding draws from RAM, and of one that was measured by copying.
HOST_BANDWIDTH_SHARE = 0.54
HOST_COPIED_SHARE = 0.68
HOST_BYTES_PER_CORE = 16e9  # bytes/s of quantized weights that one core unpacks and multiplies
SECONDS_PER_LAYER_AND_THREAD = 5.9e-6  # threads meeting at the barriers of a layer

# Prompts: FLOP/s reached are REACHED * PEAK_UNIT * (peak / PEAK_UNIT) ** GROWTH, since the larger
# the tensor cores are, the less of them is used.
PEAK_UNIT = 1e14  # FLOP/s, dense f16
REACHED = 0.37
GROWTH = 0.6
FLOPS_PER_BANDWIDTH = 150.0  # peak FLOP/s per byte/s of a card that tells nothing of its own

# Of these formulas. It goes up with each change by which what machines have learned beside them
# (`Pace`) becomes wrong.
SPEED_FORMULA = 3


@dataclass(frozen=True, slots=True)
class Rate:
    """What one device reaches: bytes/s of decoding, FLOP/s of prompts, and the seconds that each
    weight tensor and each layer costs beside its bytes. `attention`: cores that attend to one token
    after the other, beside reading the cache (`attended.py`). `round_trip`, `link`: seconds and
    bytes/s of the way to a server over a network."""

    bandwidth: float
    flops: float
    per_tensor: float = 0.0
    per_layer: float = 0.0
    attention: float = inf
    round_trip: float = 0.0
    link: float = inf


NO_TIME = Rate(inf, inf)


def softmin(a: float, b: float) -> float:
    """The smaller of two bounds, rounded off where they meet."""
    return float((a**-6 + b**-6) ** (-1 / 6))


def gpu_rate(gpu: Device) -> Rate:
    """The rate of a GPU, from its bandwidth, multiprocessors and clock; of a server over a network,
    what its kernels were found to reach (`engine/device_speed.py`)."""
    row, pace = backend(gpu.backend), gpu.pace
    if gpu.kind == "rpc" and gpu.flops:
        return Rate(
            gpu.bandwidth * pace.decode,
            gpu.flops * pace.prompt,
            row.seconds_per_tensor / pace.decode,
            round_trip=gpu.round_trip,
            link=gpu.pcie_bandwidth or inf,
        )
    bandwidth = gpu.bandwidth * row.bandwidth_share
    if gpu.n_sm and gpu.clock and gpu.backend == "CUDA":
        old = gpu.compute_capability is not None and gpu.compute_capability < (7, 0)
        per_clock = BYTES_PER_SM_CLOCK_PASCAL if old else BYTES_PER_SM_CLOCK
        bandwidth = softmin(bandwidth, per_clock * gpu.n_sm * gpu.clock)
    peak = gpu.flops or gpu.bandwidth * FLOPS_PER_BANDWIDTH
    flops = row.prompt_share * REACHED * PEAK_UNIT * (peak / PEAK_UNIT) ** GROWTH
    per_tensor = row.seconds_per_tensor / pace.decode
    return Rate(bandwidth * pace.decode, flops * pace.prompt, per_tensor)


def host_rate(machine: Machine) -> Rate:
    """The rate of the host with the threads that compute."""
    host, pace = machine.host, machine.host.pace
    there = max(1, machine.physical_cores)
    cores = min(machine.threads, there)
    share = HOST_COPIED_SHARE if host.bandwidth_source == "measured" else HOST_BANDWIDTH_SHARE
    bandwidth = softmin(host.bandwidth * share, cores * HOST_BYTES_PER_CORE)
    flops = host.flops * cores / there or cores * ASSUMED_FLOPS_PER_CORE
    return Rate(
        bandwidth * pace.decode,
        flops * pace.prompt,
        per_layer=SECONDS_PER_LAYER_AND_THREAD * machine.threads / pace.decode,
        attention=cores * pace.attention,
    )
