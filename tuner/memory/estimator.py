"""(Model, Settings, Machine) -> Footprint: the bytes that a load takes, per device and kind."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

from tuner.engine_version import is_other_engine
from tuner.machine.backends import HOST_LAYOUT, backend
from tuner.machine.machine import Device, Machine
from tuner.memory.beside import growth_on
from tuner.memory.checkpoints import CheckpointSizes
from tuner.memory.compute.between import Peaks
from tuner.memory.compute.buffers import ComputeSizes
from tuner.memory.footprint import KINDS, DeviceUse, Footprint
from tuner.memory.kv_cache import CacheSizes
from tuner.memory.placement import Placement, Weights, place
from tuner.model.model import Model
from tuner.settings import Settings

# How compute buffers are counted: as the search knows them, as no more than that, without a replay,
# or as nothing.
Compute = Literal["search", "least", "nothing"]
_Placed = tuple[list[tuple[int, ...]], list[int]]  # bytes per device: by kind, in all


# What a sum over the devices takes, in steps of replayed tapes.
_ADDING = 16


class Estimator:
    """Answers what any settings would take. Built once per model and machine; a call costs
    microseconds, since everything about the layers is summed up beforehand."""

    def __init__(
        self,
        model: Model,
        machine: Machine,
        extra: Sequence[Footprint] = (),
        *,
        n_outputs_max: int = 1,
        n_rs_seq: int = 0,
        as_dry_run: bool = False,
    ):
        """`extra`: what lives beside the model, each device's bytes by kind (a projector, a draft
        model); every answer has them included. `n_outputs_max`: the rows of logits that a graph
        has room for. A chat needs one; other programs take one per slot, or 0: as many as tokens
        are computed at once. `n_rs_seq`: recurrent states kept beside the last, to go back to, for
        which only the graph has room here; a chat keeps none. `as_dry_run`: what the engine says
        without allocating, which differs where several GPUs hold all layers (`Shape.keeps_norms`).

        Raises ValueError where an extra has bytes on a device that the machine has not.
        """
        for use in (use for footprint in extra for use in footprint.uses):
            if use.total and use.device not in {d.id for d in machine.devices}:
                raise ValueError(f"{use.device} is none of this machine's devices.")
        self.model = model
        self.machine = machine
        # The arithmetic is that of one engine and of the architectures which it knows.
        sure = model.known and not is_other_engine(machine.engine_version)
        self._source = "computed" if sure else "assumed"
        self._gpus = machine.gpus
        self._n_gpus = len(machine.gpus)
        self._ids = [d.id for d in machine.devices]
        self._layouts = [backend(d.backend).layout for d in machine.devices]
        self.extra = tuple(extra)
        self._fixed = [_fixed(device, extra, model) for device in machine.devices]
        self._more: dict[int, tuple[int, ...]] = {}  # growth by n_ubatch, beyond the least
        self._weights = Weights(model, machine.gpus, machine.host)
        self.cache = CacheSizes(model.hparams)
        self._checkpoints = CheckpointSizes(model.hparams)
        self.counts_checkpoint = self._checkpoints.needed
        self.compute = ComputeSizes(
            model,
            machine,
            self.cache,
            n_outputs_max=n_outputs_max,
            n_rs_seq=n_rs_seq,
            as_dry_run=as_dry_run,
        )
        self._placements: dict[tuple[int, int, tuple[float, ...]], Placement] = {}
        self._nothing = (0,) * len(self._ids)
        self._distinct: dict[tuple[tuple[int, ...], int], Placement] = {}
        self._sizes: dict[tuple[Placement, bool], _Placed] = {}
        self._held: dict[int, list[int]] = {}

    def counting(self, *, checkpoint: bool) -> Estimator:
        """The same, what it knows included, with one checkpoint in every answer, if the model needs
        any, or with none."""
        other = copy.copy(self)
        other.counts_checkpoint = checkpoint and self._checkpoints.needed
        return other

    @property
    def lacks_checkpoint(self) -> bool:
        """Whether the model needs one that is not counted."""
        return self._checkpoints.needed and not self.counts_checkpoint

    def checkpoint(self, settings: Settings) -> int:
        """Bytes of one checkpoint, be it counted or not."""
        return self._checkpoints.bytes(settings)

    def forget(self) -> None:
        """Nothing is known any more of any settings; answers stay the same."""
        self._placements.clear()
        self._distinct.clear()
        self._sizes.clear()
        self.compute.forget()

    @property
    def fixed(self) -> list[int]:
        """Bytes per device that no settings change: drivers, and what lives beside the model."""
        return [sum(kinds) for kinds in self._fixed]

    @property
    def output_bytes(self) -> int:
        """Bytes of the output's weights on a GPU."""
        only = Settings(1, n_gpu_layers=1)
        return self._placed(self.placement(only), only)[1][0] - self.fixed[0]

    @property
    def compute_beside(self) -> list[int]:
        """Bytes per device of the compute buffers of what lives beside the model."""
        return [kinds[KINDS.index("compute")] for kinds in self._fixed]

    @property
    def needs_every_layer(self) -> bool:
        """Whether `footprint` may be less than `exact`, by more than holes that fall otherwise."""
        return self.compute.needs_every_layer

    def placement(self, settings: Settings) -> Placement:
        """Where these settings put each layer."""
        key = (settings.n_gpu_layers, settings.n_cpu_moe, settings.tensor_split)
        found = self._placements.get(key)
        if found is None:
            new = place(self.model.n_layer_all, self._n_gpus, settings)
            self.compute.replays.work.steps += self.model.n_layer_all
            found = self._distinct.setdefault((new.ends, new.n_cpu_moe), new)
            self._placements[key] = found
        return found

    def flash(self, settings: Settings) -> bool:
        """Whether attention runs fused, so that V is stored as it comes."""
        return settings.flash_attn != "off" and not self.model.hparams.row.unfused

    def footprint(self, settings: Settings) -> Footprint:
        """What a search goes by, microseconds a call: the bytes of every device, in the machine's
        order, the host last (`ComputeSizes.search`).

        Weights and compute are what the engine would allocate without mmap; see `placement`.
        """
        where, flash = self.placement(settings), self.flash(settings)
        return self._footprint(settings, where, flash, self.compute.search(settings, where, flash))

    def exact(self, settings: Settings) -> Footprint:
        """What a plan shows, milliseconds a call (`ComputeSizes.exact`)."""
        where, flash = self.placement(settings), self.flash(settings)
        return self._footprint(settings, where, flash, self.compute.exact(settings, where, flash))

    def totals(self, settings: Settings, compute: Compute = "search") -> list[int]:
        """All bytes of every device as in `footprint`, or a lower bound, the quicker the lower."""
        self.compute.replays.work.steps += _ADDING
        where, flash = self.placement(settings), self.flash(settings)
        sizes = self._nothing
        if compute == "search":
            sizes = self.compute.search(settings, where, flash).sizes
        elif compute == "least":
            sizes = self.compute.least(settings, where, flash).sizes
        cache, _, held = self.cache.bytes, *self._placed(where, settings)
        found = [
            size + scratch + more + (cache(settings, flash, layout, first, end) if end else 0)
            for size, scratch, more, layout, (first, end) in zip(
                held, sizes, self._growing(settings), self._layouts, where.spans, strict=True
            )
        ]
        if self.counts_checkpoint:
            found[-1] += self._checkpoints.bytes(settings)
        return found

    def least_with_layers(self, n: int, gpu: int, settings: Settings) -> int:
        """Bytes of compute buffers that one of several GPUs has at least where it has `n` layers,
        whichever."""
        return self.compute.least_with_layers(n, gpu, settings, self.flash(settings))

    def held(self, settings: Settings) -> list[int]:
        """Bytes that the first 0, 1, 2, ... items (layers, the output) take on any GPU at least,
        compute buffers and what is `fixed` left out."""
        self.compute.replays.work.steps += _ADDING
        weights = self._held.get(settings.n_cpu_moe)
        if weights is None:
            weights = self._held[settings.n_cpu_moe] = self._weights.prefix(settings.n_cpu_moe)
        cache = self.cache.prefix(settings, self.flash(settings), HOST_LAYOUT)
        both = [a + b for a, b in zip(cache, self.cache.states, strict=True)]
        return [a + b for a, b in zip(weights, (*both, both[-1]), strict=True)]

    def total(self, device: int, settings: Settings, compute: Compute = "search") -> int:
        """The same of one device alone, in the machine's order."""
        self.compute.replays.work.steps += _ADDING
        where, flash = self.placement(settings), self.flash(settings)
        first, end = where.spans[device]
        total = self._placed(where, settings)[1][device] + self._growing(settings)[device]
        if device == self._n_gpus and self.counts_checkpoint:
            total += self._checkpoints.bytes(settings)
        if end:
            total += self.cache.bytes(settings, flash, self._layouts[device], first, end)
        if compute == "search":
            total += self.compute.search_on(device, settings, where, flash)
        elif compute == "least":
            total += self.compute.least_on(device, settings, where, flash)
        return total

    def _footprint(
        self, settings: Settings, where: Placement, flash: bool, peaks: Peaks
    ) -> Footprint:
        by_kind = self._by_kind(settings, where, flash, peaks.sizes)
        uses = [DeviceUse(id_, *kinds) for id_, kinds in zip(self._ids, by_kind, strict=True)]
        source = "assumed" if peaks.guessed else self._source
        on_cpu = tuple((self._ids[gpu - 1], op) for gpu, op in peaks.on_cpu)
        return Footprint(tuple(uses), source, on_cpu)

    def _by_kind(
        self, settings: Settings, where: Placement, flash: bool, compute: Sequence[int]
    ) -> list[tuple[int, ...]]:
        """The bytes of each device, in the order of `KINDS`."""
        cache = self.cache.bytes
        placed, growing = self._placed(where, settings)[0], self._growing(settings)
        rows = zip(placed, growing, compute, self._layouts, where.spans, strict=True)
        *gpus, host = [
            (
                weights,
                (cache(settings, flash, layout, first, end) if end else 0) + kv_cache,
                state,
                scratch + more,
                overhead,
                growth + grown,
                checkpoint,
            )
            for (
                (weights, kv_cache, state, more, overhead, growth, checkpoint),
                grown,
                scratch,
                layout,
                (first, end),
            ) in rows
        ]
        if self.counts_checkpoint:
            host = (*host[:-1], host[-1] + self._checkpoints.bytes(settings))
        return [*gpus, host]

    def _growing(self, settings: Settings) -> tuple[int, ...]:
        """Bytes of each device's growth beyond those that are `fixed`."""
        n_ubatch = settings.n_ubatch
        found = self._more.get(n_ubatch)
        if found is None:
            found = self._more[n_ubatch] = tuple(
                growth_on(d, self.model, n_ubatch).usual - growth_on(d, self.model, 1).usual
                for d in self.machine.devices
            )
        return found

    def _placed(self, where: Placement, settings: Settings) -> _Placed:
        """The bytes of each device that a placement decides alone, by kind and all together."""
        key = (where, settings.use_extra_bufts)
        found = self._sizes.get(key)
        if found is None:
            weights = self._weights.sizes(where, settings.use_extra_bufts)
            states = self.cache.states
            by_kind = [
                (fixed[0] + size, fixed[1], fixed[2] + states[end] - states[first], *fixed[3:])
                for fixed, size, (first, end) in zip(self._fixed, weights, where.spans, strict=True)
            ]
            found = self._sizes[key] = by_kind, [sum(kinds) for kinds in by_kind]
        return found


def _fixed(device: Device, extra: Sequence[Footprint], model: Model) -> tuple[int, ...]:
    """Bytes by kind that no settings change. A GPU that the engine sees gets its driver context
    even where no layer goes there."""
    uses = [use for footprint in extra for use in footprint.uses if use.device == device.id]
    least = growth_on(device, model, 1).usual
    uses.append(DeviceUse(device.id, overhead=device.overhead, growth=least))
    return tuple(sum(getattr(use, kind) for use in uses) for kind in KINDS)
