"""(Model, Settings, Machine) -> Footprint: the bytes that a load takes, per device and kind."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.engine_version import is_other_engine
from tuner.machine.backends import backend
from tuner.machine.machine import Machine
from tuner.memory.compute.buffers import ComputeSizes
from tuner.memory.footprint import DeviceUse, Footprint
from tuner.memory.kv_cache import CacheSizes
from tuner.memory.placement import Placement, Weights, place
from tuner.model.model import Model
from tuner.settings import Settings


class Estimator:
    """Answers what any settings would take. Built once per model and machine; a call costs
    microseconds, since everything about the layers is summed up beforehand."""

    def __init__(self, model: Model, machine: Machine):
        self.model = model
        self.machine = machine
        # The arithmetic is that of one engine and of the architectures which it knows.
        sure = model.known and not is_other_engine(machine.engine_version)
        self._source = "computed" if sure else "assumed"
        self._gpus = machine.gpus
        self._n_gpus = len(machine.gpus)
        self._ids = [d.id for d in machine.devices]
        self._layouts = [backend(d.backend).layout for d in machine.devices]
        # a GPU that the engine sees gets its driver context even where no layer goes there
        self._overhead = [g.overhead for g in machine.gpus] + [machine.host.overhead]
        self._weights = Weights(model, machine.gpus, machine.host)
        self._cache = CacheSizes(model.hparams)
        self._compute = ComputeSizes(model, machine, self._cache)
        self._placements: dict[tuple[int, int, tuple[float, ...]], Placement] = {}
        self._nothing = (0,) * len(self._ids)
        self._distinct: dict[tuple[tuple[int, ...], int], Placement] = {}
        self._sizes: dict[tuple[Placement, bool], tuple[int, ...]] = {}

    def placement(self, settings: Settings) -> Placement:
        """Where these settings put each layer."""
        key = (settings.n_gpu_layers, settings.n_cpu_moe, settings.tensor_split)
        found = self._placements.get(key)
        if found is None:
            new = place(self.model.n_layer_all, self._n_gpus, settings)
            found = self._distinct.setdefault((new.slots, new.n_cpu_moe), new)
            self._placements[key] = found
        return found

    def flash(self, settings: Settings) -> bool:
        """Whether attention runs fused, so that V is stored as it comes."""
        return settings.flash_attn != "off" and not self.model.hparams.row.unfused

    def footprint(self, settings: Settings, *, closely: bool = True) -> Footprint:
        """The bytes of every device, in the machine's order, the host last. Not `closely`: for
        some models quicker, but a few MiB off (see `ComputeSizes.sizes`).

        Weights and compute are what the engine would allocate without mmap; see `placement`.
        """
        where, flash = self.placement(settings), self.flash(settings)
        return self._footprint(
            settings, where, flash, self._compute.sizes(settings, where, flash, closely=closely)
        )

    def exact(self, settings: Settings) -> Footprint:
        """The same by a graph of every layer: what a plan shows. Milliseconds instead of
        microseconds, and where `footprint` is off by a few MiB, it is not."""
        where, flash = self.placement(settings), self.flash(settings)
        return self._footprint(settings, where, flash, self._compute.exact(settings, where, flash))

    def _footprint(
        self, settings: Settings, where: Placement, flash: bool, compute: Sequence[int]
    ) -> Footprint:
        weights = self._weights_at(where, settings)
        states = self._cache.states
        uses = tuple(
            DeviceUse(
                device=self._ids[i],
                weights=weights[i],
                kv_cache=self._cache.bytes(settings, flash, self._layouts[i], first, end),
                recurrent_state=states[end] - states[first],
                compute=compute[i],
                overhead=self._overhead[i],
            )
            for i, (first, end) in enumerate(where.spans)
        )
        return Footprint(uses, self._source)

    def plainly(self) -> None:
        """From now on a replay for every shape: slow, and what the quick way must agree with."""
        self._compute.plainly()

    @property
    def thinnable(self) -> bool:
        """Whether it makes a difference to ask `closely`."""
        return self._compute.thinnable

    def totals(
        self, settings: Settings, *, compute: bool = True, closely: bool = True
    ) -> list[int]:
        """All bytes of every device, in the machine's order; without the compute buffers a lower
        bound, quickly. Not `closely`: see `footprint`."""
        where = self.placement(settings)
        flash = self.flash(settings)
        sizes = self._nothing
        if compute:
            sizes = self._compute.sizes(settings, where, flash, closely=closely)
        weights = self._weights_at(where, settings)
        states, cache = self._cache.states, self._cache.bytes
        return [
            of_weights + scratch + overhead + states[end] - states[first]
            + (cache(settings, flash, layout, first, end) if end else 0)
            for of_weights, scratch, overhead, layout, (first, end) in zip(
                weights, sizes, self._overhead, self._layouts, where.spans, strict=True
            )
        ]  # fmt: skip

    def _weights_at(self, where: Placement, settings: Settings) -> tuple[int, ...]:
        key = (where, settings.use_extra_bufts)
        found = self._sizes.get(key)
        if found is None:
            found = self._sizes[key] = self._weights.sizes(where, settings.use_extra_bufts)
        return found
