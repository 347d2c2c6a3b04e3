"""The search for the best plan: best first, in ever finer parts of the grid.

A part is a placement, a choice of cache types and n_ubatch there, or a plan of which the exact
footprint is still to be had. What could still hold the best plan is opened
next; what was found is the answer once nothing that is left could be better.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from math import inf, log
from typing import TYPE_CHECKING

from tuner.memory.estimator import Compute
from tuner.planning.plan import Candidate
from tuner.planning.speed import AS_IT_IS, Attention
from tuner.settings import Settings
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
    attention: Attention = AS_IT_IS
    smaller: CacheChoice | None = None  # the same with the next smaller n_ubatch

    @property
    def smallest(self) -> CacheChoice:
        """The same with the smallest n_ubatch."""
        return self.smaller.smallest if self.smaller else self


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
        self.beat = -inf  # the score of what is found already
        self._choices: dict[bool, list[tuple[CacheChoice, Settings]]] = {}

    def best(self, patience: Patience, beat: float = -inf) -> Candidate | None:
        """The best plan that fits, or None. `beat`: a score; no lower one is of interest."""
        work = self.solver.work
        queue: list[Node] = [*self._placements()]
        heapify(queue)
        best: Candidate | None = None
        self.beat = beat
        while queue:
            node = heappop(queue)
            if -node.cost <= self.beat or (best and work.steps > patience.content_at):
                break
            if work.steps > patience.ends_at:
                break
            for part in node.opened(self):
                if isinstance(part, Node):
                    heappush(queue, part)
                elif best is None or rank(part) > rank(best):
                    best, self.beat = part, max(beat, part.score)
        return best

    @property
    def bound(self) -> float:
        """No plan scores more, quickly told."""
        return max((-node.cost for node in self._placements()), default=-inf)

    def _placements(self) -> Iterator[PlacementNode]:
        most = self.objective.context_best - self.solver.checkpoint_price(self.objective)
        for seconds, k, m in self.solver.placements(self.wishes, self.objective.depth):
            yield PlacementNode(log(seconds) - most, k, m)

    def least_cost(self, where: PlacementNode, choice: CacheChoice) -> float:
        """What no plan of this placement and choice is below, but for the worth of its context."""
        k, m, depth = where.n_gpu_layers, where.n_cpu_moe, self.objective.depth
        seconds = self.solver.best_turn(k, m, choice.n_ubatch, depth, choice.attention)
        return log(seconds) + choice.price

    def choices(self, n_gpu_layers: int, n_cpu_moe: int) -> list[tuple[CacheChoice, Settings]]:
        """Cache types to choose from at a placement, and as settings with the least context and
        the smallest n_ubatch, which a window's cache grows with."""
        whole = self.solver.whole(n_gpu_layers, n_cpu_moe)
        if whole not in self._choices:
            self._choices[whole] = [
                (choice, self.settings(choice.smallest))
                for choice in self.solver.cache_choices(self.wishes, self.objective, whole)
            ]
        return self._choices[whole]

    def settings(self, choice: CacheChoice) -> Settings:
        """A choice with the least context, nothing offloaded yet."""
        return self.solver.settings(self.wishes, self.contexts[0], choice)

    def longest_of_splits(self, base: Settings, n_ctx: int) -> Candidate | None:
        """The best split of these settings, each with the longest context that it allows, and
        that split improved by moving layers; None where none can have `n_ctx` tokens."""
        solver, objective, contexts = self.solver, self.objective, self.contexts
        wished, wished_split = objective.wished_context, self.wishes.tensor_split
        several = len(solver.machine.gpus) > 1  # else there is one, and its own figures are at hand
        solver.work.steps += _SPLITTING if several else _FITTING
        if not self.fitting.could_fit(base.with_context(n_ctx), wished_split):
            return None
        best: Candidate | None = None
        # The fast GPUs, filled up with layers, have no room for a context; with room for the wished
        # one left on them, the slow ones may have nothing to do.
        wishing = base.with_context(min(max(wished, contexts[0]), contexts[-1]))
        splits = [s for b in (base, wishing) for s in self.fitting.splits(b, wished_split)]
        for split in dict.fromkeys(splits):
            trial = base.with_split(split)
            if best:
                least = best.score - _TIE
                if self.at_most(trial, "nothing") < least or self.at_most(trial, "least") < least:
                    continue  # whatever the compute buffers take, wherever their holes are
            elif several and not self.fitting.could_hold(trial.with_context(contexts[0])):
                continue
            found = self.fitting.longest(trial, contexts, wished)
            if found is None or (best and solver.score(found, objective) < best.score - _TIE):
                continue
            candidate = solver.weigh(found, objective)
            if best is None or rank(candidate) > rank(best):
                best = candidate
        if best is None or wished_split is not None:
            return best
        moved = self.fitting.balanced(best.settings, contexts, wished)
        if moved == best.settings:
            return best
        return max(best, solver.weigh(moved, objective), key=rank)

    def needed_context(self, cost: float) -> int:
        """The least context that makes what costs so much without one better than what is found."""
        worth = self.beat + cost
        at = bisect_left(self.contexts, worth, key=self.objective.context)
        return self.contexts[min(at, len(self.contexts) - 1)]

    def least_of_splits(self, settings: Settings, cost: float, price: float) -> float:
        """What these settings cost at least with the context that they need to be of any use, but
        for the worth of that; inf where they have no room for it."""
        depth, most = self.objective.depth, self.objective.context(self.contexts[-1])
        known = -inf
        while known < cost < most - self.beat:  # the more they cost, the more context they need
            known, at_least = cost, settings.with_context(self.needed_context(cost))
            seconds = self.solver.least_of_splits(at_least, depth)
            if seconds == inf:
                return inf
            if seconds > 0:  # a model without dimensions takes no time
                cost = max(cost, log(seconds) + price)
        return cost if cost < most - self.beat else inf

    def at_most(self, settings: Settings, compute: Compute) -> float:
        """The score of these settings with the longest context that there could be room for, with
        so much for the compute buffers."""
        wished = self.objective.wished_context
        most = self.fitting.longest_at_most(settings, self.contexts, wished, compute)
        return self.solver.score(most, self.objective) if most else -inf

    def confirmed(self, found: Candidate) -> Candidate | None:
        """The plan with its exact footprint, with less context where it does not fit, or None."""
        up_to = self.contexts[: bisect_right(self.contexts, found.settings.n_ctx)]
        wished = self.objective.wished_context
        settings = self.fitting.longest(found.settings, up_to, wished, exact=True)
        if settings is None:
            return None
        return self.solver.exactly(self.solver.weigh(settings, self.objective))


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
                cost = search.least_cost(self, choice) - objective.context(int(most))
                yield CacheNode(cost, self, choice)


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
        """What is to be weighed of it, and the same choice with a smaller n_ubatch."""
        settings, cost = self.settings(search), self.cost
        fastest = search.least_cost(self.where, self.choice)
        if not search.splits_are_open:
            split = search.wishes.tensor_split or ()
            cost = -search.at_most(settings.with_split(split), "least")
        elif not search.fitting.budgets.shared:
            most = search.fitting.most_of_splits(settings, search.contexts)
            cost = fastest - search.objective.context(most) if most else inf
        if cost < inf:
            yield SizedNode(cost, settings, fastest, self.choice.price)
        smaller = self.choice.smaller
        if smaller:
            slower = search.least_cost(self.where, smaller) - fastest
            yield replace(self, cost=self.cost + slower, choice=smaller)


@dataclass(frozen=True, slots=True, eq=False)
class SizedNode(Node):
    """All but the context and the split, the least that its compute buffers take counted."""

    settings: Settings  # with the least context
    fastest: float  # the cost at least, but for what the context is worth
    price: float  # the part of it that is no time

    def opened(self, search: Search) -> Iterator[Node | Candidate]:
        """The same with the least that any split takes, and then the best plan."""
        fastest = self.fastest
        if search.splits_are_open and not search.fitting.budgets.shared:
            fastest = search.least_of_splits(self.settings, fastest, self.price)
            if fastest == inf:
                return
            if fastest > self.fastest + _TIE:
                yield replace(self, cost=self.cost + fastest - self.fastest, fastest=fastest)
                return
        found = search.longest_of_splits(self.settings, search.needed_context(fastest))
        if found:
            yield FoundNode(-found.score, found) if search.needs_exact else found


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
