"""What of a GPU a plan may use: its reserve, what a load costs beside its buffers, and whether
enough is left to be of use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tuner.machine.backends import backend
from tuner.machine.machine import Device
from tuner.units import MIB, size_text

GPU_RESERVE = 512 * MIB
LEAST_ROOM = 128 * MIB  # a GPU that has less for weights, cache and compute is of no use


def device_key(device: Device) -> str:
    """What names this very device from one run to the next: its UUID, else backend and name."""
    return device.uuid or f"{device.backend}:{device.name}"


def with_reserve(gpu: Device, reserve: int | None, overheads: Mapping[str, int]) -> Device:
    """With the bytes that a plan may not use, and those that a load costs beside its buffers;
    `overheads`: measured ones, by `device_key`."""
    left = GPU_RESERVE if reserve is None else reserve
    measured = overheads.get(device_key(gpu))
    if measured is not None:
        return replace(gpu, reserve=left, overhead=measured, overhead_source="measured")
    assumed = backend(gpu.backend).overhead(gpu.compute_capability)
    return replace(gpu, reserve=left, overhead=assumed)


def usable(gpus: Sequence[Device], memory: Device) -> tuple[tuple[Device, ...], tuple[Device, ...]]:
    """The GPUs that can hold something beside the driver's context, and those that cannot."""

    def room(gpu: Device) -> int:
        in_ram = memory.budget + gpu.carved_out_free
        most = min(gpu.budget, in_ram) if gpu.draws_from_ram else gpu.budget
        return most - gpu.overhead

    kept = tuple(gpu for gpu in gpus if room(gpu) >= LEAST_ROOM)
    return kept, tuple(gpu for gpu in gpus if gpu not in kept)


def unusable_text(gpu: Device) -> str:
    """Why a GPU is left out."""
    needs = gpu.reserve + gpu.overhead + LEAST_ROOM
    return (
        f"{gpu.id} ({gpu.name}) is left out: of its {size_text(gpu.total)} only "
        f"{size_text(gpu.free)} are free, and {size_text(needs)} are the least that is of use "
        f"(reserve {size_text(gpu.reserve)}, driver {size_text(gpu.overhead)})."
    )
