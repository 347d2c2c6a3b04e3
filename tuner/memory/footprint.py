"""What a load takes, per device and kind. Sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import attrgetter

from tuner.json_values import Bytes


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """One device's share. The kinds mean what llama.cpp's memory breakdown calls model
    (weights), context (kv_cache + recurrent_state) and compute; overhead is the driver's, growth
    what it takes more with the first long prompt, checkpoint what the host keeps of a cache that
    cannot go back."""

    device: str  # Device.id
    weights: Bytes = 0
    kv_cache: Bytes = 0
    recurrent_state: Bytes = 0
    compute: Bytes = 0
    overhead: Bytes = 0
    growth: Bytes = 0
    checkpoint: Bytes = 0  # one; more are kept where there is room (`planning/kept_states.py`)

    @property
    def total(self) -> int:
        return sum(_sizes(self))

    @property
    def beside(self) -> int:
        """Of that, what a GPU gives beside the engine's buffers."""
        return self.overhead + self.growth


KINDS = tuple(f.name for f in fields(DeviceUse) if f.name != "device")  # of memory
# what the engine reports
ENGINE_KINDS = tuple(kind for kind in KINDS if kind not in ("overhead", "growth", "checkpoint"))

_sizes = attrgetter(*KINDS)


@dataclass(frozen=True, slots=True)
class Footprint:
    """One `DeviceUse` per device of the machine, in the machine's order (the host last)."""

    uses: tuple[DeviceUse, ...]
    source: str = "computed"  # "computed" | "dry run" | "measured" | "assumed"
    # operations of a GPU's (Device.id) layers that the CPU computes, as it has no kernel for them
    on_cpu: tuple[tuple[str, str], ...] = ()

    @property
    def host(self) -> DeviceUse:
        return self.uses[-1]

    @property
    def totals(self) -> list[int]:
        """All bytes of each device."""
        return [use.total for use in self.uses]

    @property
    def total(self) -> int:
        return sum(self.totals)


@dataclass(frozen=True, slots=True)
class Buffer:
    """One buffer that the engine reported: a line of its log or of its memory breakdown."""

    device: str  # the engine's name: "CUDA0", "CPU_Mapped", "CUDA_Host", "RPC0[...]"
    kind: str  # one of ENGINE_KINDS, or "output": the logits that a decode returns
    size: Bytes
