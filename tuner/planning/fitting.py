"""What fits: footprints against budgets, splits over GPUs, the longest context with room."""

from __future__ import annotations

import copy
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from operator import le

from tuner.memory.estimator import Compute, Estimator
from tuner.memory.footprint import Footprint
from tuner.planning import splits
from tuner.planning.budgets import Budgets, free_ram
from tuner.planning.fastest_split import Space
from tuner.settings import Settings

_Totals = Callable[[Settings], list[int]]  # bytes of every device
_QUICKEST_FIRST: tuple[Compute, ...] = ("nothing", "least", "search")


class Fitting:
    """One model's footprints on one machine, under budgets."""

    def __init__(self, estimator: Estimator) -> None:
        machine = self.machine = estimator.machine
        self.estimator = estimator
        self.n_items = estimator.model.n_items
        self.budgets = Budgets.of(machine)
        self._free_ram = free_ram(machine)
        self.usual_compute = [0] * len(machine.gpus)  # bytes that a GPU's took where last asked for
        self._splits: dict[tuple[Settings, Budgets], list[tuple[float, ...]]] = {}

    def with_budgets(self, budgets: Budgets) -> Fitting:
        """The same, what it knows so far included, under other budgets."""
        other = copy.copy(self)
        other.budgets = budgets
        return other

    def counting(self, *, checkpoint: bool) -> Fitting:
        """The same with a checkpoint in every footprint, or with none (`Estimator.counting`)."""
        other = copy.copy(self)
        other.estimator = self.estimator.counting(checkpoint=checkpoint)
        other.usual_compute, other._splits = [0] * len(self.usual_compute), {}
        return other

    def forget(self) -> None:
        """Nothing is known any more of any settings, under these budgets and others."""
        self._splits.clear()
        self.usual_compute[:] = [0] * len(self.usual_compute)
        self.estimator.forget()

    def sparing_budgets(
        self, settings: Settings, wished: int, totals: _Totals | None = None
    ) -> Budgets:
        """The budgets for context beyond the `wished` one, in tokens: of the RAM that is left
        beside these settings with that, half is left alone. `totals`: how bytes are counted."""
        count = totals or self.estimator.totals
        used = self.budgets.charged(count(settings.with_context(wished)))
        return self.budgets.at_most(
            [None if free is None else (use + free) // 2
             for use, free in zip(used, self._free_ram, strict=True)]
        )  # fmt: skip

    def fits(self, footprint: Footprint) -> bool:
        """Whether every device and every pool stays within its budget."""
        return self.budgets.hold(footprint.totals)

    def most_context(self, settings: Settings, contexts: list[int]) -> float:
        """No split of these settings can have more context than this many tokens; 0: none fits.

        The GPUs count as one and the compute buffers as nothing. Caches grow in straight lines,
        or, those of a window, less and less, so the line through the ends is never too high.
        """
        low = self._gpus_as_one(self._without_compute(settings.with_context(contexts[0])))
        high = self._gpus_as_one(self._without_compute(settings.with_context(contexts[-1])))
        budgets = self._gpus_as_one(self.budgets.limits)
        if any(u > b for u, b in zip(low, budgets, strict=True)):
            return 0
        span = contexts[-1] - contexts[0]
        return min(
            contexts[0] + span * (budget - a) / (b - a) if b > budget else contexts[-1]
            for a, b, budget in zip(low, high, budgets, strict=True)
        )

    def most_of_splits(self, settings: Settings, contexts: list[int]) -> int:
        """No split of these settings can have more context than this many tokens; 0: none fits.
        As `most_context`, with what a layer takes on each GPU that has any counted too."""

        def lacks(n_ctx: int) -> bool:
            at = settings.with_context(n_ctx)
            used = self._gpus_as_one(self._without_compute(at))
            budgets = [self._room_for_layers(at), *self.budgets.limits[len(self.machine.gpus) :]]
            return any(u > b for u, b in zip(used, budgets, strict=True))

        fit = bisect_left(contexts, True, key=lacks)
        return contexts[fit - 1] if fit else 0

    def _room_for_layers(self, settings: Settings) -> int:
        """Bytes on all GPUs together for anything but compute buffers, at most."""
        spaces, output = self.spaces(settings), self.estimator.output_bytes
        gained = max(min(space.output, output) - space.layers for space in spaces)
        fixed = sum(self.estimator.fixed[: len(spaces)])
        return fixed + sum(space.layers for space in spaces) + max(0, gained)

    def spaces(self, settings: Settings) -> list[Space]:
        """What each of several GPUs has for layers and the output, at most."""
        least = self.estimator.least_with_layers
        # The last GPU may have the output alone, whose buffer is small.
        room = zip(
            self.budgets.limits, self.estimator.fixed[: len(self.machine.gpus)], strict=False
        )
        return [
            Space(max(0, free - least(1, gpu, settings)), free)
            for gpu, free in enumerate(max(0, b - f) for b, f in room)
        ]

    def least_lacking(self, settings: Settings) -> int:
        """Bytes that these settings lack at least, however they are split over the GPUs."""
        used = self._gpus_as_one(self._without_compute(settings))
        budgets = self._gpus_as_one(self.budgets.limits)
        lacking = [max(0, u - b) for u, b in zip(used, budgets, strict=True)]
        return max(lacking) if self.budgets.shared else sum(lacking)

    def _without_compute(self, settings: Settings) -> list[int]:
        return self.budgets.charged(self._totals_without_compute(settings))

    def _gpus_as_one(self, by_limit: Sequence[int]) -> list[int]:
        """Bytes per limit with those of the single GPUs summed up."""
        n_gpus = len(self.machine.gpus)
        return [sum(by_limit[:n_gpus]), *by_limit[n_gpus:]]

    def could_fit(self, settings: Settings, wished: tuple[float, ...] | None) -> bool:
        """Whether these settings with the wished split, or some split, are allowed as far as can be
        told with the least that compute buffers may take."""
        if len(self.machine.gpus) <= 1 or wished is not None or self.budgets.shared:
            return True  # told as quickly by `most_context`
        total = min(settings.n_gpu_layers, self.n_items)
        return splits.could_fit(total, len(self.machine.gpus), _LeastRoom(self, settings))

    def could_hold(self, settings: Settings) -> bool:
        """Whether these settings are allowed but for the compute buffers."""
        return self.budgets.hold(self._totals_without_compute(settings))

    def splits(
        self, settings: Settings, wished: tuple[float, ...] | None
    ) -> list[tuple[float, ...]]:
        """Tensor splits to try for these settings; the wished one alone if there is one."""
        gpus = self.machine.gpus
        if wished is not None:
            return [wished]
        if len(gpus) <= 1:
            return [()]
        key = (settings, self.budgets)
        if key not in self._splits:
            self._splits[key] = self._candidates(settings)
        return self._splits[key]

    def _candidates(self, settings: Settings) -> list[tuple[float, ...]]:
        gpus = self.machine.gpus
        total = min(settings.n_gpu_layers, self.n_items)

        if total == 0:
            return [(1.0, *[0.0] * (len(gpus) - 1))]
        return [tuple(map(float, c)) for c in splits.candidates(total, gpus, _Room(self, settings))]

    def longest(
        self, settings: Settings, contexts: list[int], wished: int, *, exact: bool = False
    ) -> Settings | None:
        """The settings with the longest of `contexts` (ascending) that is allowed, or None; those
        beyond `wished` are measured against `sparing_budgets`. `exact`: by exact footprints."""
        return self._longest(
            settings, contexts, wished, self._exact_totals if exact else self.estimator.totals
        )

    def furthest(self, settings: Settings, contexts: list[int]) -> Settings | None:
        """The settings with the longest of `contexts` (ascending) that the budgets hold by exact
        footprints, whatever that leaves of the RAM; None: not even the first."""
        return _reach(settings, contexts, self.budgets, self._exact_totals)

    def longest_at_most(
        self, settings: Settings, contexts: list[int], wished: int, compute: Compute
    ) -> Settings | None:
        """The same with less for the compute buffers, quickly: `longest` is no longer, and None
        where this is."""
        totals = partial(self.estimator.totals, compute=compute)
        return self._longest(settings, contexts, wished, totals)

    def _longest(
        self, settings: Settings, contexts: list[int], wished: int, totals: _Totals
    ) -> Settings | None:
        found = None
        if contexts[-1] > wished:
            sparing = self.sparing_budgets(settings, wished, totals)
            found = _reach(settings, contexts, sparing, totals)
        if found is None or found.n_ctx < wished:
            up_to_wish = contexts[: bisect_right(contexts, wished)]
            found = _reach(settings, up_to_wish, self.budgets, totals) or found
        return found

    def _totals_without_compute(self, settings: Settings) -> list[int]:
        return self.estimator.totals(settings, "nothing")

    def _exact_totals(self, settings: Settings) -> list[int]:
        return self.estimator.exact(settings).totals

    def balanced(self, settings: Settings, contexts: list[int], wished: int) -> Settings:
        """Moves layers between neighbouring GPUs as long as that makes room for more context."""
        split = settings.tensor_split
        moves = [(a, a + d) for a in range(len(split)) for d in (-1, 1) if 0 <= a + d < len(split)]
        moved = True
        while moved:
            moved = False
            for source, target in moves:
                longer = bisect_right(contexts, settings.n_ctx)
                counts = list(settings.tensor_split)
                if counts[source] < 1 or longer == len(contexts):
                    continue
                counts[source] -= 1
                counts[target] += 1
                trial = settings.with_split(tuple(counts))
                if not self._has_room(trial.with_context(contexts[longer]), wished):
                    continue  # nor has it for anything beyond
                found = self.longest(trial, contexts, wished)
                if found and found.n_ctx > settings.n_ctx:
                    settings, moved = found, True
        return settings

    def _has_room(self, settings: Settings, wished: int) -> bool:
        """Whether these settings are allowed, the bound that is quickly had looked at first."""
        for compute in _QUICKEST_FIRST:
            totals = partial(self.estimator.totals, compute=compute)
            beyond = settings.n_ctx > wished
            budgets = self.sparing_budgets(settings, wished, totals) if beyond else self.budgets
            if not budgets.hold(totals(settings)):
                return False
        return True


