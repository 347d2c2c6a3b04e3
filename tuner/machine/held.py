"""How much of each GPU is in use, and by whom, before a load and after it: what the load took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuner.machine import nvidia
from tuner.machine.machine import Device, Machine


@dataclass(frozen=True, slots=True)
class Held:
    """One GPU at one moment. Sizes in bytes."""

    used: int  # by all programs, or, as some drivers have it, by the one that asked
    ours: int | None = None  # by the model's process, where the driver tells that apart
    by: str = "engine"  # who says so: "NVML" | "engine"

    def more_than(self, before: Held) -> int | None:
        """Bytes that the model's process has taken since, or what all have; None: not known."""
        if self.by != before.by or (self.ours is None) != (before.ours is None):
            return None
        if self.ours is not None and before.ours is not None:
            return self.ours - before.ours
        return self.used - before.used

    def since(self, empty: Held | None) -> int | None:
        """Bytes that the model's process has, told by what was in use before it had any."""
        if self.ours is not None:
            return self.ours
        return self.more_than(empty) if empty else None


def to_be_asked(machine: Machine) -> list[Device]:
    """GPUs of which the engine tells what is in use. NVML does of its cards; what has no memory of
    its own and is not the engine's to count tells nothing: programs come and go in the RAM."""
    return [
        gpu
        for gpu in machine.gpus
        if gpu.engine_name and not gpu.uuid and not (gpu.kind == "rpc" and gpu.unified)
    ]


def by_nvml(machine: Machine, pid: int | None = None, nvml: Any | None = None) -> dict[str, Held]:
    """How NVIDIA cards stand now, by Device.id. `pid`: the process that has the model. `nvml`
    stands in for pynvml."""
    cards = {gpu.uuid: gpu.id for gpu in machine.gpus if gpu.uuid and not gpu.unified}
    library = nvidia.load_nvml() if nvml is None and cards else nvml
    ours = nvidia.held_by(library, list(cards), pid)
    return {
        cards[uuid]: Held(reading.used, ours.get(uuid), "NVML")
        for uuid, reading in nvidia.readings(library, list(cards)).items()
    }


def by_engine(machine: Machine, free: Mapping[str, int]) -> dict[str, Held]:
    """How the others that are `to_be_asked` stand, by Device.id, with so many bytes `free` on each,
    by Device.engine_name."""
    return {
        gpu.id: Held(gpu.total - free[gpu.engine_name])
        for gpu in to_be_asked(machine)
        if gpu.engine_name in free
    }
