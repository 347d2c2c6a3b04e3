"""How the memory stands while a model runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tuner.machine.nvidia import Reading


@dataclass(frozen=True, slots=True)
class Vitals:
    """What was read at one moment; None where nobody says."""

    gpus: Mapping[str, Reading]  # by Device.id; those that NVML knows
    ram: tuple[int, int]  # bytes used, in all
    spilled: bool = False  # a GPU holds less than what the engine has put there

    @property
    def vram(self) -> tuple[int, int] | None:
        """Bytes used and in all, over the GPUs."""
        if not self.gpus:
            return None
        return sum(g.used for g in self.gpus.values()), sum(g.total for g in self.gpus.values())

    @property
    def temperature(self) -> int | None:
        """°C of the hottest GPU."""
        return max((g.temperature for g in self.gpus.values() if g.temperature), default=None)

    @property
    def power(self) -> float | None:
        """W of the GPUs together."""
        known = [g.power for g in self.gpus.values() if g.power is not None]
        return sum(known) if known else None
