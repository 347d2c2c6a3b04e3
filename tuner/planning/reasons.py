"""Why a plan is what it is, and what to beware of, in sentences."""

from __future__ import annotations

from dataclasses import replace

from tuner.engine_version import other_engine_text
from tuner.machine.machine import Machine
from tuner.memory.footprint import Footprint
from tuner.model.model import Model
from tuner.planning import constraints
from tuner.planning.alternatives import next_context
from tuner.planning.differences import differences
from tuner.planning.objective import FULL_UBATCH
from tuner.planning.plan import Candidate
from tuner.planning.quality import Quality
from tuner.planning.solver import Solver
from tuner.settings import CONTEXT_PADDING, Settings
from tuner.units import size_text, tps_text
from tuner.wishes import Wishes

# What a search for a plan to compare with may take: the choice waits for its reasons.
WHY_WORK = 400_000
_OPERATIONS = {  # what GPUs may have no kernel for
    "DSV4_HC_PRE": "the blend of this model's streams",
    "GATED_LINEAR_ATTN": "this model's linear attention",
    "LIGHTNING_INDEXER": "the scores by which this model picks tokens",
    "MUL_MAT_ID": "the last product of this model's experts",
    "SSM_SCAN": "the recurrence of this model's states",
}
NOTICED = 0.05  # of a speed: less is not felt


def reasons_for(solver: Solver, wishes: Wishes, chosen: Candidate) -> tuple[str, ...]:
    """Why the choice is what it is, in sentences, each held against the plan it rejects."""
    reasons = [_layers_reason(solver, chosen)]
    types = _types_reason(solver, wishes, chosen)
    context = _context_reason(solver, wishes, chosen)
    batch = _batch_reason(solver, wishes, chosen)
    checkpoint = _checkpoint_reason(solver, wishes, chosen)
    reasons += [r for r in (types, context, batch, checkpoint) if r]
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
    found += _on_cpu_warning(chosen.footprint, machine)
    free = wishes.type_k is None and wishes.type_v is None
    if free and not chosen.quality.precise:
        found.append(_loss_warning(chosen.quality))
    if not machine.gpus:
        asked = {"--gpu-layers": wishes.n_gpu_layers, "--tensor-split": wishes.tensor_split}
        idle = [flag for flag, value in asked.items() if value not in (None, 0)]
        if idle:
            verb = "has" if len(idle) == 1 else "have"
            found.append(f"No GPU is in use, so {' and '.join(idle)} {verb} no effect.")
    if wishes.n_cpu_moe and not model.moe_layers:
        found.append("This model has no experts, so --n-cpu-moe has no effect.")
    return tuple(found)


def _on_cpu_warning(footprint: Footprint, machine: Machine) -> list[str]:
    """That the CPU computes a part of what is on GPUs, whose speed takes no account of it."""
    if not footprint.on_cpu:
        return []
    backends = {gpu.id: gpu.backend for gpu in machine.gpus}
    names = sorted({backends[gpu] for gpu, _ in footprint.on_cpu})
    what = sorted({_OPERATIONS[op] for _, op in footprint.on_cpu})
    have = "has" if len(names) == 1 else "have"
    return [
        f"{' and '.join(names)} {have} no kernel for {', '.join(what)}: the engine computes that "
        "on the CPU, so that prompts and answers are slower than said here."
    ]


def _loss_warning(quality: Quality) -> str:
    if quality.source == "measured":
        return f"With this cache the model is {quality.text}; --kv q8_0 or f16 may keep more of it."
    return (
        "A cache below q8_0 costs some quality, more with some models than with others; "
        "--kv q8_0 keeps it, --measure tells how much."
    )


def _layers_reason(solver: Solver, chosen: Candidate) -> str:
    s, n = chosen.settings, solver.n_items
    if not solver.machine.gpus:
        return "No GPU is in use: every layer runs on the CPU."
    if solver.model.whole(s.n_gpu_layers, s.n_cpu_moe):
        waits = "" if chosen.footprint.on_cpu else ": nothing waits for the CPU"
        if len(solver.machine.gpus) > 1:
            used = [g.id for g, c in zip(solver.machine.gpus, s.tensor_split, strict=True) if c]
            return f"All {n} layers are on {' and '.join(used)}{waits}."
        return f"All {n} layers are on the GPU{waits}."
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
    asked = solver.hurried(WHY_WORK)
    other = asked.best(replace(wishes, type_k="f16", type_v="f16"))
    name = s.type_k if s.type_k == s.type_v else f"{s.type_k} (K) and {s.type_v} (V)"
    if other is None:
        return None if asked.gave_up else f"The cache is {name}: with f16 nothing fits."
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
        return _cut_reason(solver, wishes, chosen, wished)
    if n_ctx >= n_ctx_train:
        return f"The context is all that the model was trained for: {n_ctx:,} tokens."
    limit = _limit(solver, chosen.settings, wished)
    if n_ctx == wished:
        return f"The context is the {n_ctx:,} tokens that a chat may want{limit}."
    return f"Memory left over goes to the context: {n_ctx:,} tokens{limit}."


