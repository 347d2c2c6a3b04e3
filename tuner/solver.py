"""Solves for the best way to load a model: cache types, context, layers, batch and split at once.

The search is exact over its grid. Offloads (n_gpu_layers, n_cpu_moe) are visited from the
fastest down; one whose speed, with everything else at its best, cannot beat the best score found
ends the search. Within a placement each pair of cache types gets the longest context that fits,
found by bisection because memory only grows with it.
"""

from __future__ import annotations

import copy
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush
from math import ceil, log

from tuner import constraints, splits
from tuner.cache_types import CACHE_TYPES
from tuner.footprint import Footprint
from tuner.machine import Machine
from tuner.memory import Estimator
from tuner.model import Model
from tuner.objective import DEFAULT_CLASS, FLOOR, Objective, prior_loss, slow_on_cuda
from tuner.plan import Candidate, Quality, Wishes
from tuner.settings import Settings
from tuner.speed import Calibration, Offload, SpeedModel

CHOSEN_TYPES = ("f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
UBATCHES = (512, 256, 128)
CONTEXT_STEP = 256  # llama.cpp pads n_ctx to this (llama-context.cpp)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What can be chosen without regard to the placement, and its log price."""

    price: float
    type_k: str
    type_v: str
    n_ubatch: int
    smaller: Recipe | None = None  # the same with the next smaller n_ubatch


@dataclass(frozen=True, slots=True, order=True)
class _Option:
    """A part of the grid; no plan in it scores more than `-cost`."""

    cost: float
    n_gpu_layers: int = field(compare=False)
    n_cpu_moe: int = field(compare=False)
    recipe: Recipe | None = field(default=None, compare=False)
    below_aim: bool = field(default=False, compare=False)


class Solver:
    """Answers wishes for one model on one machine; the tables behind it are built once.

    Raises nothing of its own: `best` returns None where nothing fits.
    """

    def __init__(
        self,
        model: Model,
        machine: Machine,
        calibration: Calibration | None = None,
        estimator: Estimator | None = None,
    ) -> None:
        self.model, self.machine = model, machine
        self.estimator = estimator or Estimator(model, machine)
        self.speed = SpeedModel(model, machine, calibration)
        self.budgets = tuple(d.budget for d in machine.devices)
        self.n_items = model.n_layer_all + 1
        self.cuda = any(g.backend == "CUDA" for g in machine.gpus)
        self._seen: dict[Settings, Footprint] = {}
        self._answers: dict[tuple[Wishes, tuple[int, ...]], Candidate | None] = {}
        self._ranked: dict[tuple[int, int], float] = {}

    def within(self, budgets: tuple[int, ...]) -> Solver:
        """The same solver under other budgets (bytes per device, the host last)."""
        other = copy.copy(self)
        other.budgets = budgets
        return other

    # ------------------------------------------------------------ one plan

    def best(self, wishes: Wishes) -> Candidate | None:
        """The best plan that fits and keeps every wish, or None."""
        key = (wishes, self.budgets)
        if key not in self._answers:
            self._answers[key] = self._search(wishes)
        return self._answers[key]

    def _search(self, wishes: Wishes) -> Candidate | None:
        """Best first: whatever could still be best is looked at next, in ever finer parts (a
        placement, a recipe there with the wished context, the same with less), until what was
        found is as good as the best that is left could be."""
        objective = self.objective(wishes)
        contexts = self.contexts(wishes)
        at_aim = bisect_left(contexts, objective.aim)
        recipes = {whole: self._recipes(wishes, objective, whole) for whole in (True, False)}
        if not recipes[False]:
            return None
        thrifty = min(recipes[False], key=_thrift)
        while thrifty.smaller:
            thrifty = thrifty.smaller
        fits = _Fits(self, wishes, self._settings(wishes, contexts[0], thrifty))
        queue = [
            _Option(log(seconds) - objective.context_best, k, m)
            for seconds, k, m in self._placements(wishes)
        ]
        heapify(queue)
        best: Candidate | None = None
        while queue:
            option = heappop(queue)
            if best and -option.cost <= best.score:
                break
            k, m, recipe = option.n_gpu_layers, option.n_cpu_moe, option.recipe
            if recipe is None:
                if fits.somehow(k, m):
                    for first in recipes[self._whole(k, m)]:
                        heappush(
                            queue, replace(option, cost=option.cost + first.price, recipe=first)
                        )
                continue
            base = replace(self._settings(wishes, contexts[0], recipe), n_gpu_layers=k, n_cpu_moe=m)
            allowed = contexts[:at_aim] if option.below_aim else contexts[at_aim:]
            found = self._longest_of_splits(base, wishes, allowed, objective)
            if found and (best is None or _order(found) > _order(best)):
                best = found
            if option.below_aim:
                continue
            if not found and at_aim:
                less = objective.context_best - objective.context(contexts[at_aim - 1])
                heappush(queue, replace(option, cost=option.cost + less, below_aim=True))
            if recipe.smaller:
                cost = option.cost - recipe.price + recipe.smaller.price
                if found:
                    gain = self._gain_of_no_compute(found, contexts, objective)
                    price = recipe.smaller.price - recipe.price
                    cost = max(cost, price - found.score - gain)
                heappush(queue, replace(option, cost=cost, recipe=recipe.smaller))
        return best

    def _longest_of_splits(
        self, base: Settings, wishes: Wishes, contexts: list[int], objective: Objective
    ) -> Candidate | None:
        """The best split of these settings, each with the longest context that it allows."""
        best: Candidate | None = None
        for split in self.splits(base, wishes):
            found = self._longest(replace(base, tensor_split=split), contexts, objective.aim)
            if found is None:
                continue
            if wishes.tensor_split is None:
                found = self._balanced(found, contexts, objective.aim)
            candidate = self.weigh(found, objective)
            if best is None or _order(candidate) > _order(best):
                best = candidate
        return best

    def _gain_of_no_compute(self, c: Candidate, contexts: list[int], objective: Objective) -> float:
        """Log worth of the context that all of a plan's compute buffers could hold instead: no
        smaller n_ubatch can gain more."""
        n_ctx = c.settings.n_ctx
        if n_ctx >= contexts[-1]:
            return 0.0
        longer = self.footprint(replace(c.settings, n_ctx=contexts[-1]))
        more = 0.0
        for now, then in zip(c.footprint.uses, longer.uses, strict=True):
            growth = (then.kv_cache - now.kv_cache) / (contexts[-1] - n_ctx)
            if growth > 0:
                more = max(more, (now.compute + then.compute) / growth)
        reach = min(n_ctx + ceil(more) + CONTEXT_STEP, contexts[-1])
        return objective.context(reach) - objective.context(n_ctx)

    def weigh(self, settings: Settings, objective: Objective) -> Candidate:
        """Footprint, speed, quality and score of any settings, whether they fit or not."""
        footprint = self.footprint(settings)
        offload = self.offload(settings)
        slow = self._slow(settings)
        speed = self.speed.predict(settings, offload, slow_pair=slow)
        whole = self._whole(settings.n_gpu_layers, settings.n_cpu_moe)
        score = (
            -log(self.speed.decode_seconds(offload))
            + objective.context(settings.n_ctx)
            - objective.cache(settings.type_k, settings.type_v, whole=whole, slow=slow)
            - objective.ubatch(settings.n_ubatch)
        )
        quality = Quality(prior_loss(settings.type_k, settings.type_v))
        return Candidate(settings, footprint, speed, quality, self.fits(footprint), score)

    def calculate(self, wishes: Wishes) -> Candidate:
        """The footprint of wishes that leave nothing to decide, whether it fits or not."""
        n_ctx = wishes.n_ctx or self.contexts(wishes)[0]
        recipe = Recipe(
            0.0, wishes.type_k or "f16", wishes.type_v or "f16", wishes.n_ubatch or UBATCHES[0]
        )
        base = replace(
            self._settings(wishes, n_ctx, recipe),
            n_gpu_layers=wishes.n_gpu_layers or 0,
            n_cpu_moe=wishes.n_cpu_moe or 0,
        )
        split = self.splits(base, wishes)[0]
        return self.weigh(replace(base, tensor_split=split), self.objective(wishes))

    def footprint(self, settings: Settings) -> Footprint:
        """The estimator's answer, asked once for each settings."""
        found = self._seen.get(settings)
        if found is None:
            found = self._seen[settings] = self.estimator.footprint(settings)
        return found

    def fits(self, footprint: Footprint) -> bool:
        return all(u.total <= b for u, b in zip(footprint.uses, self.budgets, strict=True))

    def allows(self, candidate: Candidate, objective: Objective) -> bool:
        """Whether a plan may be chosen: it fits, and context that nobody asked for takes no more
        than half of the RAM that is free, which others live in too."""
        beyond = candidate.settings.n_ctx > objective.aim
        budgets = self._modest if beyond else self.budgets
        uses = candidate.footprint.uses
        return all(u.total <= b for u, b in zip(uses, budgets, strict=True))

    @property
    def _modest(self) -> tuple[int, ...]:
        """The budgets for context beyond the aim."""
        return (*self.budgets[:-1], min(self.budgets[-1], self.machine.host.free // 2))

    def objective(self, wishes: Wishes) -> Objective:
        return Objective.of(wishes.prefer, wishes.n_ctx, self.model.n_ctx_train or FLOOR)

    def offload(self, settings: Settings) -> Offload:
        """The settings as the speed model sees them."""
        slots = self.estimator.placement(settings).slots
        counts = tuple(slots.count(g) for g in range(len(self.machine.gpus)))
        return Offload(sum(counts), settings.n_cpu_moe, counts)

    # ------------------------------------------------------------ the grid

    def contexts(self, wishes: Wishes) -> list[int]:
        """Contexts allowed, ascending: the exact wish, or all steps from the floor up."""
        if wishes.n_ctx is not None:
            return [wishes.n_ctx]
        top = self.model.n_ctx_train or FLOOR  # some files do not say
        floor = min(FLOOR, top)
        steps = list(range(-(-floor // CONTEXT_STEP) * CONTEXT_STEP, top + 1, CONTEXT_STEP))
        return sorted({floor, top, *steps})

    def pairs(self, wishes: Wishes) -> Iterator[tuple[str, str]]:
        """Cache types allowed: V is lowered before K, and what the engine refuses is left out."""
        for type_k in [wishes.type_k] if wishes.type_k else CHOSEN_TYPES:
            for type_v in [wishes.type_v] if wishes.type_v else CHOSEN_TYPES:
                free = not (wishes.type_k or wishes.type_v)
                if free and CACHE_TYPES[type_v].bits > CACHE_TYPES[type_k].bits:
                    continue
                trial = Settings(
                    FLOOR, type_k, type_v, self.n_items, flash_attn=wishes.flash_attn or "on"
                )
                if constraints.refusal(self.model, trial, self.machine) is None:
                    yield type_k, type_v

    def _recipes(self, wishes: Wishes, objective: Objective, whole: bool) -> list[Recipe]:
        """One per pair of cache types, with the largest n_ubatch, linked to the smaller ones."""
        ubatches = (wishes.n_ubatch,) if wishes.n_ubatch else UBATCHES
        found = []
        for type_k, type_v in self.pairs(wishes):
            slow = self.cuda and slow_on_cuda(type_k, type_v)
            price = objective.cache(type_k, type_v, whole=whole, slow=slow)
            recipe: Recipe | None = None
            for n_ubatch in sorted(ubatches):
                recipe = Recipe(
                    price + objective.ubatch(n_ubatch), type_k, type_v, n_ubatch, recipe
                )
            assert recipe is not None
            found.append(recipe)
        return found

    def _placements(self, wishes: Wishes) -> list[tuple[float, int, int]]:
        """(seconds per token at best, n_gpu_layers, n_cpu_moe), the fastest first."""
        if wishes.n_gpu_layers is not None:
            layers = [wishes.n_gpu_layers]
        else:
            layers = list(range(self.n_items + 1)) if self.machine.gpus else [0]
        found = []
        for k in layers:
            for m in self._moe_choices(k, wishes):
                found.append((self._best_seconds(k, m), k, m))
        return sorted(found, key=lambda p: (p[0], -p[1], p[2]))

    def _moe_choices(self, n_gpu_layers: int, wishes: Wishes) -> range | list[int]:
        """Values of n_cpu_moe that differ for this n_gpu_layers: only layers on a GPU count."""
        if wishes.n_cpu_moe is not None:
            return [wishes.n_cpu_moe]
        moe_layers = self.model.moe_layers
        first = self.n_items - n_gpu_layers
        if not moe_layers or n_gpu_layers < 2 or not self.machine.gpus:
            return [0]
        start = max(first, moe_layers[0])
        return [0, *range(start + 1, moe_layers[-1] + 2)]

    def _best_seconds(self, n_gpu_layers: int, n_cpu_moe: int) -> float:
        """Seconds per token with every offloaded layer on the fastest GPU: a lower bound."""
        seconds = self._ranked.get((n_gpu_layers, n_cpu_moe))
        if seconds is None:
            gpus = self.machine.gpus
            fastest = max(range(len(gpus)), key=lambda g: gpus[g].bandwidth, default=0)
            counts = tuple(n_gpu_layers if g == fastest else 0 for g in range(len(gpus)))
            seconds = self.speed.decode_seconds(Offload(n_gpu_layers, n_cpu_moe, counts))
            self._ranked[n_gpu_layers, n_cpu_moe] = seconds
        return seconds

    def _settings(self, wishes: Wishes, n_ctx: int, recipe: Recipe) -> Settings:
        """A recipe at a context, nothing offloaded yet."""
        return Settings(
            n_ctx=n_ctx,
            type_k=recipe.type_k,
            type_v=recipe.type_v,
            n_ubatch=recipe.n_ubatch,
            flash_attn=wishes.flash_attn or "on",
            use_extra_bufts=wishes.use_extra_bufts,
        )

    # ------------------------------------------------------------ fitting

    def splits(self, settings: Settings, wishes: Wishes) -> list[tuple[float, ...]]:
        """Tensor splits to try; the wished one alone if there is one."""
        gpus = self.machine.gpus
        if wishes.tensor_split is not None:
            return [wishes.tensor_split]
        if len(gpus) <= 1:
            return [()]
        total = min(settings.n_gpu_layers, self.n_items)

        def fits_on(counts: splits.Counts, g: int) -> bool:
            trial = replace(settings, tensor_split=tuple(map(float, counts)))
            return self.footprint(trial).uses[g].total <= self.budgets[g]

        if total == 0:
            return [(1.0, *[0.0] * (len(gpus) - 1))]
        return [tuple(map(float, c)) for c in splits.candidates(total, gpus, fits_on)]

    def _longest(self, settings: Settings, contexts: list[int], aim: int) -> Settings | None:
        """The settings with the longest context that is allowed, or None."""
        found = None
        if contexts[-1] > aim:
            found = self._reach(settings, contexts, self._modest)
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

    def _balanced(self, settings: Settings, contexts: list[int], aim: int) -> Settings:
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
                trial = self._longest(replace(settings, tensor_split=tuple(counts)), contexts, aim)
                if trial and trial.n_ctx > settings.n_ctx:
                    settings, moved = trial, True
        return settings

    def _whole(self, n_gpu_layers: int, n_cpu_moe: int) -> bool:
        """The whole model is on the GPUs."""
        return n_gpu_layers >= self.n_items and n_cpu_moe == 0

    def _slow(self, settings: Settings) -> bool:
        on_cuda = self.cuda and settings.n_gpu_layers > 0
        return on_cuda and slow_on_cuda(settings.type_k, settings.type_v)


class _Fits:
    """Tells which placements are hopeless, whatever else is chosen."""

    def __init__(self, solver: Solver, wishes: Wishes, thrifty: Settings) -> None:
        self._solver, self._wishes, self._thrifty = solver, wishes, thrifty
        gpus = solver.machine.gpus
        budgets = solver.budgets[: len(gpus)]
        self._room = sum(b - gpu.overhead for b, gpu in zip(budgets, gpus, strict=True))
        # Per n_gpu_layers, the n_cpu_moe up to which the one GPU is known to be too small.
        self._too_small = [-1] * (solver.n_items + 1)

    def somehow(self, k: int, m: int) -> bool:
        """Whether this n_gpu_layers and n_cpu_moe may fit."""
        solver = self._solver
        if m <= self._too_small[k] or solver.speed.weights_offloaded(k, m) > self._room:
            return False
        trial = replace(self._thrifty, n_gpu_layers=k, n_cpu_moe=m)
        splits_ = solver.splits(trial, self._wishes)
        if any(self._least(replace(trial, tensor_split=split)) for split in splits_):
            return True
        if len(solver.machine.gpus) == 1:
            use = solver.footprint(trial).uses[0]
            if use.total - use.compute > solver.budgets[0]:
                self._too_small[k:] = [max(m, known) for known in self._too_small[k:]]
        return False

    def _least(self, thrifty: Settings) -> bool:
        """Whether the least that any cache types can take is within the budgets.

        A cache that is not f16 may need a copy in f16 while it is read, so the smallest cache
        does not have the smallest compute buffer.
        """
        solver = self._solver
        small = solver.footprint(thrifty)
        f16 = solver.footprint(replace(thrifty, type_k="f16", type_v="f16"))
        return all(
            s.total - s.compute + min(s.compute, f.compute) <= budget
            for s, f, budget in zip(small.uses, f16.uses, solver.budgets, strict=True)
        )


def _thrift(recipe: Recipe) -> float:
    return CACHE_TYPES[recipe.type_k].bits + CACHE_TYPES[recipe.type_v].bits


def _order(c: Candidate) -> tuple[float, ...]:
    """Score first; then what a user would rather have, so that a tie has one answer."""
    s = c.settings
    low = not {s.type_k, s.type_v} <= DEFAULT_CLASS
    return (round(c.score, 9), -low, s.n_ctx, -c.quality.loss, s.n_ubatch, -c.footprint.total)
