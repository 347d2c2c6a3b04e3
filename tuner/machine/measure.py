"""This machine, measured or stated: GPUs, the host, who else holds their memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tuner.machine import engine_build, host, nvidia
from tuner.machine.backends import backend
from tuner.machine.engine_build import EngineAnswer, ask_engine
from tuner.machine.host import HostState
from tuner.machine.machine import ASSUMED_PCIE, Device, Machine, Process
from tuner.units import GIB, MIB, size_text

GPU_RESERVE = 512 * MIB
LEAST_ROOM = 128 * MIB  # a GPU that has less for weights, cache and compute is of no use

# A card about which nothing is known but its size: a mid-range one of the last years.
_GENERIC_BANDWIDTH = 400e9
_GENERIC_FLOPS = 40e12
_INTEGRATED_FLOPS = 10e12  # an Apple M2 or M3, a large APU
_RPC_BANDWIDTH = 100e9
_RPC_LINK = 0.1e9  # a gigabit network
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})

AskEngine = Callable[[Sequence[str]], EngineAnswer]


def measure(
    environ: Mapping[str, str] = os.environ,
    reserve: int | None = None,
    *,
    overheads: Mapping[str, int] | None = None,
    host_bandwidth: float | None = None,
    rpc_servers: Sequence[str] = (),
    nvml: Any | None = None,
    host_state: HostState | None = None,
    root: Path = Path("/"),
    library_folder: Path | None = None,
    ask: AskEngine = ask_engine,
    platform: str = sys.platform,
) -> Machine:
    """The machine as it is now. Never raises for missing or broken hardware.

    `reserve`: bytes to leave free on each GPU. `overheads`: measured bytes per GPU, by
    `device_key`. `host_bandwidth`: measured, in bytes/s. The rest stands in for hardware:
    the pynvml module, psutil's figures, the folder that holds /proc and /sys, the engine's
    library folder, and the question to the engine itself, which is asked only where NVML
    leaves one open.
    """
    cards = nvidia.read_cards(nvidia.load_nvml() if nvml is None else nvml)
    visible = nvidia.visible_cards(cards, environ)
    folder = library_folder or engine_build.library_folder(environ)
    built = engine_build.built_backends(folder)
    state = host_state or HostState.now()
    device = host.host_device(state, root, host_bandwidth)
    warnings: list[str] = []
    notes: list[str] = [cards.reason] if cards.reason else []

    gpus: tuple[Device, ...] = ()
    if visible and (built is None or "CUDA" in built) and not rpc_servers:
        gpus = tuple(_cuda_device(i, card, device) for i, card in enumerate(visible))
    elif _other_gpus_possible(built, cards, rpc_servers):
        answer = ask(rpc_servers)
        if answer.problem:
            warnings.append(f"{answer.problem}; the plan is for the CPU.")
        listed = [_of_this_ram(gpu, state.total) for gpu in answer.devices]
        gpus = _joined_with_nvml(listed, visible, device)
    if not gpus:
        warnings += _unused_gpu(visible, built, root, platform)
    gpus = tuple(_with_reserve(_carved_out(gpu, root), reserve, overheads or {}) for gpu in gpus)
    gpus, unusable = _usable(gpus, device)
    warnings += [_unusable_text(gpu) for gpu in unusable]
    return Machine(
        gpus=gpus,
        unusable=unusable,
        host=device,
        processes=_processes(gpus, visible),
        physical_cores=host.usable_cores(state, root),
        warnings=tuple(warnings),
        notes=tuple(notes),
    )


def stated(
    vram: Sequence[int],
    ram: int | None = None,
    reserve: int | None = None,
    *,
    measured: Machine | None = None,
) -> Machine:
    """A machine that the user describes: one CUDA GPU per size in `vram` (bytes, all of it free;
    sizes of 0 are left out, so that [0] is a machine without a GPU), `ram` bytes of RAM, all
    free. Without `vram` the GPUs, without `ram` the host are those of `measured`, or of this
    machine."""
    # With GPUs stated, those of this machine need not be looked for.
    base = measured or (_host_only() if vram else measure(reserve=reserve))
    memory = base.host
    if ram is not None:
        memory = replace(
            memory, total=ram, free=ram, reserve=host.default_reserve(ram), source="stated"
        )
    if not vram:
        return replace(base, host=memory)
    sizes = [size for size in vram if size > 0]
    gpus, unusable = _usable(
        [_with_reserve(_stated_gpu(index, size), reserve, {}) for index, size in enumerate(sizes)],
        memory,
    )
    return replace(
        base,
        gpus=gpus,
        host=memory,
        unusable=unusable,
        processes=(),
        warnings=tuple(map(_unusable_text, unusable)),
    )


def host_bandwidth() -> float | None:
    """Bytes/s of this machine's RAM, by all the cores that are to be used. Takes about 0.1 s."""
    return host.measure_bandwidth(host.usable_cores(HostState.now()))


