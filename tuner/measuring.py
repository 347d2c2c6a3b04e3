"""Measures what cache types cost a model in quality: loads it, and reads a text with each pair.

Everything here blocks and belongs in a thread; what happens is told as events.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tuner.engine.protocol import LossesMeasured, MeasureLosses, Progress
from tuner.errors import NoFitError, UsageError
from tuner.launch import Launcher, Planned, Ready, Retry, Stage
from tuner.launch.loading import no_fit_text
from tuner.memory.cache_losses import MAX_TOKENS, CacheLosses
from tuner.memory.footprint import DeviceUse
from tuner.planning import Candidate, Plan, Solver, with_choice
from tuner.settings import Settings
from tuner.tuning import Tuning
from tuner.units import MIB, size_text

N_TOKENS = 512  # of the text, unless told otherwise
LEAST_TOKENS = 32
_DECODED = 16  # tokens behind them, one by one, for the speed
_CHUNK = 128  # tokens that are read at once, at most,
_LOGITS = 64 * MIB  # and bytes that their logits may take
_F32 = 4
# Bytes that a GPU's backend keeps for itself in each context, a workspace of cuBLAS and a pool for
# scratch; nobody says how many, so this is assumed.
_POOL = 128 * MIB

MeasuringEvent = Stage | Planned | Retry | CacheLosses


@dataclass(frozen=True, slots=True)
class Text:
    """What is read. `name`: of its file; "" for the built-in one."""

    text: str
    name: str = ""

    @classmethod
    def built_in(cls) -> Text:
        """One of our own: prose, lists, tables, letters, talk and code."""
        return cls(Path(__file__).with_name("sample_text.txt").read_text("utf-8"))


def measured(
    launcher: Launcher, text: Text, n_tokens: int | None = None
) -> Iterator[MeasuringEvent]:
    """Loads the model with as many layers on the GPUs as a chat would have, a short f16 cache, and
    reads `n_tokens` of the text with each pair of types that a plan could choose from, or that the
    wishes leave. The last event is what came; the profile has it, too.

    Raises UsageError where the text or the model's context is too short, and as a launch does.
    """
    tuning = Tuning.of(launcher.request)
    n_tokens = _length(tuning, n_tokens)
    yield Stage("planning")
    plan = tuning.plan()
    if not plan.chosen.fits:
        raise NoFitError(no_fit_text(plan, tuning.advise(plan)))
    solver = tuning.solver
    short = _short(solver, plan, n_tokens)
    request = _request(tuning, short, text, n_tokens)
    loads = with_choice(plan.offering(fallbacks=()), short, solver)
    for event in launcher.load(tuning, loads, keep=False):
        if not isinstance(event, Ready):
            yield event
            continue
        for progress in event.running.measure_losses(request):
            match progress:
                case Progress(fraction):
                    yield Stage("measuring", fraction)
                case LossesMeasured(losses):
                    losses = replace(losses, text=text.name)
                    yield tuning.lessons.remember_losses(losses)


def _length(tuning: Tuning, n_tokens: int | None) -> int:
    """Tokens that are read. Raises UsageError."""
    trained = tuning.model.n_ctx_train or MAX_TOKENS
    most = min(trained - _DECODED, MAX_TOKENS)
    if n_tokens is None:
        return max(LEAST_TOKENS, min(N_TOKENS, most))
    if not LEAST_TOKENS <= n_tokens <= most:
        raise UsageError(
            f"--tokens can be {LEAST_TOKENS} to {most:,}: this model was trained for a context of "
            f"{trained:,} tokens, of which {_DECODED} are for the speed."
        )
    return n_tokens


def _short(solver: Solver, plan: Plan, n_tokens: int) -> Candidate:
    """The choice with an f16 cache for the text alone."""
    settings = replace(plan.chosen.settings, n_ctx=n_tokens + _DECODED, type_k="f16", type_v="f16")
    return solver.weighed(settings, solver.objective(plan.wishes))


def _request(tuning: Tuning, loaded: Candidate, text: Text, n_tokens: int) -> MeasureLosses:
    """What the engine is asked for. Raises NoFitError where it has no room for two caches beside
    the model, UsageError where there is nothing to compare."""
    solver, model = tuning.solver, tuning.model
    if not solver.fitting.estimator.cache.layout.rows:
        raise UsageError("this model keeps no cache of K and V: there is nothing to measure.")
    pairs = [pair for pair in solver.pairs(tuning.wishes) if pair != ("f16", "f16")]
    if not pairs:
        raise UsageError("the flags leave no cache but f16: there is nothing to compare.")
    chunk = max(1, min(_CHUNK, _LOGITS // (_F32 * model.n_vocab) // 16 * 16))
    each = _each(solver, loaded.settings, pairs, chunk)

    def with_caches(n: int) -> list[int]:
        """Bytes per device with so many caches beside the model's own."""
        return [own + n * one for own, one in zip(loaded.footprint.totals, each, strict=True)]

    missing = solver.budgets.missing(with_caches(2))  # f16, and one to compare with it
    if any(missing):
        limits = zip(tuning.machine.limits, missing, strict=True)
        lacking = " and ".join(
            f"{tuning.machine.text(limit)} lacks {size_text(size)}"
            for limit, size in limits
            if size
        )
        raise NoFitError(
            f"Two caches of {n_tokens:,} tokens with their logits are needed beside the model, but "
            f"{lacking}: try fewer --tokens or --gpu-layers."
        )
    side_by_side = 1
    while side_by_side <= len(pairs) and solver.budgets.hold(with_caches(side_by_side + 2)):
        side_by_side += 1
    return MeasureLosses(text.text, n_tokens, _DECODED, chunk, side_by_side, tuple(pairs))


def _each(
    solver: Solver, settings: Settings, pairs: Sequence[tuple[str, str]], chunk: int
) -> list[int]:
    """Bytes per device that one cache takes at most, with its compute buffers and logits."""
    footprints = [
        solver.fitting.estimator.footprint(replace(settings, type_k=k, type_v=v, n_ubatch=chunk))
        for k, v in (("f16", "f16"), *pairs)
    ]
    *gpus, host = (
        max(map(_cache, uses)) for uses in zip(*(f.uses for f in footprints), strict=True)
    )
    logits = _F32 * chunk * solver.model.n_vocab
    # On whichever device they are computed, and on the host once more, where they are compared.
    return [*(size + logits + _POOL for size in gpus), host + 2 * logits]


def _cache(use: DeviceUse) -> int:
    return use.kv_cache + use.recurrent_state + use.compute
