"""The search for the best plan: best first, in ever finer parts of the grid.

A part is a placement, a choice of cache types and n_ubatch there, or a plan of which the exact
footprint is still to be had. What could still hold the best plan is opened
next; what was found is the answer once nothing that is left could be better.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from math import ceil, inf, log
from typing import TYPE_CHECKING

from tuner.planning.plan import Candidate
from tuner.settings import CONTEXT_PADDING, Settings
from tuner.wishes import Wishes

if TYPE_CHECKING:
    from tuner.planning.solver import Solver

_TIE = 1e-8  # scores that differ by less may rank alike
# Steps (`Work`) that it takes to look at a placement with a choice of cache types, and to try all
# its splits over several GPUs, or the one that there is, where nothing is left to replay.
_LOOKING, _SPLITTING, _FITTING = 30, 400, 100


@dataclass(frozen=True, slots=True)
class CacheChoice:
    """What can be chosen without regard to the placement, and its log price."""

    price: float
    type_k: str
    type_v: str
    n_ubatch: int
    smaller: CacheChoice | None = None  # the same with the next smaller n_ubatch


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a search goes on, in steps of work (`Work`)."""

    content_at: float  # from here on whatever was found will do
    ends_at: float  # here it ends with nothing


class Search:
    """One question to a solver: its grid, and what is best of it."""

    def __init__(self, solver: Solver, wishes: Wishes) -> None:
        self.solver, self.wishes = solver, wishes
        self.fitting = solver.fitting
        self.objective = solver.objective(wishes)
        self.contexts = solver.contexts(wishes)
        # Where the search's footprints may be too low, what it finds is no more than a bound.
        self.needs_exact = self.fitting.estimator.needs_every_layer
        # Then a smaller compute buffer may give a faster split, not only more context.
        self.splits_are_open = len(solver.machine.gpus) > 1 and wishes.tensor_split is None
        self._choices: dict[bool, list[tuple[CacheChoice, Settings]]] = {}

    def best(self, patience: Patience) -> Candidate | None:
        """The best plan that fits, or None."""
        work = self.solver.work
        queue: list[Node] = [*self._placements()]
        heapify(queue)
        best: Candidate | None = None
        while queue:
            node = heappop(queue)
            if best and (-node.cost <= best.score or work.steps > patience.content_at):
                break
            if work.steps > patience.ends_at:
                break
            for part in node.opened(self):
                if isinstance(part, Node):
                    heappush(queue, part)
                elif best is None or rank(part) > rank(best):
                    best = part
        return best

    @property
    def bound(self) -> float:
        """No plan scores more, quickly told."""
        return max((-node.cost for node in self._placements()), default=-inf)

    def _placements(self) -> Iterator[PlacementNode]:
        most = self.objective.context_best
        for seconds, k, m in self.solver.placements(self.wishes, self.objective.depth):
            yield PlacementNode(log(seconds) - most, k, m)

    def least_cost(self, where: PlacementNode, n_ubatch: int) -> float:
        """No plan of this placement and batch has a smaller log of its turn's seconds."""
        seconds = self.solver.best_turn(
            where.n_gpu_layers, where.n_cpu_moe, n_ubatch, self.objective.depth
        )
        return log(seconds)

    def choices(self, n_gpu_layers: int, n_cpu_moe: int) -> list[tuple[CacheChoice, Settings]]:
        """Cache types to choose from at a placement, and as settings with the least context."""
        whole = self.solver.whole(n_gpu_layers, n_cpu_moe)
        if whole not in self._choices:
            self._choices[whole] = [
                (choice, self.settings(choice))
                for choice in self.solver.cache_choices(self.wishes, self.objective, whole)
            ]
        return self._choices[whole]

    def settings(self, choice: CacheChoice) -> Settings:
        """A choice with the least context, nothing offloaded yet."""
        return self.solver.settings(self.wishes, self.contexts[0], choice)

    def longest_of_splits(self, base: Settings) -> Candidate | None:
        """The best split of these settings, each with the longest context that it allows, and
        that split improved by moving layers."""
        solver, objective, contexts = self.solver, self.objective, self.contexts
        wished, wished_split = objective.wished_context, self.wishes.tensor_split
        several = len(solver.machine.gpus) > 1  # else there is one, and its own figures are at hand
        solver.work.steps += _SPLITTING if several else _FITTING
        if not self.fitting.could_fit(base.with_context(contexts[0]), wished_split):
            return None
        best: Candidate | None = None
        # The fast GPUs, filled up with layers, have no room for a context; with room for the wished
        # one left on them, the slow ones may have nothing to do.
        wishing = base.with_context(min(max(wished, contexts[0]), contexts[-1]))
        splits = [s for b in (base, wishing) for s in self.fitting.splits(b, wished_split)]
        for split in dict.fromkeys(splits):
            trial = base.with_split(split)
            if best:
                most = self.fitting.longest_at_most(trial, contexts, wished)
                if not most or solver.score(most, objective) < best.score - _TIE:
                    continue  # whatever the compute buffers take
            elif several and not self.fitting.could_hold(trial.with_context(contexts[0])):
                continue
            found = self.fitting.longest(trial, contexts, wished)
            if found is None:
                continue
            candidate = solver.weigh(found, objective)
            if best is None or rank(candidate) > rank(best):
                best = candidate
        if best is None or wished_split is not None:
            return best
        moved = solver.weigh(self.fitting.balanced(best.settings, contexts, wished), objective)
        return max(best, moved, key=rank)

    def confirmed(self, found: Candidate) -> Candidate | None:
        """The plan with its exact footprint, with less context where it does not fit, or None."""
        up_to = self.contexts[: bisect_right(self.contexts, found.settings.n_ctx)]
        wished = self.objective.wished_context
        settings = self.fitting.longest(found.settings, up_to, wished, exact=True)
        if settings is None:
            return None
        return self.solver.exactly(self.solver.weigh(settings, self.objective))

    def gain_of_no_compute(self, c: Candidate) -> float:
        """Log worth of the context that all of a plan's compute buffers could hold instead: no
        smaller n_ubatch can gain more."""
        n_ctx, most = c.settings.n_ctx, self.contexts[-1]
        if n_ctx >= most:
            return 0.0
        longer = self.fitting.estimator.footprint(c.settings.with_context(most))
        pairs = list(zip(c.footprint.uses, longer.uses, strict=True))
        charged = self.fitting.budgets.charged
        grown = charged([then.kv_cache - now.kv_cache for now, then in pairs])
        compute = charged([now.compute + then.compute for now, then in pairs])
        span = most - n_ctx
        more = max((a * span / b for a, b in zip(compute, grown, strict=True) if b > 0), default=0)
        reach = min(n_ctx + ceil(more) + CONTEXT_PADDING, most)
        return self.objective.context(reach) - self.objective.context(n_ctx)