def _cut_reason(solver: Solver, wishes: Wishes, chosen: Candidate, wished: int) -> str:
    """What the next larger context would cost, and all that is wished."""
    n_ctx = chosen.settings.n_ctx
    asked, clauses = solver.hurried(WHY_WORK), []
    for more in dict.fromkeys((next_context(n_ctx, wished), wished)):
        other = asked.best(replace(wishes, n_ctx=more))
        if other is None:
            clauses += [] if asked.gave_up else [f"{more:,} do not fit"]
            break
        clauses.append(f"{more:,} would {_lost(solver.model, chosen, other)}")
    cost = f": {', '.join(clauses)}" if clauses else ""
    return f"The context is {n_ctx:,} tokens{cost}."


def _lost(model: Model, chosen: Candidate, other: Candidate) -> str:
    """What another plan has for its longer context: slower decoding, else other settings, else
    slower prompts."""
    ours, theirs = chosen.speed, other.speed
    decode = tps_text(theirs.decode_tps), tps_text(ours.decode_tps)
    if decode[0] != decode[1]:
        return f"slow decoding to {decode[0]} tokens/s from {decode[1]}"
    # The context is what is explained, and the batch has a sentence of its own.
    s = chosen.settings
    rest = replace(other.settings, n_ctx=s.n_ctx, n_ubatch=s.n_ubatch)
    changes = [d.clause for d in differences(model, s, rest)]
    if changes:
        return " and ".join(changes)
    return f"slow prompts to {theirs.prompt_tps:,.1f} tokens/s from {ours.prompt_tps:,.1f}"


def _checkpoint_reason(solver: Solver, wishes: Wishes, chosen: Candidate) -> str | None:
    """What the RAM of a checkpoint is better used for, and what is lost by that."""
    estimator = solver.fitting.estimator
    size = estimator.checkpoint(chosen.settings) if estimator.lacks_checkpoint else 0
    if not size:
        return None
    asked = solver.counting(checkpoint=True).hurried(WHY_WORK)
    other = asked.best_alike(wishes)
    clauses = [] if other is None else differences(solver.model, chosen.settings, other.settings)
    if other is None or not clauses:
        why = "" if other or asked.gave_up else f": there is no room for its {size_text(size)}"
    else:
        speeds = (
            (verb, getattr(other.speed, name), getattr(chosen.speed, name))
            for verb, name in (("decode at", "decode_tps"), ("read prompts at", "prompt_tps"))
        )
        told = [
            f"{verb} {tps_text(theirs)} tokens/s instead of {tps_text(ours)}"
            for verb, theirs, ours in speeds
            if abs(theirs - ours) > NOTICED * ours
        ]
        costs = " and ".join((*(d.clause for d in clauses), *told))
        size = other.footprint.host.checkpoint
        why = f": a plan with one, of {size_text(size)} in RAM, would {costs}"
    return (
        f"No checkpoint of the conversation is planned{why}. After going back in it, the model "
        "reads it again from its beginning."
    )


def _limit(solver: Solver, settings: Settings, wished: int) -> str:
    """What keeps the context from being longer, as a clause; "" where it is neither."""
    fitting = solver.fitting
    more = settings.with_context(settings.n_ctx + CONTEXT_PADDING)
    short = fitting.budgets.short(fitting.estimator.totals(more))
    limits = zip(solver.machine.limits, short, strict=True)
    full = [solver.machine.text(limit) for limit, lacking in limits if lacking]
    if full:
        return f", and {' and '.join(full)} {'has' if len(full) == 1 else 'have'} no room for more"
    if fitting.longest(more, [more.n_ctx], wished) is None:
        return ", and half of what RAM was left stays free for other programs"
    return ""


def _batch_reason(solver: Solver, wishes: Wishes, chosen: Candidate) -> str | None:
    """Why a batch is not the usual one, with what prompts gain or lose by it."""
    n_ubatch = chosen.settings.n_ubatch
    if wishes.n_ubatch is not None:
        return None
    if n_ubatch == FULL_UBATCH:
        return _bound_reason(solver, chosen.settings)
    usual = solver.predict(replace(chosen.settings, n_ubatch=FULL_UBATCH))
    ours, theirs = tps_text(chosen.speed.prompt_tps), tps_text(usual.prompt_tps)
    prompts = f"prompts run at {ours} tokens/s instead of {theirs}"
    if n_ubatch > FULL_UBATCH:
        gain = f", so {prompts}" if ours != theirs else ""
        return (
            f"n_ubatch {n_ubatch} instead of {FULL_UBATCH}: weights in RAM are copied to the GPU "
            f"once for each batch{gain}."
        )
    text = (
        f"n_ubatch {n_ubatch} instead of {FULL_UBATCH}: the smaller compute buffer is what makes "
    )
    return f"{text}the rest fit{'' if ours == theirs else f'; {prompts}'}."


def _bound_reason(solver: Solver, settings: Settings) -> str | None:
    """Why no larger batch was looked at, where one would have been of use."""
    useful = solver.speed.copies_weights and not solver.whole(
        settings.n_gpu_layers, settings.n_cpu_moe
    )
    known = constraints.largest_known_batch(solver.model, solver.machine)
    if not useful or known is None:
        return None
    _, gpu = known
    return (
        f"n_ubatch stays at {settings.n_ubatch}: with experts, {gpu.backend} may take far more of "
        f"{gpu.id} for a larger one once a long prompt is read, and this machine has not shown how "
        "much."
    )
