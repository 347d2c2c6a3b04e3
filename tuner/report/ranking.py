"""Several files of one run, held against each other: which is the best to chat with here, and which
of a model's quantizations to take."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from tuner.errors import KvchatError
from tuner.model.model import Model
from tuner.planning import Plan
from tuner.planning.budgets import Budgets
from tuner.planning.speed import TURN_ANSWER, TURN_PROMPT

# Quantizations, as names spell them: Q4_K_M, IQ3_XXS, bf16.
_QUANTIZATION = re.compile(r"(?<![^\W_])((i|t)?q\d\w*|b?f(16|32)|mxfp4\w*|nvfp4\w*)(?!\w)")
ENOUGH_CONTEXT = 8_192  # tokens: less is no reason to take a larger quantization
USEFUL_BITS = 9.0  # per weight: nobody notices what is beyond Q8_0's 8.5
RULE = (
    f"Best first: the fastest turn ({TURN_PROMPT:,} tokens read, {TURN_ANSWER} written), less what "
    "a short context or a low cache type gives up; then what does not fit, and what cannot be used."
)
TAKE = (
    "* Of several quantizations of a model: the largest, up to Q8_0, that is wholly on the GPU "
    f"with {ENOUGH_CONTEXT:,} tokens of context and a cache of q8_0 or better."
)

Result = Plan | KvchatError  # of a file


@dataclass(frozen=True, slots=True)
class Ranked:
    """A file's result and its place among all."""

    path: str
    result: Result
    rank: int  # from 1
    take: bool = False  # of the quantizations of its model it is the one to take


def ranked(results: Sequence[tuple[str, Result]]) -> list[Ranked]:
    """The results in the order given, each with its place. Plans are told apart by what chose each
    of them (`tuner/planning/objective.py`), which depends on nothing but the plan; those that do
    not fit by how little they lack; the others keep their order."""
    order = sorted(range(len(results)), key=lambda i: _key(results[i][1]))
    places = {index: place for place, index in enumerate(order, 1)}
    taken = _taken([result for _, result in results if isinstance(result, Plan)])
    return [
        Ranked(path, result, places[i], any(result is plan for plan in taken))
        for i, (path, result) in enumerate(results)
    ]


def lacking(plan: Plan) -> int:
    """Bytes that are missing in all."""
    return plan.chosen.lacking(Budgets.of(plan.machine))


def _key(result: Result) -> tuple[float, ...]:
    if isinstance(result, KvchatError):
        return (2,)
    if not result.chosen.fits:
        return (1, lacking(result))
    return (0, -result.chosen.score, -result.chosen.settings.n_ctx)


def _taken(plans: Sequence[Plan]) -> list[Plan]:
    """Of each model that is there in several quantizations, the plan for the one to take."""
    groups: dict[Hashable, list[Plan]] = defaultdict(list)
    for plan in plans:
        groups[_same(plan.model)].append(plan)
    several = (found for found in groups.values() if len({p.model.fingerprint for p in found}) > 1)
    good = ([plan for plan in found if _good(plan)] for found in several)
    return [max(found, key=_worth) for found in good if found]


def _worth(plan: Plan) -> tuple[bool, int]:
    """The larger the better, up to what anybody notices."""
    size = plan.model.size_bytes
    useful = 8 * size <= USEFUL_BITS * plan.model.n_params
    return useful, size if useful else -size


def _same(model: Model) -> Hashable:
    """What the quantizations of a model have in common: its shape, and its name without theirs."""
    name = _QUANTIZATION.sub("", model.name.casefold())
    shape = (model.architecture, model.n_layer_all, model.n_embd, model.n_vocab, model.n_params)
    return (*shape, re.sub(r"[\W_]+", "", name))


def _good(plan: Plan) -> bool:
    """Nothing of the model waits for the CPU, and neither context nor cache was given up for it."""
    s, model = plan.chosen.settings, plan.model
    whole = plan.machine.gpus and model.whole(s.n_gpu_layers, s.n_cpu_moe)
    enough = min(ENOUGH_CONTEXT, model.n_ctx_train, plan.wishes.n_ctx or ENOUGH_CONTEXT)
    return bool(plan.chosen.fits and whole and s.n_ctx >= enough and plan.chosen.quality.precise)
