"""The solver's answer made whole: the choice, its alternatives, its fallbacks, its reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tuner.errors import UsageError
from tuner.machine.machine import Machine
from tuner.memory.cache_types import CACHE_TYPES
from tuner.model.model import Model
from tuner.planning import constraints
from tuner.planning.objective import HIGH_PRECISION, LEAST_CONTEXT
from tuner.planning.plan import Candidate, Plan
from tuner.planning.solver import Solver
from tuner.settings import Settings
from tuner.units import GIB, size_text, tps_text
from tuner.wishes import PREFERENCES, Wishes

# The ladder after a load that failed for memory: shares of each GPU's budget to plan for next.
LADDER = (0.94, 0.86, 0.72, 0.50)
_ROUNDS = 6  # of searches with ever less memory


def make_plan(
    model: Model,
    machine: Machine,
    wishes: Wishes,
    *,
    margins: Sequence[int] = (),
    solver: Solver | None = None,
) -> Plan:
    """The whole answer. `margins` are bytes per device that the engine was seen to need beyond
    what is computed; `solver` is one of this model and machine, where there is one already.
    `chosen.fits` is False where nothing that keeps the wishes fits; then `chosen` is what misses
    by the fewest bytes and `alternatives` are the nearest that do fit.

    Raises UsageError where a wish is one that the engine would refuse.
    """
    wishes = wishes.for_model(model)
    if wishes.tensor_split is not None:
        wishes = replace(wishes, tensor_split=_padded(wishes.tensor_split, len(machine.gpus)))
    solver = solver or Solver(model, machine)
    if not any(solver.pairs(wishes)):
        trial = Settings(
            LEAST_CONTEXT,
            wishes.type_k or "f16",
            wishes.type_v or "f16",
            flash_attn=wishes.flash_attn or "on",
        )
        raise UsageError(
            constraints.refusal(model, trial, machine) or "the engine refuses these cache types."
        )
    if margins:
        budgets = (b - m for b, m in zip(solver.budgets, margins, strict=True))
        solver = solver.within(tuple(budgets))
    warnings = [*machine.warnings]
    solver, chosen = _settled(solver, wishes)
    if chosen is None or not chosen.fits:
        chosen = chosen or solver.exactly(least_short(solver, wishes))
        near = nearest(solver, wishes)
        anything = Wishes(prefer=wishes.prefer, use_extra_bufts=wishes.use_extra_bufts)
        reasons = (shortage_text(chosen, machine, wished=wishes != anything),)
        warnings += notes(model, chosen, machine, wishes)
        return Plan(model, machine, wishes, chosen, near, (), None, reasons, tuple(warnings))
    warnings += notes(model, chosen, machine, wishes)
    return Plan(
        model,
        machine,
        wishes,
        chosen,
        alternatives(solver, wishes, chosen),
        fallbacks(solver, wishes, chosen),
        one_more_gib(solver, wishes, chosen),
        reasons_for(solver, wishes, chosen),
        tuple(warnings),
    )


def _settled(solver: Solver, wishes: Wishes) -> tuple[Solver, Candidate | None]:
    """The best choice with its exact footprint. The search goes by quicker footprints, which may
    be a few MiB low; where that breaks a budget, the search is repeated with so much less. The
    solver is the one that found it."""
    if wishes.complete:
        return solver, solver.exactly(solver.calculate(wishes))
    budgets = solver.budgets
    for _ in range(_ROUNDS):
        found = solver.best(wishes)
        if found is None:
            return solver, None
        exact = solver.exactly(found)
        short = exact.short(budgets)
        if not any(short):
            return solver, replace(exact, fits=True)
        less = (b - s for b, s in zip(solver.budgets, short, strict=True))
        solver = solver.within(tuple(less))
    return solver, None


def _padded(split: tuple[float, ...], n_gpus: int) -> tuple[float, ...]:
    """A share for each GPU; those that were not named get none. Raises UsageError."""
    if n_gpus and len(split) > n_gpus:
        raise UsageError(
            f"--tensor-split names {len(split)} shares, but there {'are' if n_gpus > 1 else 'is'} "
            f"{n_gpus} GPU{'s' if n_gpus > 1 else ''}."
        )
    if n_gpus and not any(split):
        raise UsageError("--tensor-split needs a share above 0.")
    return (*split, *[0.0] * (n_gpus - len(split))) if n_gpus > 1 else ()


# ------------------------------------------------------------------ other choices


def alternatives(solver: Solver, wishes: Wishes, chosen: Candidate) -> tuple[Candidate, ...]:
    """What else fits and is better in something: speed, context or cache precision."""
    found: list[Candidate] = []

    def consider(note: str, wish: Wishes) -> None:
        candidate = solver.best(wish)
        if candidate and all(candidate.settings != c.settings for c in (chosen, *found)):
            found.append(replace(candidate, note=note))

    for prefer in PREFERENCES:
        if prefer == "context" and len(solver.machine.gpus) > 1:
            continue  # slow over several GPUs, and the contexts below say as much
        consider(f"--prefer {prefer}", replace(wishes, prefer=prefer))
    if wishes.type_k is None and wishes.type_v is None:
        for name in ("f16", "q8_0", "q4_0"):
            if (name, name) in solver.pairs(wishes):
                consider(f"--kv {name}", replace(wishes, type_k=name, type_v=name))
    if wishes.n_ctx is None:
        objective = solver.objective(wishes)
        for n_ctx in (objective.wished_context, solver.model.n_ctx_train):
            consider(f"--ctx {n_ctx}", replace(wishes, n_ctx=n_ctx))
    kept: list[Candidate] = []
    for c in found:  # of equals, the first is enough
        beaten = any(_dominates(o, c) for o in (chosen, *found))
        if not beaten and _felt(c) not in map(_felt, (chosen, *kept)):
            kept.append(c)
    return tuple(sorted(kept, key=lambda c: (-c.speed.decode_tps, -c.settings.n_ctx)))


def _felt(c: Candidate) -> tuple[float, ...]:
    """What a user feels of a plan, more being better."""
    return round(c.speed.decode_tps, 1), c.settings.n_ctx, -c.quality.loss


def _dominates(a: Candidate, b: Candidate) -> bool:
    """`a` is at least as good as `b` in all that a user feels, and better in something."""
    pa, pb = _felt(a), _felt(b)
    return pa != pb and all(x >= y for x, y in zip(pa, pb, strict=True))


def fallbacks(solver: Solver, wishes: Wishes, chosen: Candidate) -> tuple[Candidate, ...]:
    """What to try, in order, where a load runs out of memory all the same."""
    found: list[Candidate] = []
    gpus = len(solver.machine.gpus)
    before = chosen.footprint.uses[:gpus]
    for share in LADDER if gpus else ():
        tighter = [int(b * share) for b in solver.budgets[:gpus]]
        # Never more than what just failed: a plan far under budget must shrink too.
        # A GPU that was left empty may help out; what its driver takes cannot shrink.
        limits = [
            min(t, int(u.total * share)) if u.weights else t
            for t, u in zip(tighter, before, strict=True)
        ]
        candidate = solver.within((*limits, solver.budgets[-1])).best(wishes)
        if candidate and all(candidate.settings != c.settings for c in (chosen, *found)):
            found.append(replace(candidate, note=f"{share:.0%} of the memory"))
    if gpus and wishes.n_gpu_layers is None and chosen.settings.n_gpu_layers:
        candidate = solver.best(replace(wishes, n_gpu_layers=0))
        if candidate and all(candidate.settings != c.settings for c in found):
            found.append(replace(candidate, note="no layers on a GPU"))
    if not gpus and wishes.n_ctx is None and chosen.settings.n_ctx > LEAST_CONTEXT:
        candidate = solver.best(replace(wishes, n_ctx=LEAST_CONTEXT))
        if candidate:
            found.append(replace(candidate, note="a short context"))
    return tuple(found)


def one_more_gib(solver: Solver, wishes: Wishes, chosen: Candidate) -> Candidate | None:
    """The choice if every GPU (without one: the host) had 1 GiB more, where it differs."""
    gpus = len(solver.machine.gpus)
    grown = [b + GIB for b in solver.budgets[:gpus]]
    host = solver.budgets[-1] + (0 if gpus else GIB)
    candidate = solver.within((*grown, host)).best(wishes)
    return candidate if candidate and candidate.settings != chosen.settings else None


# ------------------------------------------------------------------ where nothing fits


def least_short(solver: Solver, wishes: Wishes) -> Candidate:
    """The settings that keep every wish and miss the budgets by the fewest bytes."""
    pairs = list(solver.pairs(wishes)) or [(wishes.type_k or "f16", wishes.type_v or "f16")]
    type_k, type_v = min(pairs, key=lambda p: CACHE_TYPES[p[0]].bits + CACHE_TYPES[p[1]].bits)
    thrifty = replace(
        wishes,
        n_ctx=wishes.n_ctx or solver.contexts(wishes)[0],
        type_k=type_k,
        type_v=type_v,
        n_ubatch=wishes.n_ubatch or 128,
    )
    layers = range(solver.n_items + 1) if solver.machine.gpus else range(1)
    trials = [
        solver.calculate(replace(thrifty, n_gpu_layers=n))
        for n in ([wishes.n_gpu_layers] if wishes.n_gpu_layers is not None else layers)
    ]
    return min(trials, key=lambda c: sum(c.short(solver.budgets)))


def shortage_text(candidate: Candidate, machine: Machine, *, wished: bool) -> str:
    """By how many bytes, and where, a plan does not fit."""
    parts = [
        f"{d.id} is short by {size_text(u.total - d.budget)} ({u.total - d.budget:,} bytes)"
        for u, d in zip(candidate.footprint.uses, machine.devices, strict=True)
        if u.total > d.budget
    ]
    start = "Nothing that keeps your settings fits: " if wished else "Nothing fits: "
    return start + ", ".join(parts) + "."


def nearest(solver: Solver, wishes: Wishes) -> tuple[Candidate, ...]:
    """Plans that fit once one wish is given up, then all of them."""
    relaxed = {
        "another context": replace(wishes, n_ctx=None),
        "other cache types": replace(wishes, type_k=None, type_v=None),
        "other GPU layers": replace(wishes, n_gpu_layers=None, n_cpu_moe=None, tensor_split=None),
        "another n_ubatch": replace(wishes, n_ubatch=None),
        "no fixed settings": Wishes(
            flash_attn=wishes.flash_attn,
            use_extra_bufts=wishes.use_extra_bufts,
            prefer=wishes.prefer,
        ),
    }
    found: list[Candidate] = []
    for note, wish in relaxed.items():
        if wish == wishes:
            continue
        candidate = solver.best(wish)
        if candidate and all(candidate.settings != c.settings for c in found):
            found.append(replace(candidate, note=note))
    return tuple(found)


# ------------------------------------------------------------------ why


def reasons_for(solver: Solver, wishes: Wishes, chosen: Candidate) -> tuple[str, ...]:
    """Why the choice is what it is, in sentences, each checked against the plan it rejects."""
    reasons = [_layers_reason(solver, chosen)]
    types = _types_reason(solver, wishes, chosen)
    context = _context_reason(solver, wishes, chosen)
    reasons += [r for r in (types, context) if r]
    if chosen.settings.n_ubatch < 512 and wishes.n_ubatch is None:
        reasons.append(
            f"n_ubatch {chosen.settings.n_ubatch} instead of 512: the smaller compute buffer "
            "is what makes the rest fit; prompts are processed a little slower."
        )
    return tuple(reasons)


def _layers_reason(solver: Solver, chosen: Candidate) -> str:
    s, n = chosen.settings, solver.n_items
    if not solver.machine.gpus:
        return "No GPU is in use: every layer runs on the CPU."
    if s.n_gpu_layers >= n and s.n_cpu_moe == 0:
        if len(solver.machine.gpus) > 1:
            used = [g.id for g, c in zip(solver.machine.gpus, s.tensor_split, strict=True) if c]
            return f"All {n} layers are on {' and '.join(used)}: nothing waits for the CPU."
        return f"All {n} layers are on the GPU: nothing waits for the CPU."
    if s.n_gpu_layers >= n:
        moe = solver.model.moe_layers
        kept = sum(1 for layer in moe if layer < s.n_cpu_moe)
        return (
            f"All {n} layers are on the GPU but for the experts of {kept} of {len(moe)}, which "
            "stay in RAM: only a few experts are read per token, so they lose the least there."
        )
    more = solver.calculate(_fixed(replace(s, n_gpu_layers=s.n_gpu_layers + 1, tensor_split=())))
    missing = sum(more.short(solver.budgets))
    text = f"{s.n_gpu_layers} of {n} layers are on the GPU"
    if missing:
        text += f"; one more would need {size_text(missing)} more"
    return text + "."


def _types_reason(solver: Solver, wishes: Wishes, chosen: Candidate) -> str | None:
    s = chosen.settings
    if wishes.type_k or wishes.type_v:
        return None
    if s.type_k == s.type_v == "f16":
        return "The cache stays in f16, at full precision: it fits as it is."
    other = solver.best(replace(wishes, type_k="f16", type_v="f16"))
    name = s.type_k if s.type_k == s.type_v else f"{s.type_k} (K) and {s.type_v} (V)"
    if other is None:
        return f"The cache is {name}: with f16 nothing fits."
    o, parts = other.settings, []
    if o.n_gpu_layers != s.n_gpu_layers:
        parts.append(f"keep {o.n_gpu_layers} of {solver.n_items} layers on the GPU")
    if o.n_cpu_moe != s.n_cpu_moe:
        parts.append(f"leave the experts of {o.n_cpu_moe} layers in RAM")
    if o.n_ctx != s.n_ctx:
        parts.append(f"give {o.n_ctx:,} tokens of context")
    if not parts:
        return None
    theirs, ours = tps_text(other.speed.decode_tps), tps_text(chosen.speed.decode_tps)
    speed = f" ({theirs} tokens/s against {ours})" if theirs != ours else ""
    return f"The cache is {name}: f16 would {' and '.join(parts)}{speed}."


def _context_reason(solver: Solver, wishes: Wishes, chosen: Candidate) -> str | None:
    n_ctx, objective = chosen.settings.n_ctx, solver.objective(wishes)
    if wishes.n_ctx is not None:
        return None
    if n_ctx < objective.wished_context:
        other = solver.best(replace(wishes, n_ctx=objective.wished_context))
        if other is None:
            return f"The context is {n_ctx:,} tokens: {objective.wished_context:,} do not fit."
        return (
            f"The context is {n_ctx:,} tokens: {objective.wished_context:,} would slow decoding to "
            f"{tps_text(other.speed.decode_tps)} tokens/s from "
            f"{tps_text(chosen.speed.decode_tps)}."
        )
    if n_ctx == objective.wished_context < solver.model.n_ctx_train:
        return f"The context is the {n_ctx:,} tokens that a chat gets where nobody asks for more."
    if n_ctx >= solver.model.n_ctx_train:
        return f"The context is all that the model was trained for: {n_ctx:,} tokens."
    return f"Memory left over goes to the context: {n_ctx:,} tokens."


def _fixed(settings: Settings) -> Wishes:
    """Wishes that leave nothing open but the split."""
    return Wishes(
        n_ctx=settings.n_ctx,
        type_k=settings.type_k,
        type_v=settings.type_v,
        n_gpu_layers=settings.n_gpu_layers,
        n_cpu_moe=settings.n_cpu_moe,
        n_ubatch=settings.n_ubatch,
        tensor_split=settings.tensor_split or None,
        flash_attn=settings.flash_attn,
        use_extra_bufts=settings.use_extra_bufts,
    )


def notes(model: Model, chosen: Candidate, machine: Machine, wishes: Wishes) -> list[str]:
    """Warnings about the chosen settings."""
    s = chosen.settings
    found = list(constraints.notes(model, s, machine))
    if s.n_ctx > model.n_ctx_train:
        found.append(
            f"The context of {s.n_ctx:,} tokens is longer than the {model.n_ctx_train:,} that "
            "the model was trained for: answers may fall apart beyond that."
        )
    free = wishes.type_k is None and wishes.type_v is None
    if free and not {s.type_k, s.type_v} <= HIGH_PRECISION:
        found.append(
            "A cache below q8_0 costs some quality, more with some models than with others; "
            "--kv q8_0 keeps it."
        )
    if (wishes.n_gpu_layers or wishes.tensor_split) and not machine.gpus:
        found.append("No GPU is in use, so --gpu-layers and --tensor-split have no effect.")
    if wishes.n_cpu_moe and not model.moe_layers:
        found.append("This model has no experts, so --n-cpu-moe has no effect.")
    return found