def device_key(device: Device) -> str:
    """What names this very device from one run to the next: its UUID, else backend and name."""
    return device.uuid or f"{device.backend}:{device.name}"


def gpu_used_bytes(machine: Machine, nvml: Any | None = None) -> dict[str, int]:
    """Bytes in use now on each GPU that NVML knows, by Device.id. Two NVML calls per GPU, so that
    a status line can ask once a second; nothing is asked on a machine without such a GPU."""
    ids = {gpu.uuid: gpu.id for gpu in machine.gpus if gpu.uuid and not gpu.unified}
    if not ids:
        return {}
    used = nvidia.used_bytes(nvidia.load_nvml() if nvml is None else nvml, list(ids))
    return {ids[uuid]: size for uuid, size in used.items()}


# ---------------------------------------------------------------- devices


def _host_only() -> Machine:
    state = HostState.now()
    return Machine(gpus=(), host=host.host_device(state), physical_cores=host.usable_cores(state))


def _cuda_device(index: int, card: nvidia.Card, memory: Device) -> Device:
    # A card without memory of its own (GB10, Jetson) lives in the host's.
    shared = card.total == 0
    return Device(
        id=f"GPU{index}",
        kind="gpu",
        backend="CUDA",
        name=card.name,
        total=memory.total if shared else card.total,
        free=memory.free if shared else card.free,
        reserve=0,
        bandwidth=card.bandwidth or (memory.bandwidth if shared else _GENERIC_BANDWIDTH),
        bandwidth_source="computed" if card.bandwidth else "assumed",
        flops=card.flops or _GENERIC_FLOPS,
        compute_capability=card.compute_capability,
        pcie_bandwidth=card.pcie_bandwidth or ASSUMED_PCIE,
        engine_name=f"CUDA{index}",
        unified=shared,
        uuid=card.uuid,
    )


def _stated_gpu(index: int, size: int) -> Device:
    return Device(
        id=f"GPU{index}",
        kind="gpu",
        backend="CUDA",
        name=f"stated GPU ({size / GIB:.4g} GiB)",
        total=size,
        free=size,
        reserve=0,
        bandwidth=_GENERIC_BANDWIDTH,
        flops=_GENERIC_FLOPS,
        pcie_bandwidth=ASSUMED_PCIE,
        engine_name=f"CUDA{index}",
        source="stated",
    )


def _joined_with_nvml(
    listed: Sequence[Device], cards: Sequence[nvidia.Card], memory: Device
) -> tuple[Device, ...]:
    """The engine's devices, each with what NVML knows of the same card."""
    left = list(cards)
    found = []
    for gpu in listed:
        card = next((c for c in left if gpu.kind != "rpc" and c.name in gpu.name), None)
        if card is None:
            found.append(_estimated(gpu, memory))
            continue
        left.remove(card)
        known = _cuda_device(0, card, memory)
        cuda = gpu.backend == "CUDA"
        found.append(
            replace(
                gpu,
                # The engine has its own context on the card already, a load pays for it again.
                free=known.free if cuda else gpu.free,
                bandwidth=known.bandwidth,
                bandwidth_source=known.bandwidth_source,
                flops=known.flops,
                compute_capability=known.compute_capability if cuda else None,
                pcie_bandwidth=known.pcie_bandwidth,
                uuid=known.uuid,
                unified=gpu.unified or known.unified,
            )
        )
    return tuple(found)


def _estimated(gpu: Device, memory: Device) -> Device:
    """A device of which only the engine knows: its speed is a guess."""
    if gpu.kind == "rpc":
        return replace(
            gpu, bandwidth=_RPC_BANDWIDTH, flops=_GENERIC_FLOPS, pcie_bandwidth=_RPC_LINK
        )
    if gpu.unified:
        bandwidth = host.APPLE_BANDWIDTH.get(gpu.name, memory.bandwidth)
        # An integrated GPU reads the host's memory directly: nothing crosses a bus.
        return replace(gpu, bandwidth=bandwidth, flops=_INTEGRATED_FLOPS, pcie_bandwidth=bandwidth)
    return replace(
        gpu, bandwidth=_GENERIC_BANDWIDTH, flops=_GENERIC_FLOPS, pcie_bandwidth=ASSUMED_PCIE
    )


def _of_this_ram(gpu: Device, ram: int) -> Device:
    """An RPC server on this very machine that gives out its RAM: as ggml's CPU backend does, all
    `ram` bytes of it, be they free or not."""
    address = gpu.name.rpartition(":")[0]
    if gpu.kind == "rpc" and address in _LOOPBACK and gpu.total == ram:
        return replace(gpu, unified=True)
    return gpu


