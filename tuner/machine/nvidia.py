"""NVIDIA cards through NVML: memory, bandwidth, who else is on them, and which of them CUDA will
show. Nothing here raises when NVML is absent, old or broken: that is a normal state."""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import psutil

from tuner.machine.cards import row_of

# Host-to-device bytes/s of one PCIe lane, by generation; about 80 % of it reaches a copy.
_LANE = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}
_LANE_YIELD = 0.8

# Dense f16 tensor FLOPs per SM and clock, by compute capability (NVIDIA's architecture papers),
# and CUDA cores per SM. Cards before 7.0 have no tensor cores: two FLOPs per core and clock.
_TENSOR_FLOPS = {(7, 0): 1024, (7, 5): 1024, (8, 0): 2048, (9, 0): 4096, (10, 0): 8192}
_TENSOR_FLOPS_OTHER = 1024  # 8.6, 8.7, 8.9, 12.x
_CORES_PER_SM = {(6, 0): 64, (7, 0): 64, (7, 5): 64, (8, 0): 64}
_CORES_PER_SM_OTHER = 128

NOT_INSTALLED = "no NVIDIA driver (NVML is not installed)"


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that holds memory of a card. `used` 0: the driver does not say how much."""

    pid: int
    name: str
    used: int


@dataclass(frozen=True, slots=True)
class Card:
    """One card, or one MIG instance. Sizes in bytes, rates in bytes/s and FLOP/s, 0 if unknown.
    `total` 0: the card has no memory of its own (it shares the host's)."""

    uuid: str
    name: str
    bus_id: str
    total: int
    free: int
    used: int
    compute_capability: tuple[int, int] | None = None
    bandwidth: float = 0.0
    bandwidth_source: str = "assumed"  # "computed" from what NVML says, "data sheet"
    pcie_bandwidth: float = 0.0
    flops: float = 0.0
    n_sm: int = 0  # multiprocessors
    clock: float = 0.0  # Hz, the highest that they run at
    processes: tuple[GpuProcess, ...] = ()
    instances: tuple[Card, ...] | None = None  # MIG is on: these are what CUDA can use


@dataclass(frozen=True, slots=True)
class Cards:
    """All cards of the machine by PCI bus, or the reason why there are none."""

    all: tuple[Card, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a card stands now. None: the card or its driver does not say; a MIG instance never
    does."""

    used: int  # bytes, by all programs
    total: int  # bytes
    temperature: int | None = None  # °C
    power: float | None = None  # W


# ---------------------------------------------------------------- asking NVML


@functools.cache
def load_nvml() -> Any | None:
    """The pynvml module, initialised, or None. Importing it takes 0.1 s, so that is done only
    where the driver's library exists."""
    if sys.platform == "darwin":
        return None
    if sys.platform != "win32":
        try:
            ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            return None
    try:
        return importlib.import_module("pynvml")
    except Exception:  # a broken installation counts as none
        return None


def read_cards(nvml: Any | None) -> Cards:
    """Every NVIDIA card, hidden ones included. `nvml` is the pynvml module or a stand-in."""
    if nvml is None:
        return Cards(reason=NOT_INSTALLED)
    try:
        nvml.nvmlInit()
        count = int(nvml.nvmlDeviceGetCount())
    except Exception as error:  # NVMLError, or whatever a mismatched driver makes of the call
        if "Not Found" in str(error):
            return Cards(reason=NOT_INSTALLED)
        return Cards(reason=f"NVML does not work ({error})")
    cards = []
    for index in range(count):
        handle = _ask(nvml.nvmlDeviceGetHandleByIndex, index)
        if handle is not None:
            cards.append(_card(nvml, handle, index))
    return Cards(tuple(sorted(cards, key=lambda card: card.bus_id)))


def readings(nvml: Any | None, uuids: list[str]) -> dict[str, Reading]:
    """How each of these cards stands now; one that does not say what memory it has is left out."""
    found: dict[str, Reading] = {}
    if nvml is None:
        return found
    for uuid in uuids:
        handle = _ask(nvml.nvmlDeviceGetHandleByUUID, uuid)
        memory = None if handle is None else _ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        if memory is None:
            continue
        milliwatts = _ask(nvml.nvmlDeviceGetPowerUsage, handle)
        found[uuid] = Reading(
            int(memory.used),
            int(memory.total),
            _ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            None if milliwatts is None else milliwatts / 1000,
        )
    return found


def held_by(nvml: Any | None, uuids: list[str], pid: int | None) -> dict[str, int]:
    """Bytes of each of these cards that a process holds, where the driver tells."""
    found: dict[str, int] = {}
    if nvml is None or pid is None:
        return found
    for uuid in uuids:
        handle = _ask(nvml.nvmlDeviceGetHandleByUUID, uuid)
        size = 0 if handle is None else _used_by_process(nvml, handle).get(pid, 0)
        if size:
            found[uuid] = size
    return found


def _ask(call: Callable[..., Any], *arguments: Any) -> Any:
    """The answer, or None where this driver or card has none."""
    try:
        return call(*arguments)
    except Exception:  # NVMLError_NotSupported, a missing function, a version mismatch
        return None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


def _card(nvml: Any, handle: Any, index: int) -> Card:
    memory = _ask(nvml.nvmlDeviceGetMemoryInfo, handle)
    capability = _ask(nvml.nvmlDeviceGetCudaComputeCapability, handle)
    pci = _ask(nvml.nvmlDeviceGetPciInfo, handle)
    capability = (int(capability[0]), int(capability[1])) if capability else None
    memory_clock = _ask(nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_MEM) or 0  # MHz
    width = _ask(nvml.nvmlDeviceGetMemoryBusWidth, handle) or 0  # bits
    bandwidth = memory_clock * 1e6 * 2 * width / 8  # two transfers per clock
    clock = (_ask(nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM) or 0) * 1e6
    cores = _ask(nvml.nvmlDeviceGetNumGpuCores, handle) or 0
    card = Card(
        uuid=_text(_ask(nvml.nvmlDeviceGetUUID, handle)),
        name=_text(_ask(nvml.nvmlDeviceGetName, handle)) or "NVIDIA GPU",
        bus_id=_text(pci.busId) if pci is not None else f"{index:08d}",
        total=int(memory.total) if memory is not None else 0,
        free=int(memory.free) if memory is not None else 0,
        used=int(memory.used) if memory is not None else 0,
        compute_capability=capability,
        bandwidth=bandwidth,
        bandwidth_source="computed" if bandwidth else "assumed",
        pcie_bandwidth=_pcie(nvml, handle),
        n_sm=cores // _CORES_PER_SM.get(capability, _CORES_PER_SM_OTHER) if capability else 0,
        clock=clock,
        processes=_processes(nvml, handle),
    )
    card = _completed(card)
    mode = _ask(nvml.nvmlDeviceGetMigMode, handle)
    return replace(card, instances=_instances(nvml, handle, card)) if mode and mode[0] else card


def _instances(nvml: Any, handle: Any, parent: Card) -> tuple[Card, ...]:
    found = []
    for index in range(_ask(nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        part = _ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
        memory = None if part is None else _ask(nvml.nvmlDeviceGetMemoryInfo, part)
        if memory is None:
            continue
        share = memory.total / parent.total if parent.total else 1.0
        found.append(
            replace(
                parent,
                uuid=_text(_ask(nvml.nvmlDeviceGetUUID, part)),
                name=_text(_ask(nvml.nvmlDeviceGetName, part)) or f"{parent.name} MIG",
                total=int(memory.total),
                free=int(memory.free),
                used=int(memory.used),
                bandwidth=parent.bandwidth * share,
                flops=parent.flops * share,
                n_sm=round(parent.n_sm * share),
                processes=_processes(nvml, part),
            )
        )
    return tuple(found)


def _pcie(nvml: Any, handle: Any) -> float:
    # The current generation drops when the card idles, so the largest counts; the width does not.
    generation = _ask(nvml.nvmlDeviceGetMaxPcieLinkGeneration, handle) or 0
    width = (
        _ask(nvml.nvmlDeviceGetCurrPcieLinkWidth, handle)
        or _ask(nvml.nvmlDeviceGetMaxPcieLinkWidth, handle)
        or 0
    )
    return pcie_bandwidth(generation, width)


def _completed(card: Card) -> Card:
    """The card with what NVML does not tell, as far as the table of cards has it."""
    row = row_of(card.name, card.total or None)
    if row is not None and row.backend == "CUDA":
        card = replace(
            card,
            compute_capability=card.compute_capability or row.capability,
            bandwidth=card.bandwidth or row.bandwidth,
            bandwidth_source="computed" if card.bandwidth else "data sheet",
            # what has no memory of its own reads the host's
            pcie_bandwidth=card.pcie_bandwidth
            or (pcie_bandwidth(*row.pcie) if row.pcie and not row.unified else 0.0),
            n_sm=card.n_sm or row.n_sm,
            clock=card.clock or row.clock,
        )
    return replace(card, flops=peak_flops(card.n_sm, card.clock, card.compute_capability))


def pcie_bandwidth(generation: int, lanes: int) -> float:
    """Bytes/s that a copy from the host reaches over so many lanes; 0: not known."""
    return _LANE.get(min(generation, 6), 0.0) * lanes * _LANE_YIELD


def peak_flops(n_sm: int, clock: float, capability: tuple[int, int] | None) -> float:
    """Dense f16 FLOP/s of `n_sm` multiprocessors at `clock` Hz; 0: not known."""
    if capability is None:
        return 0.0
    if capability < (7, 0):
        cores = n_sm * _CORES_PER_SM.get(capability, _CORES_PER_SM_OTHER)
        return cores * clock * 2.0
    family = (capability[0], 0) if capability[0] in (9, 10) else capability
    return float(n_sm * clock * _TENSOR_FLOPS.get(family, _TENSOR_FLOPS_OTHER))


def _used_by_process(nvml: Any, handle: Any) -> dict[int, int]:
    """Bytes by process id; 0: the driver does not say."""
    used: dict[int, int] = {}
    for call in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
        for process in _ask(getattr(nvml, call, _none), handle) or ():
            # A process may be listed under both with the same memory.
            used[process.pid] = max(used.get(process.pid, 0), int(process.usedGpuMemory or 0))
    return used


def _processes(nvml: Any, handle: Any) -> tuple[GpuProcess, ...]:
    used = _used_by_process(nvml, handle)
    used.pop(os.getpid(), None)
    found = [GpuProcess(pid, _process_name(nvml, pid), size) for pid, size in used.items()]
    return tuple(sorted(found, key=lambda process: (-process.used, process.pid)))


def _none(*_: Any) -> None:
    return None


def _process_name(nvml: Any, pid: int) -> str:
    name = _text(_ask(nvml.nvmlSystemGetProcessName, pid))
    if not name:
        try:
            name = psutil.Process(pid).name()
        except psutil.Error:
            return f"process {pid}"
    return name.replace("\\", "/").split(" --", 1)[0].rstrip("/").rsplit("/", 1)[-1]


# ---------------------------------------------------------------- what CUDA will show


def visible_cards(cards: Cards, environ: Mapping[str, str]) -> tuple[Card, ...]:
    """The cards that a CUDA program sees, in its order.

    CUDA_DEVICE_ORDER=PCI_BUS_ID is the order of `cards`. The default, FASTEST_FIRST, puts the
    fastest card first by a rule that NVIDIA does not publish; here cards are ranked by their
    FLOP/s, then by bandwidth, equals staying in bus order. CUDA_VISIBLE_DEVICES is a list of
    indices in that order, of UUIDs or of beginnings of UUIDs; the first entry that names no card
    ends it. Where MIG is on, CUDA uses one instance: the one that is named, else the first.
    """
    ordered = list(cards.all)
    if environ.get("CUDA_DEVICE_ORDER", "").strip().upper() != "PCI_BUS_ID":
        ordered.sort(key=lambda card: (-card.flops, -card.bandwidth))
    wanted = environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return _one_instance([_visible_part(card) for card in ordered])
    chosen: list[Card | None] = []
    for entry in wanted.split(","):
        found = _named(entry.strip(), ordered)
        if found is None:
            break
        if found not in chosen:
            chosen.append(found)
    return _one_instance(chosen)


def _named(entry: str, ordered: list[Card]) -> Card | None:
    if entry.isdigit():
        return _visible_part(ordered[int(entry)]) if int(entry) < len(ordered) else None
    if not entry.startswith(("GPU-", "MIG-")):
        return None
    everything = [*ordered, *(part for card in ordered for part in card.instances or ())]
    matches = [card for card in everything if card.uuid.startswith(entry)]
    return _visible_part(matches[0]) if len(matches) == 1 else None


def _visible_part(card: Card) -> Card | None:
    """The card itself, or with MIG on its first instance, if it has one."""
    if card.instances is None:
        return card
    return card.instances[0] if card.instances else None


def _one_instance(cards: list[Card | None]) -> tuple[Card, ...]:
    """CUDA works on one MIG instance per process, and then on no other card."""
    visible = tuple(card for card in cards if card is not None)
    part = next((card for card in visible if card.uuid.startswith("MIG-")), None)
    return visible if part is None else (part,)
