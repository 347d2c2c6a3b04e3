"""Where nothing fits: by how many bytes, and what would fit instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tuner.machine.machine import Machine
from tuner.memory.cache_types import CACHE_TYPES
from tuner.planning.budgets import Budgets
from tuner.planning.plan import Candidate, distinct
from tuner.planning.solver import UBATCHES, Solver
from tuner.units import MIB, size_text
from tuner.wishes import FIXABLE, Wishes

# What is given up of the wishes, one after the other: these together, every other one by itself.
# Flash attention is not among them: who fixes it has a reason that memory does not change.
_TOGETHER = (("n_ctx",), ("type_k", "type_v"), ("n_gpu_layers", "n_cpu_moe", "tensor_split"))
_KEPT = ("flash_attn",)
_NAMED = (*_KEPT, *(name for names in _TOGETHER for name in names))
GIVEN_UP = (*_TOGETHER, *((name,) for name in FIXABLE if name not in _NAMED))
# What a plan decides beside the wishes that a calculation takes for usual (`Wishes.complete`).
_REST = ("n_cpu_moe", "n_ubatch", "tensor_split")
WITHOUT = "without these flags"  # the note of a plan that keeps none of them


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


def shortage_text(candidate: Candidate, machine: Machine, budgets: Budgets, wishes: Wishes) -> str:
    """By how many bytes of the budgets, and where, a plan does not fit, and which flags want it."""
    short = shortages(candidate, machine, budgets)
    if not wishes.flags:
        parts = (f"{where} is short by {_bytes(lacking)}" for where, lacking in short)
        return f"Nothing fits: {', '.join(parts)}."
    need = "needs" if len(wishes.flags) == 1 else "together need"
    parts = (f"{_bytes(lacking)} more than {where} has" for where, lacking in short)
    return f"{_listed(wishes.flags)} {need} {' and '.join(parts)}."


def ways_text(ways: Sequence[Candidate]) -> str:
    """By which other flags it would fit; "" where by none."""
    with_flags = [f"with {way.note}" for way in ways if way.note != WITHOUT]
    if with_flags:
        return f"It fits {_listed(with_flags, 'or')}, the rest as asked."
    for way in ways:
        s = way.settings
        return (
            f"Without these flags it fits, with {s.n_ctx:,} tokens of context and a cache of "
            f"K {s.type_k} and V {s.type_v}."
        )
    return ""


def reserve_text(candidate: Candidate, machine: Machine, budgets: Budgets) -> str:
    """With which smaller reserve these very settings would fit; "" where that is not what lacks."""
    n_gpus, totals = len(machine.gpus), candidate.footprint.totals
    left = [gpu.reserve + budgets.limits[i] - totals[i] for i, gpu in enumerate(machine.gpus)]
    if not left or any(budgets.short(totals)[n_gpus:]) or min(left) < 0:
        return ""
    s, reserve = candidate.settings, min(left) // MIB
    return (
        f"With --reserve {reserve}MiB it fits, with {s.n_ctx:,} tokens of context and a cache of "
        f"K {s.type_k} and V {s.type_v}; other programs on the GPU have no more than that left."
    )


def _bytes(lacking: int) -> str:
    return f"{size_text(lacking)} ({lacking:,} bytes)"


def _listed(parts: Sequence[str], word: str = "and") -> str:
    *first, last = parts
    return f"{', '.join(first)} {word} {last}" if first else last


def shortages(candidate: Candidate, machine: Machine, budgets: Budgets) -> list[tuple[str, int]]:
    """Where memory is missing, in words, and how many bytes, each of them once."""
    missing = budgets.missing(candidate.footprint.totals)
    limits = zip(machine.limits, missing, strict=True)
    return [(machine.text(limit), lacking) for limit, lacking in limits if lacking]


def short_text(candidate: Candidate, machine: Machine, budgets: Budgets) -> str:
    """The same in a few words; "" where it fits."""
    short = shortages(candidate, machine, budgets)
    return ", ".join(f"{where} is short by {size_text(lacking)}" for where, lacking in short)


def nearest(solver: Solver, wishes: Wishes) -> tuple[Candidate, ...]:
    """Plans that fit once some wishes are given up, then all of them. `note` says by which flags
    each is had; what it says was tried."""
    found = [_way(solver, wishes, names) for names in GIVEN_UP]
    none = wishes.without(*(name for names in GIVEN_UP for name in names))
    if none != wishes:
        without = solver.confirmed(none)[1]
        found.append(without and replace(without, note=WITHOUT))
    return tuple(distinct(found))


def _way(solver: Solver, wishes: Wishes, names: tuple[str, ...]) -> Candidate | None:
    """The best plan without these wishes, which has other values in their place."""
    given_up = [name for name in names if getattr(wishes, name) is not None]
    found = solver.best(wishes.without(*names)) if given_up else None
    if found is None:
        return None
    settings = found.settings
    rest = [x for x in _REST if getattr(wishes, x) is None and getattr(settings, x) != ()]
    for said in (given_up, dict.fromkeys((*given_up, *rest))):
        others: dict[str, Any] = {name: getattr(settings, name) for name in said}
        fits = solver.confirmed(replace(wishes, **others))[1]
        if fits and fits.fits:
            return replace(fits, note=" ".join(Wishes(**others).flags))
    return None
