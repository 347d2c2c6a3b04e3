"""This machine, measured: GPUs, the host, who else holds their memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from tuner.errors import EngineError
from tuner.machine import engine_build, estimates, host, nvidia
from tuner.machine.cards import row_of
from tuner.machine.control_groups import number_in
from tuner.machine.engine_build import EngineAnswer, ask_engine
from tuner.machine.host import HostState
from tuner.machine.machine import ASSUMED_PCIE, Device, Machine, Process
from tuner.machine.switches import read_switches
from tuner.machine.usable import Beside, unusable_text, usable, with_reserve
from tuner.units import GIB, size_text

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})

AskEngine = Callable[[Sequence[str]], EngineAnswer]


def measure(
    environ: Mapping[str, str] = os.environ,
    reserve: int | None = None,
    *,
    beside: Mapping[str, Beside] | None = None,
    host_bandwidth: float | None = None,
    rpc_servers: Sequence[str] = (),
    nvml: Any | None = None,
    host_state: HostState | None = None,
    root: Path = Path("/"),
    library_folder: Path | None = None,
    ask: AskEngine = ask_engine,
    platform: str = sys.platform,
) -> Machine:
    """The machine as it is now. Never raises for missing or broken hardware, but EngineError for an
    RPC server that is not there: who names one counts on it.

    `reserve`: bytes to leave free on each GPU. `beside`: what loads took of each GPU beside their
    buffers, by `usable.beside_key`. `host_bandwidth`: measured, in bytes/s. The rest stands in for
    hardware: the pynvml module, psutil's figures, the folder that holds /proc and /sys, the
    engine's library folder, and the question to the engine itself, which is asked only where
    NVML leaves one open.
    """
    cards = nvidia.read_cards(nvidia.load_nvml() if nvml is None else nvml)
    visible = nvidia.visible_cards(cards, environ)
    folder = library_folder or engine_build.library_folder(environ)
    built = engine_build.built_backends(folder)
    state = host_state or HostState.now()
    device = host.host_device(state, root, host_bandwidth)
    warnings: list[str] = []
    notes: list[str] = [cards.reason] if cards.reason else []

    if not device.reserve:
        warnings.append(
            f"The limits of this process (ulimit) leave {size_text(device.total)} for a model."
        )
    gpus: tuple[Device, ...] = ()
    if visible and (built is None or "CUDA" in built) and not rpc_servers:
        gpus = tuple(_cuda_device(i, card, device) for i, card in enumerate(visible))
    elif _other_gpus_possible(built, cards, rpc_servers):
        answer = ask(rpc_servers)
        if answer.problem and rpc_servers:
            raise EngineError("load_failed", answer.problem)
        if answer.problem:
            warnings.append(f"{answer.problem}; the plan is for the CPU.")
        listed = [_of_this_ram(gpu, state.total) for gpu in answer.devices]
        gpus = _joined_with_nvml(listed, visible, device)
    if not gpus:
        warnings += _unused_gpu(visible, built, root, platform)
    device = _same_ram(device, gpus)
    gpus = tuple(with_reserve(_carved_out(gpu, root), reserve, beside or {}) for gpu in gpus)
    gpus, unusable = usable(gpus, device)
    warnings += [unusable_text(gpu) for gpu in unusable]
    return Machine(
        gpus=gpus,
        unusable=unusable,
        host=device,
        processes=_processes((*gpus, *unusable), visible),
        physical_cores=host.usable_cores(state, root),
        accelerated=engine_build.has_accelerator(folder),
        switches=read_switches(environ),
        warnings=tuple(warnings),
        notes=tuple(notes),
        assumed=tuple(estimates.assumed((*gpus, device))),
    )


def host_bandwidth() -> float | None:
    """Bytes/s of this machine's RAM, by all the cores that are to be used. Takes about 0.1 s."""
    return host.measure_bandwidth(host.usable_cores(HostState.now()))


def other_threads() -> int:
    """As `host.other_threads`, of this machine."""
    return host.other_threads(HostState.now())


def gpu_readings(machine: Machine, nvml: Any | None = None) -> dict[str, nvidia.Reading]:
    """How each GPU with memory of its own that NVML knows stands now, by Device.id. Four NVML calls
    per GPU, so that a status line can ask once a second; nothing is asked on a machine without such
    a GPU."""
    ids = {gpu.uuid: gpu.id for gpu in machine.gpus if gpu.uuid and not gpu.unified}
    if not ids:
        return {}
    found = nvidia.readings(nvidia.load_nvml() if nvml is None else nvml, list(ids))
    return {ids[uuid]: reading for uuid, reading in found.items()}


