"""What of a GPU a plan may use: its reserve, what a load costs beside its buffers, and whether
enough is left to be of use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tuner.machine.backends import backend
from tuner.machine.machine import Device
from tuner.machine.overheads import Card, Shown
from tuner.units import MIB, size_text

GPU_RESERVE = 512 * MIB
LEAST_ROOM = 128 * MIB  # a GPU that has less for weights, cache and compute is of no use


def device_key(device: Device) -> str:
    """What names this very device from one run to the next: its UUID, else backend and name."""
    return device.uuid or f"{device.backend}:{device.name}"


def beside_key(device: Device) -> str:
    """What names it together with the engine's backend that loads there."""
    return f"{device.backend}:{device.uuid or device.name}"


@dataclass(frozen=True, slots=True)
class Beside:
    """What loads on this machine took of a GPU beside the engine's buffers; None and () where none
    has told."""

    overhead: int | None = None  # bytes, at once,
    shown: tuple[Shown, ...] = ()  # and more with the first long prompt, by n_ubatch
    at_least: int = 0  # the same of smaller models


def with_reserve(gpu: Device, reserve: int | None, beside: Mapping[str, Beside]) -> Device:
    """With the bytes that a plan may not use, and those that a load costs beside its buffers;
    `beside`: measured ones, by `beside_key`."""
    left = GPU_RESERVE if reserve is None else reserve
    card = Card(gpu.name, total=0 if gpu.unified else gpu.total, n_sm=gpu.n_sm)
    if gpu.compute_capability:
        card = card._replace(capability=gpu.compute_capability)
    row = backend(gpu.backend).card_class(card)
    known = beside.get(beside_key(gpu), Beside())
    usual, most = row.overhead
    source = "assumed"
    if known.overhead is not None:
        usual = most = known.overhead
        source = "measured"
    return replace(
        gpu,
        reserve=left,
        overhead=usual,
        overhead_most=most,
        overhead_source=source,
        growth=row.growth.learned(known.shown, known.at_least),
    )


def beside_buffers(gpu: Device) -> int:
    """Bytes that any load costs there beside its buffers, its first long prompt included."""
    return gpu.overhead + gpu.growth.of(1, experts=False).usual


def usable(gpus: Sequence[Device], memory: Device) -> tuple[tuple[Device, ...], tuple[Device, ...]]:
    """The GPUs that can hold something beside the driver's context, and those that cannot."""

    def room(gpu: Device) -> int:
        in_ram = memory.budget + gpu.carved_out_free
        most = min(gpu.budget, in_ram) if gpu.draws_from_ram else gpu.budget
        return most - beside_buffers(gpu)

    kept = tuple(gpu for gpu in gpus if room(gpu) >= LEAST_ROOM)
    return kept, tuple(gpu for gpu in gpus if gpu not in kept)


def unusable_text(gpu: Device) -> str:
    """Why a GPU is left out."""
    needs = gpu.reserve + beside_buffers(gpu) + LEAST_ROOM
    return (
        f"{gpu.id} ({gpu.name}) is left out: of its {size_text(gpu.total)} only "
        f"{size_text(gpu.free)} are free, and {size_text(needs)} are the least that is of use "
        f"(reserve {size_text(gpu.reserve)}, driver {size_text(beside_buffers(gpu))})."
    )
