"""Solves for the best way to load a model: cache types, context, layers, batch and split at once.

The search (`search.py`) is exact over its grid, which is here. Offloads (n_gpu_layers, n_cpu_moe)
are visited from the fastest down; one whose speed, with everything else at its best, cannot beat
the best score found ends the search. Within a placement each pair of cache types gets the longest
context that fits, found by bisection because memory only grows with it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf, log

from tuner.machine.backends import backend
from tuner.machine.machine import Machine
from tuner.memory.cache_losses import CacheLosses
from tuner.memory.cache_types import CACHE_TYPES, CHOSEN_TYPES
from tuner.memory.compute.tapes import Work
from tuner.memory.estimator import Estimator
from tuner.memory.footprint import Footprint
from tuner.model.model import Model
from tuner.planning import constraints
from tuner.planning.budgets import Budgets
from tuner.planning.fitting import Fitting
from tuner.planning.objective import FULL_UBATCH, LEAST_CONTEXT, Objective
from tuner.planning.plan import Candidate, Speed
from tuner.planning.quality import CacheQuality
from tuner.planning.search import CacheChoice, Patience, Search, rank
from tuner.planning.speed import AS_IT_IS, LEAST, Attention, Calibration, Offload, SpeedModel
from tuner.settings import CONTEXT_PADDING, Settings
from tuner.units import padded
from tuner.wishes import Wishes

# Values of n_ubatch: where weights stay in RAM, the speed of prompts is nearly in proportion to it,
# since a GPU copies them for every batch; elsewhere no more than the usual one is of use.
UBATCHES = (4096, 2048, 1024, 512, 256, 128)
MOST_CONTEXT = 1 << 22  # tokens; nobody is given more unasked

# Each search with less memory takes off the budgets what the one before was off by. One repetition
# is the rule, since the search is off by much the same for like settings; the bound is for where
# every search lands on another kind of plan.
MAX_SEARCHES = 6


# What searches may take, in steps of replayed tapes (`Work`, about a microsecond each). Nearly all
# end long before; what ends the others is that they have found something.
MOST_WORK = 1_300_000  # for one answer, after which a search is content with what it has found
MORE_WORK = 1_300_000  # of all searches for one kind of what a plan offers beside the choice

ALL_WORK = 3_000_000  # of one plan; what is still to be known then is guessed generously
_SHARING = 2  # the same for each item that is given to one of several GPUs
# Placements that a search starts from. The few models with so many layers of experts that there
# would be more (over 127 layers) have a coarser grid: few numbers of them in RAM are looked at.
MAX_PLACEMENTS = 1 << 13
_COARSE = 1 << 11


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
        self.quality = CacheQuality.of(model.hparams)
        self.n_items = model.n_items
        self._answers: dict[tuple[Wishes, Budgets, bool], Candidate | None] = {}
        self._ranked: dict[
            Budgets, tuple[list[int], dict[tuple[int, int, int, int, Attention], float]]
        ] = {}
        self._pairs: dict[Wishes, tuple[tuple[str, str], ...]] = {}
        self._attentions: dict[tuple[str, str, str], Attention] = {}
        self._ends_at: float = inf  # the work after which searches end, whatever they have
        self._without_checkpoint: Solver | None = None

    def _copy(self) -> Solver:
        other = copy.copy(self)
        other._without_checkpoint = None
        return other

    def hurried(self, work: int | None = None) -> Solver:
        """The same solver for so much work, `MORE_WORK` unless said otherwise: after that its
        searches end with what they have found so far, which may be nothing."""
        other = self._copy()
        ends_at = self.work.steps + (MORE_WORK if work is None else work)
        other._ends_at = min(ends_at, self.work.most + MOST_WORK // 4)
        return other

    @property
    def gave_up(self) -> bool:
        """Whether its searches have ended for want of time, so that what was not found may fit."""
        return self.work.steps > self._ends_at

    def start_plan(self) -> None:
        """What comes now is one plan's work: all that was computed so far is forgotten, since what
        a plan offers must not depend on what was asked before it."""
        self._answers.clear()
        self._ranked.clear()
        self._without_checkpoint = None
        self.fitting.forget()
        self.work.most = ALL_WORK

    @property
    def work(self) -> Work:
        """What all its searches together have done."""
        return self.fitting.estimator.compute.replays.work

    def with_budgets(self, budgets: Budgets) -> Solver:
        """The same solver under other budgets."""
        other = self._copy()
        other.fitting = self.fitting.with_budgets(budgets)
        return other

    def calibrated(self, calibration: Calibration) -> Solver:
        """The same solver with speeds as they were measured on this machine."""
        other = self._copy()
        other.speed = self.speed.calibrated(calibration)
        other._answers = {}
        return other

    def paced(self, machine: Machine) -> Solver:
        """The same solver where the machine's devices, or its number of threads, are as fast as
        those of this one."""
        other = self._copy()
        cache = self.fitting.estimator.cache
        other.machine = machine
        other.speed = SpeedModel(self.model, machine, self.speed.calibration, cache)
        other._answers, other._ranked = {}, {}
        return other

    def on(self, machine: Machine) -> Solver:
        """A solver for another machine; what was measured of the model counts there too."""
        other = Solver(self.model, machine).calibrated(self.speed.calibration)
        other.quality = self.quality
        other.start_plan()
        return other

    def with_losses(self, measured: CacheLosses) -> Solver:
        """The same solver with the quality of cache types as it was measured on this model."""
        other = self._copy()
        other.quality = CacheQuality.of(self.model.hparams, measured)
        other._answers = {}
        return other

    @property
    def budgets(self) -> Budgets:
        """What a plan may use."""
        return self.fitting.budgets

    # ------------------------------------------------------------ with a checkpoint, or without

    def counting(self, *, checkpoint: bool) -> Solver:
        """The same solver, whose plans have one checkpoint in their footprints, if the model needs
        any, or none and its price in their scores."""
        other = self._copy()
        other.fitting = self.fitting.counting(checkpoint=checkpoint)
        return other

    @property
    def without_checkpoint(self) -> Solver:
        """The same solver, whose plans do without; this one where there is none to do without."""
        if not self.fitting.estimator.counts_checkpoint:
            return self
        if self._without_checkpoint is None:
            self._without_checkpoint = self.counting(checkpoint=False)
        return self._without_checkpoint

    def like(self, candidate: Candidate) -> Solver:
        """The one of both that a candidate is of."""
        if not candidate.footprint.host.checkpoint:
            return self.without_checkpoint
        lacks = self.fitting.estimator.lacks_checkpoint
        return self.counting(checkpoint=True) if lacks else self

    def checkpoint_price(self, objective: Objective) -> float:
        """Log price of doing without."""
        estimator = self.fitting.estimator
        return objective.no_checkpoint if estimator.lacks_checkpoint else 0.0

    # ------------------------------------------------------------ one plan

    def best(
        self, wishes: Wishes, content_at: int | None = None, beat: float = -inf
    ) -> Candidate | None:
        """The best plan that fits and keeps every wish, or None. `content_at`: the work after
        which whatever was found will do. `beat`: a score; no lower one is of interest."""
        content_at = content_at or self.work.steps + MOST_WORK
        found, other = self.best_alike(wishes, content_at, beat), self.without_checkpoint
        if other is not self:
            forgetful = other.best_alike(
                wishes, content_at, max(beat, found.score) if found else beat
            )
            if forgetful and (found is None or rank(forgetful) > rank(found)):
                return forgetful
        return found

    def best_alike(
        self, wishes: Wishes, content_at: int | None = None, beat: float = -inf
    ) -> Candidate | None:
        """The same of those alone that have a checkpoint, or of those that have none."""
        content_at = content_at or self.work.steps + MOST_WORK
        key = (wishes, self.budgets, self.fitting.estimator.counts_checkpoint)
        if key in self._answers:
            return self._answers[key]
        # with nothing found by then, not even a miss is known
        ends_at = min(content_at + MOST_WORK // 2, self._ends_at)
        found = Search(self, wishes).best(Patience(content_at, ends_at), beat)
        if self.work.steps <= self._ends_at and (found or beat == -inf):
            self._answers[key] = found
        return found

    def confirmed(self, wishes: Wishes, beat: float = -inf) -> tuple[Solver, Candidate | None]:
        """The best plan with its exact footprint, or None. The search goes by quicker ones, which
        may be lower; where the plan then breaks a budget, it is the same with less context, or
        what a search finds with so much less memory. The solver is the one that searched last: what
        it finds beside that is no better. `beat`: a score; no lower one is of interest."""
        solver, best = self._confirmed(wishes, beat)
        other = self.without_checkpoint
        if other is self or (wishes.complete and best and best.fits):
            return solver, best
        least = max(beat, best.score) if best and best.fits else beat
        its, forgetful = other._confirmed(wishes, least)
        if best is None or not best.fits or (forgetful and rank(forgetful) > rank(best)):
            return its, forgetful
        return solver, best

    def _confirmed(self, wishes: Wishes, beat: float) -> tuple[Solver, Candidate | None]:
        """The same of those alone that have a checkpoint, or of those that have none."""
        if wishes.complete:
            return self, self.exactly(self.calculate(wishes))
        solver, content_at = self, self.work.steps + MOST_WORK
        best: Candidate | None = None
        off_by = [0] * len(self.budgets.limits)
        for _ in range(MAX_SEARCHES):
            found = solver.best_alike(wishes, content_at, max(beat, best.score if best else -inf))
            if found is None:
                break
            exact = self.exactly(found)
            if exact.fits:
                return solver, exact if best is None or rank(exact) > rank(best) else best
            shorter = Search(self, wishes).confirmed(found)
            if shorter and (best is None or rank(shorter) > rank(best)):
                best = shorter
            charged = self.budgets.charged
            sizes = zip(
                off_by, exact.short(self.budgets), charged(exact.footprint.totals),
                charged(found.footprint.totals), strict=True,
            )  # fmt: skip
            off_by = [max(known, short, real - guess) for known, short, real, guess in sizes]
            solver = self.with_budgets(self.budgets.less(off_by))
        return solver, best

    def weighed(self, settings: Settings, objective: Objective) -> Candidate:
        """Any settings with the exact footprint: with a checkpoint where there is room for one,
        else without."""
        found, other = self.exactly(self.weigh(settings, objective)), self.without_checkpoint
        if found.fits or other is self:
            return found
        return other.exactly(other.weigh(settings, objective))

    def weigh(self, settings: Settings, objective: Objective) -> Candidate:
        """Footprint, speed, quality and score of any settings, whether they fit or not."""
        footprint = self.fitting.estimator.footprint(settings)
        quality = self.quality.of_pair(settings.type_k, settings.type_v)
        fits = self.fitting.fits(footprint)
        score = self.score(settings, objective)
        return Candidate(settings, footprint, self.predict(settings), quality, fits, score)

    def score(self, settings: Settings, objective: Objective) -> float:
        """Log of the effective turns per second of any settings (`objective.py`)."""
        whole = self.whole(settings.n_gpu_layers, settings.n_cpu_moe)
        turn = self.speed.turn_seconds(
            self.offload(settings), settings.n_ubatch, objective.depth, self._attention(settings)
        )
        return (
            -log(turn)
            + objective.context(settings.n_ctx)
            - self._cache_price(objective, settings.type_k, settings.type_v, whole)
            - objective.ubatch(settings.n_ubatch)
            - self.checkpoint_price(objective)
        )

    def _cache_price(self, objective: Objective, type_k: str, type_v: str, whole: bool) -> float:
        """Log price of a pair of cache types, with all of the model on the GPUs or not."""
        return objective.cache(self.quality.of_pair(type_k, type_v), whole=whole)

    def predict(self, settings: Settings) -> Speed:
        """Tokens/s of any settings."""
        return self.speed.predict(settings, self.offload(settings), self._attention(settings))

    def decode_seconds(self, settings: Settings, depth: int, without: int | None = None) -> float:
        """Seconds per token at a depth, uncalibrated; `without`: as of `SpeedModel`."""
        speed = self.speed.without(without)
        return speed.decode_seconds(self.offload(settings), depth, self._attention(settings))

    def prompt_seconds(
        self, settings: Settings, n_tokens: int, depth: int, without: int | None = None
    ) -> float:
        """Seconds per token of a prompt of `n_tokens` around a depth, likewise."""
        n_ubatch = min(settings.n_ubatch, n_tokens)
        speed = self.speed.without(without)
        attention = self._attention(settings)
        return speed.prompt_seconds(self.offload(settings), n_ubatch, depth, attention)

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
        content_at = self.work.steps + MOST_WORK
        for at_least, place in sorted(zip(least, range(len(choices)), strict=True)):
            if best and (at_least > best[0] or self.work.steps > content_at):
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
            0.0, wishes.type_k or "f16", wishes.type_v or "f16", wishes.n_ubatch or FULL_UBATCH
        )
        return replace(
            self.settings(wishes, n_ctx, choice),
            n_gpu_layers=wishes.n_gpu_layers or 0,
            n_cpu_moe=wishes.n_cpu_moe or 0,
        )

    def objective(self, wishes: Wishes) -> Objective:
        return Objective.of(wishes.prefer, wishes.n_ctx, self.model.n_ctx_train or LEAST_CONTEXT)

    def offload(self, settings: Settings) -> Offload:
        """The settings as the speed model sees them."""
        counts = self.fitting.estimator.placement(settings).on_gpus
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

    def pairs(self, wishes: Wishes) -> tuple[tuple[str, str], ...]:
        """Cache types allowed: V is lowered before K, and what the engine refuses is left out."""
        found = self._pairs.get(wishes)
        if found is None:
            found = self._pairs[wishes] = tuple(self._allowed(wishes))
        return found

    def _allowed(self, wishes: Wishes) -> Iterator[tuple[str, str]]:
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
        choice = CacheChoice(0.0, type_k, type_v, FULL_UBATCH)
        trial = self.settings(wishes, LEAST_CONTEXT, choice)
        return replace(trial, n_gpu_layers=self.n_items if on_gpu else 0)

    def cache_choices(self, wishes: Wishes, objective: Objective, whole: bool) -> list[CacheChoice]:
        """One per pair of cache types, with the largest n_ubatch, linked to the smaller ones."""
        ubatches = self.ubatches(wishes, whole)
        found = []
        for type_k, type_v in self.pairs(wishes):
            price = self._cache_price(objective, type_k, type_v, whole)
            price += self.checkpoint_price(objective)
            attention = self._attention(self.trial(wishes, type_k, type_v))
            choice: CacheChoice | None = None
            for n_ubatch in sorted(ubatches):
                choice = CacheChoice(
                    price + objective.ubatch(n_ubatch), type_k, type_v, n_ubatch, attention, choice
                )
            assert choice is not None
            found.append(choice)
        return found

    def ubatches(self, wishes: Wishes, whole: bool) -> tuple[int, ...]:
        """Values of n_ubatch to choose from, the largest first; `whole`: no weights stay in RAM
        that a GPU would copy, if one does."""
        if wishes.n_ubatch:
            return (wishes.n_ubatch,)
        most = FULL_UBATCH
        if self.speed.copies_weights and not whole:
            known = constraints.largest_known_batch(self.model, self.machine)
            most = known[0] if known else UBATCHES[0]
        return tuple(n for n in UBATCHES if n <= most)

    def placements(self, wishes: Wishes, depth: int) -> list[tuple[float, int, int]]:
        """(seconds of a turn at best, n_gpu_layers, n_cpu_moe) of those whose weights there is
        room for, the fastest first. `depth`: tokens in the cache."""
        if wishes.n_gpu_layers is not None:
            layers = [wishes.n_gpu_layers]
        else:
            layers = list(range(self.n_items + 1)) if self.machine.gpus else [0]
        *on_gpus, on_host = self._room()
        room, speed = sum(on_gpus), self.speed
        found = [
            (self.best_turn(k, m, self.ubatches(wishes, self.whole(k, m))[0], depth), k, m)
            for k in layers
            for m in self._moe_choices(k, wishes)
            if speed.weights_offloaded(k, m) <= room and speed.weights_on_host(k, m) <= on_host
        ]
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
        n_placements = len(moe_layers) * self.n_items // 2
        step = 1 if n_placements <= MAX_PLACEMENTS else n_placements // _COARSE
        return [0, *range(start + 1, end, step), end] if start < end else [0]

    def best_turn(
        self,
        n_gpu_layers: int,
        n_cpu_moe: int,
        n_ubatch: int,
        depth: int,
        attention: Attention = LEAST,
    ) -> float:
        """Seconds of a turn that no split over the GPUs beats: a lower bound."""
        if self.budgets not in self._ranked:
            self._ranked[self.budgets] = self._room()[:-1], {}
        room, ranked = self._ranked[self.budgets]
        placed = (n_gpu_layers, n_cpu_moe, n_ubatch, depth)
        key = (*placed, attention)
        seconds = ranked.get(key)
        if seconds is None:
            seconds = ranked[key] = self.speed.least_turn(*placed, room, attention)
        return seconds

    def least_of_splits(self, settings: Settings, depth: int) -> float:
        """The same of settings whose split over several GPUs is open, what their cache and the
        least of their compute buffers take counted; inf where nothing fits."""
        self.work.steps += _SHARING * self.n_items
        fitting = self.fitting
        held, spaces = fitting.estimator.held(settings), fitting.spaces(settings)
        return self.speed.least_of_splits(settings, depth, held, spaces, self._attention(settings))

    def _room(self) -> list[int]:
        """Bytes for layers on each device, at most, the host last."""
        fixed = self.fitting.estimator.fixed
        return [b - f for b, f in zip(self.budgets.limits, fixed, strict=False)]

    def settings(self, wishes: Wishes, n_ctx: int, choice: CacheChoice) -> Settings:
        """A choice at a context with all that is fixed beside it, nothing offloaded yet."""
        choices = {
            "n_ctx": n_ctx,
            "type_k": choice.type_k,
            "type_v": choice.type_v,
            "n_ubatch": choice.n_ubatch,
        }
        nothing = {"n_gpu_layers": 0, "n_cpu_moe": 0, "tensor_split": ()}
        return Settings(**{**wishes.settings, **choices, **nothing})

    def whole(self, n_gpu_layers: int, n_cpu_moe: int) -> bool:
        """The whole model is on the GPUs, if there are any."""
        return not self.machine.gpus or self.model.whole(n_gpu_layers, n_cpu_moe)

    def _attention(self, settings: Settings) -> Attention:
        """How the devices meet the cache."""
        s = settings
        key = (s.type_k, s.type_v, s.flash_attn)
        if key not in self._attentions:
            found = AS_IT_IS
            if s.flash_attn != "off" and not self.model.hparams.row.unfused:
                copied = constraints.converts_cache(self.model, s.type_k, s.type_v, self.machine)
                unpacked = backend(self.machine.host.backend).slow_prompts(s.type_k, s.type_v)
                pair = (s.type_k, s.type_v)
                found = Attention(copied if any(copied) else (), unpacked, pair)
            self._attentions[key] = found
        return self._attentions[key]
