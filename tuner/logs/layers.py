"""Which layers a logged load had on which device, where the log does not say it.

Then it is the split whose caches and weights are closest to the logged ones: sums over layers say
more than a rule would that the program may not have gone by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from tuner.machine.backends import backend
from tuner.machine.machine import Machine
from tuner.memory.kv_cache import CacheSizes
from tuner.memory.placement import Weights, place
from tuner.model.model import Model
from tuner.settings import Settings

_NOTABLE = 0.03  # of the weights on GPUs, from which on experts in RAM are thought of

Sizes = tuple[float, float]  # bytes of caches and states, bytes of weights
Logged = tuple[float | None, float | None]  # the same; None: the log does not say it


class Layers:
    """Layers of a model over a machine's GPUs, held against what each of them logged."""

    def __init__(
        self,
        model: Model,
        machine: Machine,
        logged: Sequence[Logged],
        times: tuple[int, int],
        *,
        flash: bool,
    ):
        """`logged`: of each GPU. `times`: how often the log's program keeps a cache and a
        state."""
        self._model, self._machine, self._logged, self._times = model, machine, logged, times
        self._flash = flash
        self._cache = CacheSizes(model.hparams)
        self._weights = Weights(model, machine.gpus, machine.host)
        self._layouts = [backend(gpu.backend).layout for gpu in machine.gpus]

    def closest(
        self, settings: Settings, *, counts: Sequence[int] | None, n_gpu_layers: int | None
    ) -> Settings:
        """The settings with the layers where they are closest to what was logged; `counts`: how
        many slots each GPU has, `n_gpu_layers`: how many all have, where that is known."""
        if counts is not None:
            return self._with(settings, counts)
        most = self._model.n_items
        numbers = range(most + 1) if n_gpu_layers is None else (min(n_gpu_layers, most),)
        return min((self._split(settings, n) for n in numbers), key=self._off)

    def with_experts(self, settings: Settings) -> Settings:
        """The same with the experts of so many layers in RAM that the GPUs' weights are closest
        to what was logged; none, if that is close."""
        logged = sum(weights or 0 for _, weights in self._logged)
        if not self._model.moe_layers or self._weights_off(settings) <= _NOTABLE * logged:
            return settings
        tried = (
            replace(settings, n_cpu_moe=n) for n in (0, *(il + 1 for il in self._model.moe_layers))
        )
        return min(tried, key=self._weights_off)

    def _split(self, settings: Settings, n: int) -> Settings:
        """`n` slots over the GPUs, from the first GPU on the number that is closest."""
        counts: list[int] = []
        for gpu in range(len(self._machine.gpus) - 1):
            left = n - sum(counts)
            tried = [self._with(settings, self._counts(counts, c, left)) for c in range(left + 1)]
            best = min(range(left + 1), key=lambda c: _distance(*self._on(tried[c], gpu)))
            counts.append(best)
        return self._with(settings, [*counts, n - sum(counts)])

    def _counts(self, before: Sequence[int], here: int, left: int) -> list[int]:
        behind = len(self._machine.gpus) - len(before) - 1
        return [*before, here, *[0] * (behind - 1), left - here]

    def _with(self, settings: Settings, counts: Sequence[int]) -> Settings:
        several = len(self._machine.gpus) > 1 and any(counts)
        split = tuple(map(float, counts)) if several else ()
        return replace(settings, n_gpu_layers=sum(counts), tensor_split=split)

    def _on(self, settings: Settings, gpu: int) -> tuple[Sizes, Logged]:
        """What a GPU has with these settings, and what it logged."""
        n_gpus = len(self._machine.gpus)
        where = place(self._model.n_layer_all, n_gpus, settings)
        first, end = where.spans[gpu]
        layout = self._layouts[gpu]
        cache = self._cache.bytes(settings, self._flash, layout, first, end) if end else 0
        states = self._cache.states[end] - self._cache.states[first]
        of_cache, of_states = self._times
        held = cache * of_cache + states * of_states
        return (held, self._weights.sizes(where, False)[gpu]), self._logged[gpu]

    def _off(self, settings: Settings) -> Sizes:
        """How far all GPUs are from what was logged."""
        found = [_distance(*self._on(settings, gpu)) for gpu in range(len(self._machine.gpus))]
        *_, total = accumulate(found, lambda a, b: (a[0] + b[0], a[1] + b[1]), initial=(0.0, 0.0))
        return total

    def _weights_off(self, settings: Settings) -> float:
        return self._off(settings)[1]


def _distance(predicted: Sizes, logged: Logged) -> Sizes:
    """Caches first: they do not depend on how a file is quantized."""
    cache, weights = (
        0.0 if said is None else abs(guess - said)
        for guess, said in zip(predicted, logged, strict=True)
    )
    return cache, weights
