"""What a plan may use: bytes per device, and per pool of memory that several devices share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import le

from tuner.machine.machine import Machine
from tuner.memory.footprint import Footprint


@dataclass(frozen=True, slots=True)
class Budgets:
    """Bytes for each of `Machine.limits`: first every device, the host last of them, then every
    pool of several devices. A machine of cards has no such pool, and pays nothing for them."""

    limits: tuple[int, ...]
    shared: tuple[tuple[int, ...], ...] = ()  # the devices of each such pool

    @classmethod
    def of(cls, machine: Machine) -> Budgets:
        limits = machine.limits
        shared = limits[len(machine.devices) :]
        return cls(tuple(x.budget for x in limits), tuple(x.devices for x in shared))

    def charged(self, totals: list[int]) -> list[int]:
        """Bytes per device as bytes per limit."""
        if not self.shared:
            return totals
        return totals + [sum(totals[i] for i in devices) for devices in self.shared]

    def hold(self, totals: list[int]) -> bool:
        """Whether so many bytes per device are within every limit."""
        return all(map(le, self.charged(totals), self.limits))

    def short(self, totals: list[int]) -> list[int]:
        """Bytes that each limit lacks for so many bytes per device."""
        used = self.charged(totals)
        return [max(0, u - b) for u, b in zip(used, self.limits, strict=True)]

    def missing(self, totals: list[int]) -> list[int]:
        """The same, no byte of it twice: what a pool and its devices lack is counted where more
        of it is lacking."""
        short = self.short(totals)
        for place, devices in enumerate(self.shared, len(totals)):
            if short[place] < sum(short[i] for i in devices):
                short[place] = 0
            else:
                for i in devices:
                    short[i] = 0
        return short

    def room(self, totals: list[int], device: int) -> int:
        """Bytes that one device has left beside so many per device; negative: it lacks them."""
        left = self.limits[device] - totals[device]
        pools = self.limits[len(totals) :]
        for devices, pool in zip(self.shared, pools, strict=True):
            if device in devices:
                left = min(left, pool - sum(totals[i] for i in devices))
        return left

    def less(self, by: Sequence[int]) -> Budgets:
        """With so many bytes less for each limit."""
        return self._with(b - x for b, x in zip(self.limits, by, strict=True))

    def at_most(self, caps: Sequence[int | None]) -> Budgets:
        """With no more than so many bytes for each limit; None leaves one as it is."""
        pairs = zip(self.limits, caps, strict=True)
        return self._with(b if cap is None else min(b, cap) for b, cap in pairs)

    def tighter(
        self, share: float, share_in_pools: float, failed: Footprint, n_gpus: int
    ) -> Budgets:
        """With a share of what the GPUs have, where a load that took `failed` ran out of memory.

        Never more than what just failed: a plan far under budget must shrink too. A GPU that was
        left empty may help out; what its driver takes cannot shrink. Nor do weights in a pool
        when they move within it, so there `share_in_pools` is one of what is left beside them.
        """
        uses = failed.uses
        limits = list(self.limits)
        for i, use in enumerate(uses[:n_gpus]):
            limits[i] = int(limits[i] * share)
            if use.weights:
                limits[i] = min(limits[i], int(use.total * share))
        for i, devices in enumerate(self.shared, len(uses)):
            kept = sum(uses[d].weights + uses[d].beside + uses[d].checkpoint for d in devices)
            used = sum(uses[d].total for d in devices)
            limits[i] = min(limits[i], kept + int((used - kept) * share_in_pools))
        return self._with(limits)

    def tighter_in_ram(self, share: float, failed: Footprint, n_gpus: int) -> Budgets:
        """With a share of what may shrink of the host's part, where a load that took `failed` ran
        out of RAM. Without a GPU to move to its weights stay what they are."""
        host = failed.host
        fixed = 0 if n_gpus else host.weights
        limits = list(self.limits)
        limits[n_gpus] = min(limits[n_gpus], fixed + int((host.total - fixed) * share))
        return self._with(limits)

    def grown(self, size: int, n_gpus: int) -> Budgets:
        """With so many bytes more on every GPU, and in the RAM of those who draw from it; without
        GPUs on the host."""
        with_host = not n_gpus or bool(self.shared)
        return self._with(
            b if i == n_gpus and not with_host else b + size for i, b in enumerate(self.limits)
        )

    def _with(self, limits: Iterable[int]) -> Budgets:
        return Budgets(tuple(limits), self.shared)


def in_ram(machine: Machine) -> tuple[bool, ...]:
    """Whether each limit is one of RAM."""
    host = len(machine.gpus)
    return tuple(host in limit.devices for limit in machine.limits)


def free_ram(machine: Machine) -> tuple[int | None, ...]:
    """Bytes for each limit in RAM that are free there, whatever is to be left; None for the memory
    of cards."""
    there = zip(machine.limits, in_ram(machine), strict=True)
    return tuple(limit.free if ram else None for limit, ram in there)
