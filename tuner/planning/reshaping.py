"""Another cache for a loaded model, the weights staying where they are."""

from __future__ import annotations

from dataclasses import replace

from tuner.planning import constraints
from tuner.planning.objective import Objective
from tuner.planning.plan import Candidate, types_text
from tuner.planning.shapes import contexts_of, convertible
from tuner.planning.shortage import short_text
from tuner.planning.solver import Solver
from tuner.settings import CONTEXT_PADDING, Settings
from tuner.units import padded

Types = tuple[str, str]  # of K and V


def reshaped(
    solver: Solver,
    objective: Objective,
    loaded: Settings,
    *,
    n_ctx: int | None = None,
    types: Types | None = None,
    least: int = 0,
) -> Candidate | str:
    """The cache that keeps a wish for a context, for types, or for both, beside the weights of
    `loaded`, within the solver's budgets by exact footprints; or a sentence that says why there is
    none.

    A context alone takes the types that are loaded, or where these have no room for it the most
    precise ones that have. Types alone keep the context, or have the longest that fits. `least`:
    tokens that it must have room for, since the conversation has them. A tenth of a second.
    """
    refused = _refused(solver, loaded, types)
    if refused:
        return refused
    if n_ctx is not None and n_ctx < least:
        return f"The conversation has {least:,} tokens, so the context cannot be {n_ctx:,}."
    wished = loaded if types is None else replace(loaded, type_k=types[0], type_v=types[1])
    wished = wished.with_context(n_ctx or max(loaded.n_ctx, padded(least, CONTEXT_PADDING)))
    trials = [wished]
    if types is None:
        trials += [t for t in convertible(solver, wished) if _loses_more(solver, t, wished)]
    for trial in trials:
        found = _weighed(solver, objective, trial)
        if found.fits:
            return found
    if n_ctx is None:
        shorter = longest(solver, wished, least)
        if shorter is not None:
            return _weighed(solver, objective, shorter)
    return _no_room(solver, objective, wished, trials)


def longest(solver: Solver, settings: Settings, least: int = 0) -> Settings | None:
    """These settings with the longest context that fits, of no fewer than `least` tokens."""
    found = solver.fitting.furthest(settings, contexts_of(solver, settings))
    return found if found is not None and found.n_ctx >= least else None


def _refused(solver: Solver, loaded: Settings, types: Types | None) -> str | None:
    """Why such a cache cannot be had whatever memory there is."""
    estimator = solver.fitting.estimator
    own = loaded.type_k, loaded.type_v
    if types is not None and types != own and not estimator.cache.layout.rows:
        return "This model keeps no cache of K and V, only states, which have a type of their own."
    if not estimator.flash(loaded):
        return "Without flash attention the cache cannot be exchanged; the model is loaded anew."
    if types is None:
        return None
    trial = replace(loaded, type_k=types[0], type_v=types[1])
    return constraints.refusal(solver.model, trial, solver.machine)


def _loses_more(solver: Solver, trial: Settings, than: Settings) -> bool:
    a, b = (solver.quality.of_pair(s.type_k, s.type_v).loss for s in (trial, than))
    return a >= b and (trial.type_k, trial.type_v) != (than.type_k, than.type_v)


def _weighed(solver: Solver, objective: Objective, settings: Settings) -> Candidate:
    return solver.weighed(settings, objective)


def _no_room(solver: Solver, objective: Objective, wished: Settings, trials: list[Settings]) -> str:
    """What is missing, and how much context there is room for with the types that were tried."""
    short = short_text(_weighed(solver, objective, wished), solver.machine, solver.budgets)
    found = [longest(solver.without_checkpoint, trial) for trial in (trials[0], trials[-1])]
    rooms = dict.fromkeys(
        f"{s.n_ctx:,} tokens with {types_text(s.type_k, s.type_v)}" for s in found if s is not None
    )
    most = f" There is room for {' or '.join(rooms)}." if rooms else ""
    cache = types_text(wished.type_k, wished.type_v)
    return f"{wished.n_ctx:,} tokens with a cache of {cache} do not fit: {short}.{most}"
