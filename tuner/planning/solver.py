"""Solves for the best way to load a model: cache types, context, layers, batch and split at once.

The search is exact over its grid. Offloads (n_gpu_layers, n_cpu_moe) are visited from the
fastest down; one whose speed, with everything else at its best, cannot beat the best score found
ends the search. Within a placement each pair of cache types gets the longest context that fits,
found by bisection because memory only grows with it.
"""

from __future__ import annotations

import copy
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush
from math import ceil, log

from tuner.machine.machine import Machine
from tuner.memory.cache_types import CACHE_TYPES, CHOSEN_TYPES, HIGH_PRECISION
from tuner.memory.estimator import Estimator
from tuner.memory.footprint import Footprint
from tuner.model.model import Model
from tuner.planning import constraints
from tuner.planning.budgets import Budgets
from tuner.planning.fitting import Fitting
from tuner.planning.objective import LEAST_CONTEXT, Objective, prior_loss
from tuner.planning.plan import Candidate, Quality, Speed
from tuner.planning.speed import Calibration, Offload, SpeedModel
from tuner.settings import CONTEXT_PADDING, Settings
from tuner.units import padded
from tuner.wishes import Wishes

UBATCHES = (512, 256, 128)
MOST_CONTEXT = 1 << 22  # tokens; nobody is given more unasked

# Each search with less memory takes the exact shortfall of the one before off the budgets. One
# repetition is the rule, since the search is off by much the same for like settings; the bound is
# for a machine where every search lands on another kind of plan.
MAX_SEARCHES = 6


# What searches may take, in steps of replayed tapes (`Work`, about a microsecond each). Nearly all
# end long before; what ends the others is that they have found something.
MOST_WORK = 1_000_000  # for one answer, after which a search is content with what it has found
MORE_WORK = 1_000_000  # of all searches for one kind of what a plan offers beside the choice

ALL_WORK = 3_000_000  # of one plan; what is still to be known then is guessed generously
_LOOKING = 30  # what it takes to look at a placement with a choice of cache types
# Placements that a search starts from; of the few models with so many layers of experts that there
# would be more (over 127 layers), every second or third number of them in RAM is looked at.
MAX_PLACEMENTS = 1 << 13


@dataclass(frozen=True, slots=True)
class CacheChoice:
    """What can be chosen without regard to the placement, and its log price."""

    price: float
    type_k: str
    type_v: str
    n_ubatch: int
    smaller: CacheChoice | None = None  # the same with the next smaller n_ubatch


@dataclass(frozen=True, slots=True, order=True)
class SearchNode:
    """A part of the grid; no plan in it scores more than `-cost`. Ever finer: a placement, a choice
    of cache types there, a plan of which the exact footprint is still to be had (`found`)."""

    cost: float
    n_gpu_layers: int = field(compare=False)
    n_cpu_moe: int = field(compare=False)
    choice: CacheChoice | None = field(default=None, compare=False)
    below_wish: bool = field(default=False, compare=False)
    found: Candidate | None = field(default=None, compare=False)


