"""The shapes that the cache of a loaded plan can take: its types, and how long a context each has
room for where the weights lie. A conversation goes from one to another without being read again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tuner.memory.cache_types import CACHE_TYPES, CHOSEN_TYPES
from tuner.planning import constraints
from tuner.planning.objective import LEAST_CONTEXT
from tuner.planning.plan import Shape
from tuner.planning.solver import MOST_CONTEXT, Solver
from tuner.settings import CONTEXT_PADDING, Settings
from tuner.units import padded


def shapes(solver: Solver, loaded: Settings) -> tuple[Shape, ...]:
    """For each pair of types that the cache could be converted to, the longest context that the
    solver's budgets hold beside these weights, by exact footprints; the most precise pair first.
    A pair that has no more context than a more precise one is left out. Some tenths of a second."""
    contexts = contexts_of(solver, loaded)
    found: list[Shape] = []
    taken = 0  # by a token in the cache of the last one
    for trial in convertible(solver, loaded):
        each = bytes_per_token(solver, trial)
        if found and (each >= taken or found[-1].n_ctx == contexts[-1]):
            continue
        longest = solver.fitting.furthest(trial, contexts)
        if longest is None or (found and longest.n_ctx <= found[-1].n_ctx):
            continue
        quality = solver.quality.of_pair(trial.type_k, trial.type_v)
        found.append(Shape(trial.type_k, trial.type_v, longest.n_ctx, quality))
        taken = each
    return tuple(found)


def convertible(solver: Solver, loaded: Settings) -> Iterator[Settings]:
    """The settings with each pair of types that a cache can be converted to and is read as it is,
    the one that loses least first; those that are loaded are among them. A cache of V that is
    transposed, or none of K and V at all, stays what it is."""
    fitting = solver.fitting
    if not (fitting.estimator.flash(loaded) and fitting.estimator.cache.layout.rows):
        return
    own = loaded.type_k, loaded.type_v
    pairs = [(k, v) for k in CHOSEN_TYPES for v in CHOSEN_TYPES if _bits(v) <= _bits(k)]
    trials = [replace(loaded, type_k=k, type_v=v) for k, v in dict.fromkeys((*pairs, own))]
    for trial in sorted(trials, key=lambda s: _precision(solver, s)):
        if (trial.type_k, trial.type_v) != own:
            if constraints.refusal(solver.model, trial, solver.machine) is not None:
                continue
            if constraints.slow_attention(solver.model, trial, solver.machine) is not None:
                continue
        yield trial


def contexts_of(solver: Solver, loaded: Settings) -> list[int]:
    """Tokens that a context may have, ascending, up to what the model was trained for or, where
    more is loaded, that; none between `MOST_CONTEXT` and that, which may be any number."""
    top = max(min(solver.model.n_ctx_train or LEAST_CONTEXT, MOST_CONTEXT), loaded.n_ctx)
    least = padded(min(LEAST_CONTEXT, top, loaded.n_ctx), CONTEXT_PADDING)
    return [*range(least, min(top, MOST_CONTEXT + 1), CONTEXT_PADDING), top]


def bytes_per_token(solver: Solver, settings: Settings) -> int:
    """What a token beyond the windows takes in the cache."""
    cache, n = solver.fitting.estimator.cache, solver.model.hparams.n_layer_all
    few, more = (cache.filled(settings, 0, n, tokens) for tokens in (1 << 20, 2 << 20))
    return (more - few) >> 20


def _precision(solver: Solver, settings: Settings) -> tuple[float, float]:
    k, v = settings.type_k, settings.type_v
    return solver.quality.of_pair(k, v).loss, -_bits(k) - _bits(v)


def _bits(name: str) -> float:
    return CACHE_TYPES[name].bits
