"""What a GPU is taken for where it does not say itself: by its row in the table of cards, else by
the size of its memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from tuner.machine import nvidia
from tuner.machine.cards import CardRow
from tuner.machine.machine import ASSUMED_PCIE, Device
from tuner.units import GIB, rate_text, size_text

# Peak FLOP/s, dense f16
GENERIC_FLOPS = 100e12  # a mid-range card of the last years
INTEGRATED_FLOPS = 10e12  # a large APU, an Apple M3 Pro
# Of a server over a network: what its kernels reach, and the way there.
_SERVER_BANDWIDTH, _SERVER_FLOPS = 30e9, 0.5e12
_SERVER_LINK, _SERVER_TRIP = 0.1e9, 3e-4

# Memory in GiB, and the bandwidth in bytes/s that cards of that size usually have.
_BANDWIDTH = {
    4: 160e9, 6: 300e9, 8: 270e9, 10: 700e9, 12: 400e9, 16: 450e9, 24: 940e9, 32: 1790e9,
    48: 800e9, 80: 2000e9,
}  # fmt: skip


def usual_bandwidth(size: int) -> float:
    """Bytes/s of the usual card with `size` bytes of memory."""
    return _BANDWIDTH[min(_BANDWIDTH, key=lambda gib: abs(gib * GIB - size))]


def by_row(gpu: Device, row: CardRow) -> Device:
    """The GPU with what the table says of such a card."""
    pcie = nvidia.pcie_bandwidth(*row.pcie) if row.pcie else ASSUMED_PCIE
    return replace(
        gpu,
        bandwidth=row.bandwidth,
        bandwidth_source="data sheet",
        flops=peak_flops(row),
        n_sm=row.n_sm,
        clock=row.clock,
        compute_capability=row.capability if gpu.backend == "CUDA" else None,
        # What lives in the RAM is read there: nothing crosses a bus.
        pcie_bandwidth=row.bandwidth if gpu.unified else pcie,
    )


def by_size(gpu: Device) -> Device:
    """The GPU as one of which nothing is known but its memory."""
    return replace(
        gpu,
        bandwidth=usual_bandwidth(gpu.total),
        bandwidth_source="assumed",
        flops=GENERIC_FLOPS,
        pcie_bandwidth=ASSUMED_PCIE,
    )


def by_nothing(server: Device) -> Device:
    """What a server over a network has, where trying it out found no room: a CPU's RAM, by a
    gigabit network."""
    return replace(
        server,
        bandwidth=_SERVER_BANDWIDTH,
        flops=_SERVER_FLOPS,
        pcie_bandwidth=_SERVER_LINK,
        round_trip=_SERVER_TRIP,
    )


def assumed(devices: Iterable[Device]) -> Iterator[str]:
    """Of which devices the bandwidth is nothing but an assumption, and which, in a few words."""
    for device in devices:
        if device.bandwidth_source != "assumed":
            continue
        rate = rate_text(device.bandwidth)
        if device.kind == "host":
            yield f"RAM at {rate}"
        elif device.kind == "gpu" and not device.unified:
            pcie = rate_text(device.pcie_bandwidth)
            yield f"{device.id} at {rate}, the usual of {size_text(device.total)}, PCIe at {pcie}"
        else:
            yield f"{device.id} at {rate}"


def peak_flops(row: CardRow) -> float:
    """Dense f16 FLOP/s of such a card."""
    if row.capability:
        return nvidia.peak_flops(row.n_sm, row.clock, row.capability)
    return row.peak
