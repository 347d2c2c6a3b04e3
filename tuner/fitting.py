"""What fits: footprints against budgets, splits over GPUs, the longest context with room."""

from __future__ import annotations

import copy
from bisect import bisect_right
from dataclasses import replace

from tuner import splits
from tuner.footprint import Footprint
from tuner.machine import Machine
from tuner.memory import Estimator
from tuner.model import Model
from tuner.settings import Settings
from tuner.speed import SpeedModel


class Fitting:
    """One model's footprints on one machine, under budgets (bytes per device, the host last)."""

    def __init__(self, model: Model, machine: Machine) -> None:
        self.machine = machine
        self.estimator = Estimator(model, machine)
        self.n_items = model.n_layer_all + 1
        self.budgets = tuple(d.budget for d in machine.devices)
        self._seen: dict[Settings, Footprint] = {}

    def within(self, budgets: tuple[int, ...]) -> Fitting:
        """The same, footprints known so far included, under other budgets."""
        other = copy.copy(self)
        other.budgets = budgets
        return other

    @property
    def modest(self) -> tuple[int, ...]:
        """The budgets for context beyond the aim: half of the RAM that is free is left alone."""
        return (*self.budgets[:-1], min(self.budgets[-1], self.machine.host.free // 2))

    def footprint(self, settings: Settings) -> Footprint:
        """The estimator's answer, asked once for each settings."""
        found = self._seen.get(settings)
        if found is None:
            found = self._seen[settings] = self.estimator.footprint(settings)
        return found

    def fits(self, footprint: Footprint, *, modestly: bool = False) -> bool:
        """Whether every device stays within its budget."""
        budgets = self.modest if modestly else self.budgets
        return all(u.total <= b for u, b in zip(footprint.uses, budgets, strict=True))

    def splits(
        self, settings: Settings, wished: tuple[float, ...] | None
    ) -> list[tuple[float, ...]]:
        """Tensor splits to try for these settings; the wished one alone if there is one."""
        gpus = self.machine.gpus
        if wished is not None:
            return [wished]
        if len(gpus) <= 1:
            return [()]
        total = min(settings.n_gpu_layers, self.n_items)

        def fits_on(counts: splits.Counts, g: int) -> bool:
            trial = replace(settings, tensor_split=tuple(map(float, counts)))
            return self.footprint(trial).uses[g].total <= self.budgets[g]

        if total == 0:
            return [(1.0, *[0.0] * (len(gpus) - 1))]
        return [tuple(map(float, c)) for c in splits.candidates(total, gpus, fits_on)]

    def longest(self, settings: Settings, contexts: list[int], aim: int) -> Settings | None:
        """The settings with the longest of `contexts` (ascending) that is allowed, or None; those
        beyond `aim` are measured against `modest`."""
        found = None
        if contexts[-1] > aim:
            found = self._reach(settings, contexts, self.modest)
        if found is None or found.n_ctx < aim:
            up_to_aim = contexts[: bisect_right(contexts, aim)]
            found = self._reach(settings, up_to_aim, self.budgets) or found
        return found

    def _reach(
        self, settings: Settings, contexts: list[int], budgets: tuple[int, ...]
    ) -> Settings | None:
        """The settings with the longest of `contexts` that stays within `budgets`, or None.

        Memory grows with the context along straight pieces, so the next guess is where a line
        through the ends of the bracket meets the budget; a guess that fits is followed by its
        neighbour, which closes the bracket when it does not.
        """

        def uses_at(i: int) -> list[int]:
            footprint = self.footprint(replace(settings, n_ctx=contexts[i]))
            return [u.total for u in footprint.uses]

        def within(uses: list[int]) -> bool:
            return all(u <= b for u, b in zip(uses, budgets, strict=True))

        if not contexts:
            return None
        low, high = 0, len(contexts) - 1
        top = uses_at(high)
        if within(top):
            return replace(settings, n_ctx=contexts[high])
        bottom = uses_at(low)
        if not within(bottom):
            return None
        nudge = False
        while high - low > 1:
            share = min(
                (budget - a) / (b - a)
                for a, b, budget in zip(bottom, top, budgets, strict=True)
                if b > budget
            )
            reach = contexts[low] + share * (contexts[high] - contexts[low])
            guess = low + 1 if nudge else bisect_right(contexts, reach) - 1
            guess = min(max(guess, low + 1), high - 1)
            uses = uses_at(guess)
            if within(uses):
                low, bottom, nudge = guess, uses, not nudge
            else:
                high, top, nudge = guess, uses, False
        return replace(settings, n_ctx=contexts[low])

    def balanced(self, settings: Settings, contexts: list[int], aim: int) -> Settings:
        """Moves layers between neighbouring GPUs as long as that makes room for more context."""
        split = settings.tensor_split
        moves = [(a, a + d) for a in range(len(split)) for d in (-1, 1) if 0 <= a + d < len(split)]
        moved = settings.n_ctx < contexts[-1]
        while moved:
            moved = False
            for source, target in moves:
                counts = list(settings.tensor_split)
                if counts[source] < 1:
                    continue
                counts[source] -= 1
                counts[target] += 1
                trial = self.longest(replace(settings, tensor_split=tuple(counts)), contexts, aim)
                if trial and trial.n_ctx > settings.n_ctx:
                    settings, moved = trial, True
        return settings


class Feasible:
    """Tells which placements may fit, and which are hopeless whatever else is chosen."""

    def __init__(
        self,
        fitting: Fitting,
        speed: SpeedModel,
        thrifty: Settings,
        wished_split: tuple[float, ...] | None,
    ) -> None:
        """`thrifty`: the settings with the smallest cache and batch that are allowed."""
        self._fitting, self._speed, self._thrifty = fitting, speed, thrifty
        self._wished_split = wished_split
        gpus = fitting.machine.gpus
        budgets = fitting.budgets[: len(gpus)]
        self._room = sum(b - gpu.overhead for b, gpu in zip(budgets, gpus, strict=True))
        # Per n_gpu_layers, the n_cpu_moe up to which the one GPU is known to be too small.
        self._too_small = [-1] * (fitting.n_items + 1)

    def somehow(self, k: int, m: int) -> bool:
        """Whether this n_gpu_layers and n_cpu_moe may fit."""
        fitting = self._fitting
        if m <= self._too_small[k] or self._speed.weights_offloaded(k, m) > self._room:
            return False
        trial = replace(self._thrifty, n_gpu_layers=k, n_cpu_moe=m)
        splits = fitting.splits(trial, self._wished_split)
        if any(self._least(replace(trial, tensor_split=split)) for split in splits):
            return True
        if len(fitting.machine.gpus) == 1:
            use = fitting.footprint(trial).uses[0]
            if use.total - use.compute > fitting.budgets[0]:
                self._too_small[k:] = [max(m, known) for known in self._too_small[k:]]
        return False

    def _least(self, thrifty: Settings) -> bool:
        """Whether the least that any cache types can take is within the budgets.

        A cache that is not f16 may need a copy in f16 while it is read, so the smallest cache
        does not have the smallest compute buffer.
        """
        fitting = self._fitting
        small = fitting.footprint(thrifty)
        f16 = fitting.footprint(replace(thrifty, type_k="f16", type_v="f16"))
        return all(
            s.total - s.compute + min(s.compute, f.compute) <= budget
            for s, f, budget in zip(small.uses, f16.uses, fitting.budgets, strict=True)
        )