@dataclass(frozen=True, slots=True, eq=False)
class Node(ABC):
    """A part of the grid."""

    cost: float  # no plan in it scores more than `-cost`

    def __lt__(self, other: Node) -> bool:
        return self.cost < other.cost

    @abstractmethod
    def opened(self, search: Search) -> Iterator[Node | Candidate]:
        """What it consists of: finer parts, or a plan that fits."""


@dataclass(frozen=True, slots=True, eq=False)
class PlacementNode(Node):
    """So many layers on the GPUs, the experts of so many in RAM, with anything."""

    n_gpu_layers: int
    n_cpu_moe: int

    def opened(self, search: Search) -> Iterator[Node | Candidate]:
        """Each choice of cache types that fits with some context."""
        work, objective, contexts = search.solver.work, search.objective, search.contexts
        k, m = self.n_gpu_layers, self.n_cpu_moe
        for choice, settings in search.choices(k, m):
            work.steps += _LOOKING
            most = search.fitting.most_context(settings.with_offload(k, m), contexts)
            if most:
                cost = search.least_cost(self, choice.n_ubatch) - objective.context(int(most))
                yield CacheNode(cost + choice.price, self, choice)


@dataclass(frozen=True, slots=True, eq=False)
class CacheNode(Node):
    """A placement with cache types and n_ubatch chosen."""

    where: PlacementNode
    choice: CacheChoice

    def settings(self, search: Search) -> Settings:
        """What is decided, with the least context."""
        where = self.where
        return search.settings(self.choice).with_offload(where.n_gpu_layers, where.n_cpu_moe)

    def opened(self, search: Search) -> Iterator[Node | Candidate]:
        """The best plan, and the same choice with a smaller n_ubatch."""
        found = search.longest_of_splits(self.settings(search))
        if found:
            yield FoundNode(-found.score, found) if search.needs_exact else found
        smaller = self.choice.smaller
        if smaller:
            slower = search.least_cost(self.where, smaller.n_ubatch)
            slower -= search.least_cost(self.where, self.choice.n_ubatch)
            cost = self.cost - self.choice.price + smaller.price + slower
            if found and not search.splits_are_open:
                gain = search.gain_of_no_compute(found)
                cost = max(cost, smaller.price - self.choice.price - found.score - gain)
            yield replace(self, cost=cost, choice=smaller)


@dataclass(frozen=True, slots=True, eq=False)
class FoundNode(Node):
    """A plan that fits, if its exact footprint does."""

    found: Candidate

    def opened(self, search: Search) -> Iterator[Node | Candidate]:
        """The plan, with less context where it takes that."""
        exact = search.confirmed(self.found)
        if exact:
            yield exact


def rank(c: Candidate) -> tuple[float, ...]:
    """Score first; then what a user would rather have, so that a tie has one answer."""
    s = c.settings
    precise, loss = c.quality.precise, c.quality.loss
    return (round(c.score, 9), precise, s.n_ctx, -loss, s.n_ubatch, -c.footprint.total)