class Solver:
    """Answers wishes for one model on one machine; the tables behind it are built once.

    Raises nothing of its own but in the making (see `Estimator`): `best` returns None where
    nothing fits. A search of more than `MOST_WORK`, which few models need, ends with the best that
    it has found by then.
    """

    def __init__(self, model: Model, machine: Machine, extra: Sequence[Footprint] = ()) -> None:
        """`extra`: what lives beside the model and takes its part of the budgets."""
        self.model, self.machine = model, machine
        estimator = Estimator(model, machine, extra)
        self.fitting = Fitting(estimator)
        self.speed = SpeedModel(model, machine, cache=estimator.cache)
        self.n_items = model.n_items
        self._answers: dict[tuple[Wishes, Budgets], Candidate | None] = {}
        self._ranked: dict[tuple[int, int, Budgets], float] = {}
        self._ends_at: int | None = None  # the work after which searches end, whatever they have

    def hurried(self, work: int = MORE_WORK) -> Solver:
        """The same solver for as much work: after that its searches end with what they have found
        so far, which may be nothing."""
        other = copy.copy(self)
        other._ends_at = self._work + work
        return other

    def start_plan(self) -> None:
        """What comes now is one plan's work."""
        self.fitting.estimator.compute.replays.work.most = self._work + ALL_WORK

    @property
    def _work(self) -> int:
        return self.fitting.estimator.compute.replays.work.steps

    def with_budgets(self, budgets: Budgets) -> Solver:
        """The same solver under other budgets."""
        other = copy.copy(self)
        other.fitting = self.fitting.with_budgets(budgets)
        return other

    def calibrated(self, calibration: Calibration) -> Solver:
        """The same solver with speeds as they were measured on this machine."""
        other = copy.copy(self)
        other.speed = self.speed.calibrated(calibration)
        other._answers = {}
        return other

    @property
    def budgets(self) -> Budgets:
        """What a plan may use."""
        return self.fitting.budgets

    # ------------------------------------------------------------ one plan

    def best(self, wishes: Wishes, content_at: int | None = None) -> Candidate | None:
        """The best plan that fits and keeps every wish, or None. `content_at`: the work after
        which whatever was found will do."""
        key = (wishes, self.budgets)
        if key in self._answers:
            return self._answers[key]
        found = self._search(wishes, content_at or self._work + MOST_WORK)
        if self._ends_at is None or self._work <= self._ends_at:
            self._answers[key] = found
        return found

    def confirmed(self, wishes: Wishes) -> tuple[Solver, Candidate | None]:
        """The best plan with its exact footprint, or None. The search goes by quicker ones, which
        may be lower; where the plan then breaks a budget, the search is repeated with so much
        less. The solver is the one that found it: what it finds beside that is no better."""
        if wishes.complete:
            return self, self.exactly(self.calculate(wishes))
        solver, content_at = self, self._work + MOST_WORK
        for _ in range(MAX_SEARCHES):
            found = solver.best(wishes, content_at)
            if found is None:
                return solver, None
            exact = solver.exactly(found)
            short = exact.short(self.budgets)
            if not any(short):
                return solver, replace(exact, fits=True)
            solver = solver.with_budgets(solver.budgets.less(short))
        return solver, None

    def _search(self, wishes: Wishes, content_at: int) -> Candidate | None:
        """Best first: whatever could still be best is looked at next, in ever finer parts (a
        placement, a choice there with the wished context, the same with less), until what was
        found is as good as the best that is left could be. Where the search's footprints may be
        too low, what it finds is no more than a bound, and the exact footprint is had of what then
        still looks best."""
        objective = self.objective(wishes)
        contexts = self.contexts(wishes)
        at_wish = bisect_left(contexts, objective.wished_context)
        choices: dict[tuple[bool, bool], list[CacheChoice]] = {}
        low = self.fitting.estimator.needs_every_layer
        room = sum(self._gpu_room())
        queue = [
            SearchNode(log(seconds) - objective.context_best, k, m)
            for seconds, k, m in self._placements(wishes)
            if self.speed.weights_offloaded(k, m) <= room
        ]
        heapify(queue)
        best: Candidate | None = None
        while queue:
            node = heappop(queue)
            if best and (-node.cost <= best.score or self._work > content_at):
                break
            if self._work > content_at + MOST_WORK // 2:  # nothing so far: not even a miss is known
                break
            if self._ends_at is not None and self._work > self._ends_at:
                break
            k, m, choice = node.n_gpu_layers, node.n_cpu_moe, node.choice
            if choice is None:
                where = self._whole(k, m), k > 0
                if where not in choices:
                    choices[where] = self._cache_choices(wishes, objective, *where)
                for first in choices[where]:
                    child = self._with_choice(node, first, wishes, contexts, objective)
                    if child:
                        heappush(queue, child)
                continue
            base = replace(self._settings(wishes, contexts[0], choice), n_gpu_layers=k, n_cpu_moe=m)
            allowed = contexts[:at_wish] if node.below_wish else contexts[at_wish:]
            if node.found:
                found = self._confirm(node.found, allowed, objective)
            else:
                found = self._longest_of_splits(base, wishes, allowed, objective)
            if found and low and not node.found:
                heappush(queue, replace(node, cost=-found.score, found=found))
            elif found and (best is None or _rank(found) > _rank(best)):
                best = found
            if not found and at_wish and not node.below_wish:
                below_worth = objective.context(contexts[at_wish - 1])
                cost = log(self._best_seconds(k, m)) - below_worth + choice.price
                cost = cost if node.found else max(node.cost, cost)
                heappush(queue, replace(node, cost=cost, below_wish=True, found=None))
            if node.found:
                continue
            if choice.smaller:
                cost = node.cost - choice.price + choice.smaller.price
                if found:
                    gain = self._gain_of_no_compute(found, contexts, objective)
                    price = choice.smaller.price - choice.price
                    cost = max(cost, price - found.score - gain)
                heappush(queue, replace(node, cost=cost, choice=choice.smaller))
        return best

    def _with_choice(
        self,
        node: SearchNode,
        choice: CacheChoice,
        wishes: Wishes,
        contexts: list[int],
        objective: Objective,
    ) -> SearchNode | None:
        """A placement with cache types chosen; None where they do not fit with any context."""
        k, m = node.n_gpu_layers, node.n_cpu_moe
        self.fitting.estimator.compute.replays.work.steps += _LOOKING
        base = self._settings(wishes, contexts[0], choice)
        most = self.fitting.most_context(replace(base, n_gpu_layers=k, n_cpu_moe=m), contexts)
        if not most:
            return None
        lost = objective.context_best - objective.context(int(most))
        below = most < objective.wished_context
        return SearchNode(node.cost + lost + choice.price, k, m, choice, below)

    def _confirm(
        self, found: Candidate, contexts: list[int], objective: Objective
    ) -> Candidate | None:
        """The plan with its exact footprint, with less context where it does not fit, or None."""
        up_to = contexts[: bisect_right(contexts, found.settings.n_ctx)]
        wished = objective.wished_context
        settings = self.fitting.longest(found.settings, up_to, wished, exact=True)
        return self.exactly(self.weigh(settings, objective)) if settings else None

    def _longest_of_splits(
        self, base: Settings, wishes: Wishes, contexts: list[int], objective: Objective
    ) -> Candidate | None:
        """The best split of these settings, each with the longest context that it allows, and
        that split improved by moving layers."""
        best: Candidate | None = None
        for split in self.fitting.splits(base, wishes.tensor_split):
            found = self.fitting.longest(base.with_split(split), contexts, objective.wished_context)
            if found is None:
                continue
            candidate = self.weigh(found, objective)
            if best is None or _rank(candidate) > _rank(best):
                best = candidate
        if best is None or wishes.tensor_split is not None:
            return best
        settings = self.fitting.balanced(best.settings, contexts, objective.wished_context)
        moved = self.weigh(settings, objective)
        return max(best, moved, key=_rank)

    def _gain_of_no_compute(self, c: Candidate, contexts: list[int], objective: Objective) -> float:
        """Log worth of the context that all of a plan's compute buffers could hold instead: no
        smaller n_ubatch can gain more."""
        n_ctx = c.settings.n_ctx
        if n_ctx >= contexts[-1]:
            return 0.0
        longer = self.fitting.estimator.footprint(c.settings.with_context(contexts[-1]))
        pairs = list(zip(c.footprint.uses, longer.uses, strict=True))
        charged = self.budgets.charged
        grown = charged([then.kv_cache - now.kv_cache for now, then in pairs])
        compute = charged([now.compute + then.compute for now, then in pairs])
        span = contexts[-1] - n_ctx
        more = max((a * span / b for a, b in zip(compute, grown, strict=True) if b > 0), default=0)
        reach = min(n_ctx + ceil(more) + CONTEXT_PADDING, contexts[-1])
        return objective.context(reach) - objective.context(n_ctx)

    def weigh(self, settings: Settings, objective: Objective) -> Candidate:
        """Footprint, speed, quality and score of any settings, whether they fit or not."""
        footprint = self.fitting.estimator.footprint(settings)
        offload, slow = self.offload(settings), self._slow(settings)
        whole = self._whole(settings.n_gpu_layers, settings.n_cpu_moe)
        score = (
            -log(self.speed.decode_seconds(offload))
            + objective.context(settings.n_ctx)
            - objective.cache(settings.type_k, settings.type_v, whole=whole, slow=slow)
            - objective.ubatch(settings.n_ubatch)
        )
        quality = Quality(prior_loss(settings.type_k, settings.type_v))
        fits = self.fitting.fits(footprint)
        return Candidate(settings, footprint, self.predict(settings), quality, fits, score)

    def predict(self, settings: Settings) -> Speed:
        """Tokens/s of any settings."""
        slow = self._slow(settings)
        return self.speed.predict(settings, self.offload(settings), slow_pair=slow)

    def exactly(self, candidate: Candidate) -> Candidate:
        """The candidate with the exact footprint."""
        footprint = self.fitting.estimator.exact(candidate.settings)
        return replace(candidate, footprint=footprint, fits=self.fitting.fits(footprint))

    def calculate(self, wishes: Wishes) -> Candidate:
        """The footprint of wishes that leave nothing to decide, whether it fits or not."""
        base = self._decided(wishes)
        split = self.fitting.splits(base, wishes.tensor_split)[0]
        return self.weigh(base.with_split(split), self.objective(wishes))

    def nearest_miss(self, choices: Sequence[Wishes]) -> Candidate:
        """Of wishes that leave nothing to decide, the ones that lack the fewest bytes: no more of
        them are calculated than could be."""
        least = [self.fitting.least_lacking(self._decided(wishes)) for wishes in choices]
        best: tuple[int, int, Candidate] | None = None
        content_at = self._work + MOST_WORK
        for at_least, place in sorted(zip(least, range(len(choices)), strict=True)):
            if best and (at_least > best[0] or self._work > content_at):
                break
            candidate = self.calculate(choices[place])
            lacking = candidate.lacking(self.budgets)
            if best is None or (lacking, place) < best[:2]:
                best = lacking, place, candidate
        assert best is not None
        return best[2]

    def _decided(self, wishes: Wishes) -> Settings:
        """Wishes that leave nothing to decide but a split, as settings."""
        n_ctx = wishes.n_ctx or self.contexts(wishes)[0]
        choice = CacheChoice(
            0.0, wishes.type_k or "f16", wishes.type_v or "f16", wishes.n_ubatch or UBATCHES[0]
        )
        return replace(
            self._settings(wishes, n_ctx, choice),
            n_gpu_layers=wishes.n_gpu_layers or 0,
            n_cpu_moe=wishes.n_cpu_moe or 0,
        )

    def objective(self, wishes: Wishes) -> Objective:
        return Objective.of(wishes.prefer, wishes.n_ctx, self.model.n_ctx_train or LEAST_CONTEXT)

    def offload(self, settings: Settings) -> Offload:
        """The settings as the speed model sees them."""
        slots = self.fitting.estimator.placement(settings).slots
        counts = tuple(slots.count(g) for g in range(len(self.machine.gpus)))
        return Offload(sum(counts), settings.n_cpu_moe, counts)

    # ------------------------------------------------------------ the grid

    def contexts(self, wishes: Wishes) -> list[int]:
        """Contexts allowed, ascending: the exact wish, or all steps from the floor up."""
        if wishes.n_ctx is not None:
            return [wishes.n_ctx]
        top = min(self.model.n_ctx_train or LEAST_CONTEXT, MOST_CONTEXT)  # some files do not say
        floor = min(LEAST_CONTEXT, top)
        steps = range(padded(floor, CONTEXT_PADDING), top + 1, CONTEXT_PADDING)
        return sorted({floor, top, *steps})

    def pairs(self, wishes: Wishes) -> Iterator[tuple[str, str]]:
        """Cache types allowed: V is lowered before K, and what the engine refuses is left out."""
        for type_k in [wishes.type_k] if wishes.type_k else CHOSEN_TYPES:
            for type_v in [wishes.type_v] if wishes.type_v else CHOSEN_TYPES:
                free = not (wishes.type_k or wishes.type_v)
                if free and CACHE_TYPES[type_v].bits > CACHE_TYPES[type_k].bits:
                    continue
                # Each pair costs a search over splits too; unequal ones are slow on most anyway.
                if free and len(self.machine.gpus) > 1 and type_k != type_v:
                    continue
                trial = self.trial(wishes, type_k, type_v)
                if constraints.refusal(self.model, trial, self.machine) is None:
                    yield type_k, type_v

    def trial(self, wishes: Wishes, type_k: str, type_v: str, *, on_gpu: bool = True) -> Settings:
        """Settings that stand for all with these cache types."""
        choice = CacheChoice(0.0, type_k, type_v, UBATCHES[0])
        trial = self._settings(wishes, LEAST_CONTEXT, choice)
        return replace(trial, n_gpu_layers=self.n_items if on_gpu else 0)

    def _cache_choices(
        self, wishes: Wishes, objective: Objective, whole: bool, on_gpu: bool
    ) -> list[CacheChoice]:
        """One per pair of cache types, with the largest n_ubatch, linked to the smaller ones."""
        ubatches = (wishes.n_ubatch,) if wishes.n_ubatch else UBATCHES
        found = []
        for type_k, type_v in self.pairs(wishes):
            slow = self._slow(self.trial(wishes, type_k, type_v, on_gpu=on_gpu))
            price = objective.cache(type_k, type_v, whole=whole, slow=slow)
            choice: CacheChoice | None = None
            for n_ubatch in sorted(ubatches):
                choice = CacheChoice(
                    price + objective.ubatch(n_ubatch), type_k, type_v, n_ubatch, choice
                )
            assert choice is not None
            found.append(choice)
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
        if not moe_layers or n_gpu_layers <= 1 or not self.machine.gpus:
            return [0]
        start, end = max(first, moe_layers[0]), moe_layers[-1] + 1
        step = -(-len(moe_layers) * self.n_items // (2 * MAX_PLACEMENTS))
        return [0, *range(start + 1, end, step), end] if start < end else [0]

    def _best_seconds(self, n_gpu_layers: int, n_cpu_moe: int) -> float:
        """Seconds per token that no split over the GPUs beats: a lower bound."""
        key = (n_gpu_layers, n_cpu_moe, self.budgets)
        seconds = self._ranked.get(key)
        if seconds is None:
            seconds = self.speed.least_seconds(n_gpu_layers, n_cpu_moe, self._gpu_room())
            self._ranked[key] = seconds
        return seconds

    def _gpu_room(self) -> list[int]:
        """Bytes for layers on each GPU, at most."""
        n_gpus = len(self.machine.gpus)
        fixed = self.fitting.estimator.fixed[:n_gpus]
        return [b - f for b, f in zip(self.budgets.limits[:n_gpus], fixed, strict=True)]

    def _settings(self, wishes: Wishes, n_ctx: int, choice: CacheChoice) -> Settings:
        """A choice at a context with all that is fixed beside it, nothing offloaded yet."""
        choices = {
            "n_ctx": n_ctx,
            "type_k": choice.type_k,
            "type_v": choice.type_v,
            "n_ubatch": choice.n_ubatch,
        }
        nothing = {"n_gpu_layers": 0, "n_cpu_moe": 0, "tensor_split": ()}
        return Settings(**{**wishes.settings, **choices, **nothing})

    def _whole(self, n_gpu_layers: int, n_cpu_moe: int) -> bool:
        """The whole model is on the GPUs, if there are any."""
        return not self.machine.gpus or (n_gpu_layers >= self.n_items and n_cpu_moe == 0)

    def _slow(self, settings: Settings) -> bool:
        return constraints.slow_attention(self.model, settings, self.machine) is not None


def _rank(c: Candidate) -> tuple[float, ...]:
    """Score first; then what a user would rather have, so that a tie has one answer."""
    s = c.settings
    low = not {s.type_k, s.type_v} <= HIGH_PRECISION
    return (round(c.score, 9), -low, s.n_ctx, -c.quality.loss, s.n_ubatch, -c.footprint.total)
