"""Where nothing fits: by how many bytes, and what would fit instead."""

from __future__ import annotations

from dataclasses import replace

from tuner.machine.machine import Machine
from tuner.memory.cache_types import CACHE_TYPES
from tuner.planning.budgets import Budgets
from tuner.planning.plan import Candidate, distinct
from tuner.planning.solver import UBATCHES, Solver
from tuner.units import size_text
from tuner.wishes import FIXABLE, Wishes

# What is given up of the wishes, one after the other, and as what it is offered: these together,
# every other one by its name. Flash attention is not among them: who fixes it has a reason that
# memory does not change.
_TOGETHER = {
    "another context": ("n_ctx",),
    "other cache types": ("type_k", "type_v"),
    "other GPU layers": ("n_gpu_layers", "n_cpu_moe", "tensor_split"),
}
_KEPT = ("flash_attn",)
_NAMED = (*_KEPT, *(name for names in _TOGETHER.values() for name in names))
GIVEN_UP = _TOGETHER | {f"another {name}": (name,) for name in FIXABLE if name not in _NAMED}


def least_short(solver: Solver, wishes: Wishes) -> Candidate:
    """The settings that keep every wish and miss the budgets by the fewest bytes."""
    pairs = list(solver.pairs(wishes)) or [(wishes.type_k or "f16", wishes.type_v or "f16")]
    type_k, type_v = min(pairs, key=lambda p: CACHE_TYPES[p[0]].bits + CACHE_TYPES[p[1]].bits)
    thrifty = replace(
        wishes,
        n_ctx=wishes.n_ctx or solver.contexts(wishes)[0],
        type_k=type_k,
        type_v=type_v,
        n_ubatch=wishes.n_ubatch or min(UBATCHES),
    )
    layers = range(solver.n_items + 1) if solver.machine.gpus else range(1)
    return solver.nearest_miss(
        [
            replace(thrifty, n_gpu_layers=n)
            for n in ([wishes.n_gpu_layers] if wishes.n_gpu_layers is not None else layers)
        ]
    )


def shortage_text(candidate: Candidate, machine: Machine, budgets: Budgets, *, wished: bool) -> str:
    """By how many bytes of the budgets, and where, a plan does not fit; `wished`: the user fixed
    something."""
    parts = [
        f"{where} is short by {size_text(lacking)} ({lacking:,} bytes)"
        for where, lacking in shortages(candidate, machine, budgets)
    ]
    start = "Nothing that keeps your settings fits: " if wished else "Nothing fits: "
    return start + ", ".join(parts) + "."


def shortages(candidate: Candidate, machine: Machine, budgets: Budgets) -> list[tuple[str, int]]:
    """Where memory is missing, in words, and how many bytes, each of them once."""
    missing = budgets.missing(candidate.footprint.totals)
    limits = zip(machine.limits, missing, strict=True)
    return [(machine.text(limit), lacking) for limit, lacking in limits if lacking]


def nearest(solver: Solver, wishes: Wishes) -> tuple[Candidate, ...]:
    """Plans that fit once one wish is given up, then all of them. `note` says which."""
    all_of_them = tuple(name for names in GIVEN_UP.values() for name in names)
    found = []
    for note, names in {**GIVEN_UP, "no fixed settings": all_of_them}.items():
        relaxed = wishes.without(*names)
        if relaxed != wishes:
            candidate = solver.best(relaxed)
            found.append(candidate and replace(candidate, note=note))
    return tuple(distinct(found))
