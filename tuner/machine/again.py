"""The machine measured again while our own model is loaded: what would be free without it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from tuner.machine import host, nvidia
from tuner.machine.host import HostState
from tuner.machine.machine import Device, Machine


def measured_again(
    machine: Machine,
    own: Mapping[str, int],
    pid: int | None,
    *,
    asked: Mapping[str, int] | None = None,
    nvml: Any | None = None,
    state: HostState | None = None,
    root: Path = Path("/"),
) -> Machine:
    """The machine with the bytes that are free now, what the process `pid` holds among them; all
    else is as it was. Some milliseconds, and nothing is raised for what does not answer: that has
    what it had.

    `own`: bytes that our model takes of each GPU, by Device.id, which count where the driver does
    not tell the process's own (in a container, on Windows). `asked`: bytes that are free on
    GPUs that NVML does not know, by Device.engine_name. The rest stands in for hardware, as in
    `measure`.
    """
    memory = _host(machine.host, pid, state or HostState.now(), root)
    cards = [gpu.uuid for gpu in machine.gpus if gpu.uuid and not gpu.unified]
    library = nvidia.load_nvml() if nvml is None and cards else nvml
    readings = nvidia.readings(library, cards)
    held = nvidia.held_by(library, cards, pid)
    told = asked or {}
    gpus = []
    for gpu in machine.gpus:
        reading, ours = readings.get(gpu.uuid), own.get(gpu.id, 0)
        if reading is not None:
            ours = min(held.get(gpu.uuid, ours), reading.used)
            gpus.append(replace(gpu, free=reading.total - reading.used + ours))
        elif gpu.unified and gpu.uuid:  # a card that has the host's memory and no other
            gpus.append(replace(gpu, free=min(gpu.total, memory.free)))
        elif gpu.engine_name in told:
            gpus.append(replace(gpu, free=min(gpu.total, told[gpu.engine_name] + ours)))
        else:
            gpus.append(gpu)
    return replace(machine, gpus=tuple(gpus), host=memory)


def _host(memory: Device, pid: int | None, state: HostState, root: Path) -> Device:
    """Pages of the mapped file count as free, as they do before a load: the system takes them back
    where somebody needs them."""
    _, free = host.within_limits(state.total, state.available, root)
    free, most = free + _own(pid), host.most_of_a_process(state, root)
    if most is not None and not memory.reserve:  # what a process may have, and no more than is left
        free = min(free - host.default_reserve(state.total), most)
    return replace(memory, free=max(0, min(memory.total, free)))


def _own(pid: int | None) -> int:
    """Bytes of RAM that are the process's own, no file's."""
    with suppress(psutil.Error):
        if pid is not None:
            info = psutil.Process(pid).memory_info()
            return max(0, int(info.rss) - int(getattr(info, "shared", 0)))
    return 0
