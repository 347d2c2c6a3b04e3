"""How fast devices are at a model's two jobs: reading weights per token, multiplying prompts.

The form is that of a roofline: what a data sheet promises, the part of it that llama.cpp's kernels
reach, and what else bounds them. The constants are fitted to public measurements of about thirty
cards and hosts (`python -m bench.speed_accuracy` says how far off each is); a backend's own are in
its row (`machine/backends.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log2

from tuner.machine.backends import backend
from tuner.machine.host import ASSUMED_FLOPS_PER_CORE
from tuner.machine.machine import Device, Machine

# Weights that the multiprocessors of a CUDA card get through, in bytes per multiprocessor and
# clock: what bounds the cards that have much bandwidth for their size. Before Volta they unpack
# quantized weights more slowly.
BYTES_PER_SM_CLOCK = 6.1
BYTES_PER_SM_CLOCK_PASCAL = 4.4

# Of a data sheet's bandwidth what decoding draws from RAM, and of one that was measured by reading.
HOST_BANDWIDTH_SHARE = 0.54
HOST_READ_SHARE = 0.72
# What a weight tensor takes the host beside its weights: the operations around it that one thread
# does for all, and its threads' waiting for each other at their barriers, for each doubling of
# their number. The latter differs tenfold by how threads wait, and where: what a machine learns
# counts for more than this.
SECONDS_PER_TENSOR = 1.0e-6
SECONDS_AT_BARRIERS = 2.5e-6

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
    weight tensor costs beside its bytes. Of the host, whose cores take their time beside what its
    memory gives: `cores` that multiply weights with one token, `attention`: those that unpack a
    quantized cache for it (`attended.py`), and `barriers`: seconds per weight tensor that its
    threads wait for each other. `round_trip`, `link`: seconds
    and bytes/s of the way to a server over a network."""

    bandwidth: float
    flops: float
    per_tensor: float = 0.0
    cores: float = inf
    attention: float = inf
    barriers: float = 0.0
    round_trip: float = 0.0
    link: float = inf


NO_TIME = Rate(inf, inf)


def softmin(a: float, b: float) -> float:
    """The smaller of two bounds, rounded off where they meet."""
    return float((a**-6 + b**-6) ** (-1 / 6))


def longer(a: float, b: float) -> float:
    """The longer of two times that pass together, as `softmin` of rates."""
    most = max(a, b)
    return float(most * ((a / most) ** 6 + (b / most) ** 6) ** (1 / 6)) if most else 0.0


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
    share = HOST_READ_SHARE if host.bandwidth_source == "measured" else HOST_BANDWIDTH_SHARE
    flops = host.flops * cores / there or cores * ASSUMED_FLOPS_PER_CORE
    return Rate(
        host.bandwidth * share * pace.decode,
        flops * pace.prompt,
        per_tensor=SECONDS_PER_TENSOR / pace.decode,
        cores=cores * pace.decode,
        attention=cores * pace.attention,
        barriers=SECONDS_AT_BARRIERS * log2(machine.threads) / pace.barriers,
    )