def _with_reserve(gpu: Device, reserve: int | None, overheads: Mapping[str, int]) -> Device:
    """With the bytes that a plan may not use, and those that a load costs beside its buffers."""
    left = GPU_RESERVE if reserve is None else reserve
    measured = overheads.get(device_key(gpu))
    if measured is not None:
        return replace(gpu, reserve=left, overhead=measured, overhead_source="measured")
    assumed = backend(gpu.backend).overhead(gpu.compute_capability)
    return replace(gpu, reserve=left, overhead=assumed)


def _usable(
    gpus: Sequence[Device], memory: Device
) -> tuple[tuple[Device, ...], tuple[Device, ...]]:
    """The GPUs that can hold something beside the driver's context, and those that cannot."""

    def room(gpu: Device) -> int:
        in_ram = memory.budget + gpu.carved_out_free
        most = min(gpu.budget, in_ram) if gpu.draws_from_ram else gpu.budget
        return most - gpu.overhead

    usable = tuple(gpu for gpu in gpus if room(gpu) >= LEAST_ROOM)
    return usable, tuple(gpu for gpu in gpus if gpu not in usable)


def _carved_out(gpu: Device, root: Path) -> Device:
    """An integrated GPU of AMD's with what the firmware set apart for it, as Linux shows it.

    Vulkan gives it that and as much of the RAM as the kernel lets it have (GTT); HIP either the
    one or the other. Which it was is told by the size. Where the system does not say what is set
    apart, all of it counts as RAM, which can only be too careful.
    """
    folder = root / "sys/bus/pci/devices" / gpu.device_id.lower()
    apart, used, in_ram = (
        host.number_in(folder / f"mem_info_{name}")
        for name in ("vram_total", "vram_used", "gtt_total")
    )
    if not (gpu.unified and gpu.device_id) or apart is None or in_ram is None:
        return gpu
    nearest = min((apart, in_ram, apart + in_ram), key=lambda size: abs(gpu.total - size))
    if nearest == apart:  # it uses nothing else
        return replace(gpu, carved_out=gpu.total, carved_out_free=gpu.free)
    if nearest == in_ram:
        return gpu
    free = min(max(0, apart - (used or 0)), gpu.free)
    return replace(gpu, carved_out=apart, carved_out_free=free)


def _unusable_text(gpu: Device) -> str:
    needs = gpu.reserve + gpu.overhead + LEAST_ROOM
    return (
        f"{gpu.id} ({gpu.name}) is left out: of its {size_text(gpu.total)} only "
        f"{size_text(gpu.free)} are free, and {size_text(needs)} are the least that is of use "
        f"(reserve {size_text(gpu.reserve)}, driver {size_text(gpu.overhead)})."
    )


def _processes(gpus: Sequence[Device], cards: Sequence[nvidia.Card]) -> tuple[Process, ...]:
    ids = {gpu.uuid: gpu.id for gpu in gpus if gpu.uuid}
    return tuple(
        Process(process.pid, process.name, ids[card.uuid], process.used)
        for card in cards
        if card.uuid in ids
        for process in card.processes
    )


# ---------------------------------------------------------------- which engine


def _other_gpus_possible(
    built: frozenset[str] | None, cards: nvidia.Cards, rpc_servers: Sequence[str]
) -> bool:
    """Whether only the engine knows what there is. A CUDA build is asked where the driver is
    there but NVML does not work; the mere RPC backend has no devices without a server."""
    if rpc_servers:
        return True
    if built is None:
        return False
    nvml_broken = bool(cards.reason) and cards.reason != nvidia.NOT_INSTALLED
    return bool(built - {"RPC", "CUDA"}) or ("CUDA" in built and nvml_broken)


def _unused_gpu(
    visible: Sequence[nvidia.Card], built: frozenset[str] | None, root: Path, platform: str
) -> list[str]:
    """What to do where the machine has a GPU and the installed engine cannot use it."""
    if built is None or built - {"RPC"}:
        return []
    name, backend = "", ""
    if visible:
        name, backend = visible[0].name, "CUDA"
    elif _has_amd_gpu(root):
        name, backend = "an AMD GPU", "Vulkan"
    elif platform == "darwin" and os.uname().machine == "arm64":
        name, backend = "an Apple GPU", "Metal"
    if not name:
        return []
    command = engine_build.rebuild_command(backend, platform)
    return [
        f"This machine has {name}, but the engine is built for the CPU only, so the GPU stays "
        f"unused. To build the engine for it: {command}"
    ]


def _has_amd_gpu(root: Path) -> bool:
    """A card of AMD's with memory of its own, as Linux's driver shows it."""
    for vendor in sorted(root.glob("sys/class/drm/card*/device/vendor")):
        try:
            memory = int((vendor.parent / "mem_info_vram_total").read_text())
            if vendor.read_text().strip() == "0x1002" and memory >= 2 * GIB:
                return True
        except (OSError, ValueError):
            continue
    return False