def gpu_used_bytes(machine: Machine, nvml: Any | None = None) -> dict[str, int]:
    """Bytes in use now on each of these GPUs, by Device.id."""
    return {name: reading.used for name, reading in gpu_readings(machine, nvml).items()}


def ram_used(pid: int | None = None) -> tuple[int, int]:
    """Bytes of RAM in use and in all, within the limits of the control group. `pid`: a process
    whose mapped files count as used, which the system takes for free (Linux alone tells them)."""
    memory = psutil.virtual_memory()
    total, free = host.within_limits(memory.total, memory.available)
    mapped = 0
    with suppress(psutil.Error):
        if pid is not None:
            mapped = getattr(psutil.Process(pid).memory_info(), "shared", 0)
    return min(total, total - free + mapped), total


# ---------------------------------------------------------------- devices


def _cuda_device(index: int, card: nvidia.Card, memory: Device) -> Device:
    # A card without memory of its own (GB10, Jetson) lives in the host's.
    shared = card.total == 0
    usual = memory.bandwidth if shared else estimates.usual_bandwidth(card.total)
    bandwidth = card.bandwidth or usual
    return Device(
        id=f"GPU{index}",
        kind="gpu",
        backend="CUDA",
        name=card.name,
        total=memory.total if shared else card.total,
        free=memory.free if shared else card.free,
        reserve=0,
        bandwidth=bandwidth,
        bandwidth_source=card.bandwidth_source,
        flops=card.flops or estimates.GENERIC_FLOPS,
        n_sm=card.n_sm,
        clock=card.clock,
        compute_capability=card.compute_capability,
        pcie_bandwidth=card.pcie_bandwidth or (bandwidth if shared else ASSUMED_PCIE),
        engine_name=f"CUDA{index}",
        unified=shared,
        uuid=card.uuid,
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
                n_sm=known.n_sm,
                clock=known.clock,
                compute_capability=known.compute_capability if cuda else None,
                pcie_bandwidth=known.pcie_bandwidth,
                uuid=known.uuid,
                unified=gpu.unified or known.unified,
            )
        )
    return tuple(found)


def _estimated(gpu: Device, memory: Device) -> Device:
    """A device of which only the engine knows: its speed is that of such a card, or a guess."""
    if gpu.kind == "rpc":
        return gpu if gpu.bandwidth else estimates.by_nothing(gpu)
    row = row_of(gpu.name, memory.total if gpu.unified else gpu.total)
    if row is not None and row.unified == gpu.unified:
        return estimates.by_row(gpu, row)
    if gpu.unified:
        # An integrated GPU reads the host's memory directly: nothing crosses a bus.
        rate = memory.bandwidth
        return replace(gpu, bandwidth=rate, flops=estimates.INTEGRATED_FLOPS, pcie_bandwidth=rate)
    return estimates.by_size(gpu)


def _same_ram(memory: Device, gpus: Sequence[Device]) -> Device:
    """The host with the bandwidth of a GPU that reads the same RAM, where the table of cards knows
    that and nothing has measured the host's."""
    sheets = [g.bandwidth for g in gpus if g.unified and g.bandwidth_source == "data sheet"]
    if not sheets or memory.bandwidth_source != "assumed":
        return memory
    return replace(memory, bandwidth=sheets[0], bandwidth_source="data sheet")


def _of_this_ram(gpu: Device, ram: int) -> Device:
    """An RPC server on this very machine that gives out its RAM: as ggml's CPU backend does, all
    `ram` bytes of it, be they free or not."""
    address = gpu.name.rpartition(":")[0]
    if gpu.kind == "rpc" and address in _LOOPBACK and gpu.total == ram:
        return replace(gpu, unified=True)
    return gpu


def _carved_out(gpu: Device, root: Path) -> Device:
    """An integrated GPU of AMD's with what the firmware set apart for it, as Linux shows it.

    Vulkan gives it that and as much of the RAM as the kernel lets it have (GTT); HIP either the
    one or the other. Which it was is told by the size. Where the system does not say what is set
    apart, all of it counts as RAM, which can only be too careful.
    """
    folder = root / "sys/bus/pci/devices" / gpu.device_id.lower()
    apart, used, in_ram = (
        number_in(folder / f"mem_info_{name}") for name in ("vram_total", "vram_used", "gtt_total")
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