class _Room:
    """What the GPUs have left for settings that differ by split alone (`splits.Room`)."""

    def __init__(self, fitting: Fitting, settings: Settings) -> None:
        self._fitting, self._settings = fitting, settings
        self._without: dict[tuple[splits.Split, int], int] = {}

    def without_compute(self, counts: splits.Split, gpu: int) -> int:
        found = self._without.get((counts, gpu))
        if found is None:
            found = self._without[counts, gpu] = self._left(counts, gpu, "nothing")
        return found

    def left(self, counts: splits.Split, gpu: int) -> int:
        left = self._left(counts, gpu, "search")
        self._fitting.usual_compute[gpu] = self.without_compute(counts, gpu) - left
        return left

    def usual_compute(self, gpu: int) -> int:
        return self._fitting.usual_compute[gpu]

    def _left(self, counts: splits.Split, gpu: int, compute: Compute) -> int:
        trial = self._settings.with_split(tuple(map(float, counts)))
        estimator, budgets = self._fitting.estimator, self._fitting.budgets
        if not budgets.shared:  # so that nobody else's compute buffer need be known
            return budgets.limits[gpu] - estimator.total(gpu, trial, compute)
        return budgets.room(estimator.totals(trial, compute), gpu)


class _LeastRoom(_Room):
    """The most that they may have left: what any layers take counted, if there are some."""

    def without_compute(self, counts: splits.Split, gpu: int) -> int:
        left, n = super().without_compute(counts, gpu), counts[gpu] - 1  # one may be the output
        least = self._fitting.estimator.least_with_layers
        return left - least(n, gpu, self._settings) if n > 0 else left


def _reach(
    settings: Settings,
    contexts: list[int],
    budgets: Budgets,
    totals: _Totals,
) -> Settings | None:
    """The settings with the longest of `contexts` that stays within `budgets`, or None.

    Memory grows with the context along straight pieces, so the next guess is where a line
    through the ends of the bracket meets the budget; a guess that fits is followed by its
    neighbour, which closes the bracket when it does not.
    """

    def uses_at(i: int) -> list[int]:
        return budgets.charged(totals(settings.with_context(contexts[i])))

    def within(uses: list[int]) -> bool:
        return all(map(le, uses, budgets.limits))

    if not contexts:
        return None
    low, high = 0, len(contexts) - 1
    top = uses_at(high)
    if within(top):
        return settings.with_context(contexts[high])
    bottom = uses_at(low)
    if not within(bottom):
        return None
    nudge = False
    while high - low > 1:
        share = min(
            (budget - a) / (b - a)
            for a, b, budget in zip(bottom, top, budgets.limits, strict=True)
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
    return settings.with_context(contexts[low])
