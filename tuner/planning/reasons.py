"""Why a plan is what it is, and what to beware of, in sentences."""

from __future__ import annotations

from dataclasses import replace

from tuner.engine_version import other_engine_text
from tuner.machine.machine import Machine
from tuner.memory.cache_types import HIGH_PRECISION
from tuner.model.model import Model
from tuner.planning import constraints
from tuner.planning.differences import differences
from tuner.planning.objective import FULL_UBATCH
from tuner.planning.plan import Candidate
from tuner.planning.solver import Solver
from tuner.units import size_text, tps_text
from tuner.wishes import Wishes


def reasons_for(solver: Solver, wishes: Wishes, chosen: Candidate) -> tuple[str, ...]:
    """Why the choice is what it is, in sentences, each held against the plan it rejects."""
    reasons = [_layers_reason(solver, chosen)]
    types = _types_reason(solver, wishes, chosen)
    context = _context_reason(solver, wishes, chosen)
    reasons += [r for r in (types, context) if r]
    if chosen.settings.n_ubatch < FULL_UBATCH and wishes.n_ubatch is None:
        reasons.append(
            f"n_ubatch {chosen.settings.n_ubatch} instead of {FULL_UBATCH}: the smaller compute "
            "buffer is what makes the rest fit; prompts are processed a little slower."
        )
    return tuple(reasons)


def warnings_for(
    model: Model, chosen: Candidate, machine: Machine, wishes: Wishes
) -> tuple[str, ...]:
    """What to beware of on this machine with the chosen settings, each said once: what holds for
    the settings whoever chose them (`constraints.notes`), then what depends on who did."""
    s = chosen.settings
    other_engine = other_engine_text(machine.engine_version)
    found = [*machine.warnings, *([other_engine] if other_engine else [])]
    found += constraints.notes(model, s, machine)
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
    return tuple(found)


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
    one_more = Wishes.of_settings(replace(s, n_gpu_layers=s.n_gpu_layers + 1, tensor_split=()))
    missing = solver.calculate(one_more).lacking(solver.budgets)
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
    # The types are what is explained, and the batch has a sentence of its own.
    rest = replace(other.settings, type_k=s.type_k, type_v=s.type_v, n_ubatch=s.n_ubatch)
    clauses = [d.clause for d in differences(solver.model, s, rest)]
    if not clauses:
        return None
    theirs, ours = tps_text(other.speed.decode_tps), tps_text(chosen.speed.decode_tps)
    speed = f" ({theirs} tokens/s against {ours})" if theirs != ours else ""
    return f"The cache is {name}: f16 would {' and '.join(clauses)}{speed}."


def _context_reason(solver: Solver, wishes: Wishes, chosen: Candidate) -> str | None:
    if wishes.n_ctx is not None:
        return None
    n_ctx, n_ctx_train = chosen.settings.n_ctx, solver.model.n_ctx_train
    wished = solver.objective(wishes).wished_context
    if n_ctx < wished:
        other = solver.best(replace(wishes, n_ctx=wished))
        if other is None:
            return f"The context is {n_ctx:,} tokens: {wished:,} do not fit."
        return (
            f"The context is {n_ctx:,} tokens: {wished:,} would slow decoding to "
            f"{tps_text(other.speed.decode_tps)} tokens/s from "
            f"{tps_text(chosen.speed.decode_tps)}."
        )
    if n_ctx == wished < n_ctx_train:
        return f"The context is the {n_ctx:,} tokens that a chat gets where nobody asks for more."
    if n_ctx >= n_ctx_train:
        return f"The context is all that the model was trained for: {n_ctx:,} tokens."
    return f"Memory left over goes to the context: {n_ctx:,} tokens."
