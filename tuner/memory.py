"""(Model, Settings, Machine) -> Footprint: the bytes that a load takes, per device and kind."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.cache import CacheSizes
from tuner.compute import ComputeSizes
from tuner.footprint import DeviceUse, Footprint
from tuner.machine import Machine
from tuner.model import Model
from tuner.placement import Placement, Weights, alignment, place
from tuner.settings import Settings

_UNFUSED = frozenset({"grok"})  # llama.cpp switches flash attention off (src/llama-context.cpp)


class Estimator:
    """Answers what any settings would take. Built once per model and machine; a call costs
    microseconds, since everything about the layers is summed up beforehand."""

    def __init__(self, model: Model, machine: Machine):
        self.model = model
        self.machine = machine
        self._gpus = machine.gpus
        self._n_gpus = len(machine.gpus)
        self._ids = [d.id for d in machine.devices]
        self._units = [alignment(g.backend) for g in machine.gpus] + [32]
        # a GPU that the engine sees gets its driver context even where no layer goes there
        self._overhead = [g.overhead for g in machine.gpus] + [machine.host.overhead]
        self._weights = Weights(model, machine.gpus, machine.host)
        self._cache = CacheSizes(model.hparams)
        self._compute = ComputeSizes(model, machine, self._cache)
        self._placements: dict[tuple[int, int, tuple[float, ...]], Placement] = {}
        self._sizes: dict[tuple[Placement, bool], tuple[int, ...]] = {}

    def placement(self, settings: Settings) -> Placement:
        """Where these settings put each layer."""
        key = (settings.n_gpu_layers, settings.n_cpu_moe, settings.tensor_split)
        found = self._placements.get(key)
        if found is None:
            n = self.model.n_layer_all
            found = self._placements[key] = place(n, self._n_gpus, settings)
        return found

    def flash(self, settings: Settings) -> bool:
        """Whether attention runs fused, so that V is stored as it comes."""
        return settings.flash_attn != "off" and self.model.architecture not in _UNFUSED

    def footprint(self, settings: Settings) -> Footprint:
        """The bytes of every device, in the machine's order, the host last.

        Weights and compute are what the engine would allocate without mmap; see `placement`.
        """
        where = self.placement(settings)
        flash = self.flash(settings)
        return self._footprint(settings, where, self._compute.sizes(settings, where, flash))

    def without_compute(self, settings: Settings) -> Footprint:
        """The footprint but for the compute buffers, which read 0: a lower bound, quickly."""
        return self._footprint(settings, self.placement(settings), (0,) * len(self._ids))

    def _footprint(self, settings: Settings, where: Placement, compute: Sequence[int]) -> Footprint:
        flash = self.flash(settings)
        key = (where, settings.use_extra_bufts)
        weights = self._sizes.get(key)
        if weights is None:
            weights = self._sizes[key] = self._weights.sizes(where, settings.use_extra_bufts)
        states = self._cache.states
        uses = tuple(
            DeviceUse(
                device=self._ids[i],
                weights=weights[i],
                kv_cache=self._cache.bytes(settings, flash, self._units[i], first, end),
                recurrent_state=states[end] - states[first],
                compute=compute[i],
                overhead=self._overhead[i],
            )
            for i, (first, end) in enumerate(where.spans)
        )
        return Footprint(uses, "computed" if self.model.known else "assumed")
