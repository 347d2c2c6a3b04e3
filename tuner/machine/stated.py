"""A machine that the user describes: its cards, RAM, cores, bandwidth."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tuner.machine import cards, estimates, host, measure
from tuner.machine.host import HostState
from tuner.machine.machine import Device, Machine
from tuner.machine.stated_gpus import card_of
from tuner.machine.switches import read_switches
from tuner.machine.usable import unusable_text, usable, with_reserve
from tuner.units import GIB, rate_text, size_text
from tuner.wishes import StatedGpu


def stated(
    gpus: Sequence[StatedGpu | int] | None = None,
    ram: int | None = None,
    reserve: int | None = None,
    *,
    ram_bandwidth: float | None = None,
    cores: int | None = None,
    measured: Machine | None = None,
) -> Machine:
    """A machine that the user describes. What is None is that of `measured`, or of this machine.

    `gpus`: cards, all of their memory free; a number is a CUDA card of so many bytes of which
    nothing else is known. Sizes of 0 are left out, so that [0] is a machine without a GPU. `ram`:
    bytes, all free; a GPU without memory of its own brings its RAM along, a Mac's its cores.
    `reserve`: bytes to leave free on each GPU. `ram_bandwidth`: bytes/s. `cores`: physical ones.
    """
    # With GPUs stated, those of this machine need not be looked for.
    base = measured or (measure.measure(reserve=reserve) if gpus is None else _host_only())
    described = [StatedGpu(gpu) if isinstance(gpu, int) else gpu for gpu in gpus or ()]
    described = [gpu for gpu in described if gpu.size > 0]
    chip = next((gpu for gpu in described if gpu.name and card_of(gpu).unified), None)
    if chip and ram is None:
        ram = chip.size
    cores_stated = cores is not None
    if chip and cores is None:
        cores = card_of(chip).cores or None
    memory = _host(base.host, ram, cores)
    if chip:
        sheet = card_of(chip).bandwidth
        memory = replace(memory, bandwidth=sheet, bandwidth_source="data sheet")
    if ram_bandwidth is not None:
        memory = replace(memory, bandwidth=ram_bandwidth, bandwidth_source="stated")
    machine = replace(base, host=memory, physical_cores=cores or base.physical_cores)
    if gpus is not None:
        devices = [_device(index, gpu, ram_bandwidth) for index, gpu in enumerate(described)]
        kept, unusable = usable([with_reserve(gpu, reserve, {}) for gpu in devices], memory)
        machine = replace(
            machine,
            gpus=kept,
            unusable=unusable,
            processes=(),
            warnings=tuple(map(unusable_text, unusable)),
        )
    return replace(machine, assumed=tuple(_assumed(machine, described, cores_stated)))


def _host_only() -> Machine:
    state = HostState.now()
    return Machine(
        gpus=(),
        host=host.host_device(state),
        physical_cores=host.usable_cores(state),
        switches=read_switches(os.environ),
    )


def _host(memory: Device, ram: int | None, cores: int | None) -> Device:
    """The host with what is stated of it."""
    if ram is not None:
        memory = replace(
            memory, total=ram, free=ram, reserve=host.default_reserve(ram), source="stated"
        )
    if cores is not None:
        memory = replace(
            memory,
            name=f"CPU with {cores} cores" if cores > 1 else "CPU with one core",
            flops=host.assumed_flops(cores),
            bandwidth=host.ASSUMED_BANDWIDTH,
            bandwidth_source="assumed",
            source="stated",
        )
    return memory


def _device(index: int, gpu: StatedGpu, ram_bandwidth: float | None) -> Device:
    row = card_of(gpu) if gpu.name else None
    size = row.in_memory(gpu.size) if row else gpu.size
    device = Device(
        id=f"GPU{index}",
        kind="gpu",
        backend=row.backend if row else "CUDA",
        name=row.name if row else f"stated GPU ({gpu.size / GIB:.4g} GiB)",
        total=size,
        free=size,
        reserve=0,
        unified=row is not None and row.unified,
        source="stated",
    )
    device = estimates.by_row(device, row) if row else estimates.by_size(device)
    if device.unified and ram_bandwidth is not None:  # it reads that very RAM
        device = replace(
            device,
            bandwidth=ram_bandwidth,
            bandwidth_source="stated",
            pcie_bandwidth=ram_bandwidth,
        )
    return device


# ---------------------------------------------------------------- what is assumed


def _assumed(machine: Machine, gpus: Sequence[StatedGpu], cores_stated: bool) -> Iterator[str]:
    """What was neither measured nor stated, in a few words each."""
    listed = [*machine.gpus, *machine.unusable]
    for index, gpu in enumerate(gpus):
        if gpu.name:
            yield from _assumed_by_name(next(d for d in listed if d.id == f"GPU{index}"), gpu)
    yield from estimates.assumed(machine.devices)
    n, chip = machine.physical_cores, next((gpu for gpu in gpus if gpu.name), None)
    if not cores_stated and chip and card_of(chip).cores:
        yield f"the {n} performance cores of {chip.name}"
    elif not cores_stated:
        yield f"the {n} cores of this machine" if n > 1 else "the one core of this machine"


def _assumed_by_name(device: Device, gpu: StatedGpu) -> Iterator[str]:
    row, size = card_of(gpu), size_text(device.total)
    if device.bandwidth_source != "stated":
        rate = rate_text(device.bandwidth)
        yield f"{device.id} at {rate} by the data sheet, with {device.backend}"
    if row.unified and row.ram_share < 1:
        yield f"{device.id} may have {size} of the RAM"
    others = [other for other in cards.sizes(row) if other != gpu.size]
    if gpu.usual and others:
        ram = " of RAM" if row.unified else ""
        listed = " and ".join(map(size_text, others))
        yield f"{device.id} with {size_text(gpu.size)}{ram}: it is sold with {listed} too"
