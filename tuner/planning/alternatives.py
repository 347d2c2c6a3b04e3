"""What else fits, what to try where memory runs out all the same, what 1 GiB more would give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tuner.memory.placement import repacks_any
from tuner.planning.budgets import Budgets
from tuner.planning.differences import NOTICEABLE
from tuner.planning.plan import Candidate, distinct
from tuner.planning.shortage import least_short
from tuner.planning.solver import Solver
from tuner.units import GIB
from tuner.wishes import PREFERENCES, Wishes

# After a load that failed for memory: shares of each GPU's budget to plan for next.
RETRY_SHARES = (0.94, 0.86, 0.72, 0.50)
RAM_SHARES = (0.75, 0.5, 0.25)  # of what may shrink of the host's part, likewise
LEAST = "as little as can be"
MAPPED = "weights as the file has them"
OFFERED_TYPES = ("f16", "q8_0", "q4_0")  # for K and V both: full, half and quarter size


def alternatives(
    solver: Solver, wishes: Wishes, chosen: Candidate, whole: Solver | None = None
) -> tuple[Candidate, ...]:
    """What else fits, keeps the wishes and is better than the choice in something that a user
    notices, the fastest first. Each says in `note` by which flag it is had. `whole`: that of the
    machine with the GPUs that `solver` leaves out; what a flag would have there is not told."""
    trials: list[tuple[str, Wishes]] = []
    for prefer in PREFERENCES:
        if prefer == "context" and len(solver.machine.gpus) > 1:
            continue  # slow over several GPUs, and the contexts below say as much
        trials.append((f"--prefer {prefer}", replace(wishes, prefer=prefer)))
    if wishes.type_k is None and wishes.type_v is None:
        pairs = set(solver.pairs(wishes))
        trials += [
            (f"--kv {name}", replace(wishes, type_k=name, type_v=name))
            for name in OFFERED_TYPES
            if (name, name) in pairs
        ]
    if wishes.n_ctx is None:
        wished = solver.objective(wishes).wished_context
        more = next_context(chosen.settings.n_ctx, wished)
        trials += [
            (f"--ctx {n_ctx}", replace(wishes, n_ctx=n_ctx))
            for n_ctx in dict.fromkeys((more, wished, solver.model.n_ctx_train))
            if n_ctx
        ]
    tried = (
        _noted(best, note)
        for note, wish in trials
        if (best := solver.best(wish)) and not (whole and _is_better(whole.best(wish), best))
    )
    found = distinct(tried, chosen)
    kept: list[Candidate] = []
    for c in found:  # of equals, the first is enough
        beaten = any(dominates(o, c) for o in (chosen, *found))
        if not beaten and _user_visible(c) not in map(_user_visible, (chosen, *kept)):
            kept.append(c)
    return tuple(sorted(kept, key=lambda c: (-c.speed.decode_tps, -c.settings.n_ctx)))


def fallbacks(solver: Solver, wishes: Wishes, chosen: Candidate) -> tuple[Candidate, ...]:
    """What to try, in order, where a load runs out of memory all the same. Each keeps the wishes
    and takes less of the GPUs' memory than the one before."""
    found: list[Candidate | None] = []
    gpus = len(solver.machine.gpus)
    fixed = wishes.n_ctx is not None and len(set(solver.pairs(wishes))) == 1

    def tighter(share: float) -> Budgets:
        in_pools = 1.0 if fixed else share  # where the cache cannot shrink, nothing does
        return solver.budgets.tighter(share, in_pools, chosen.footprint, gpus)

    on_cpu = None
    if gpus and wishes.n_gpu_layers is None and chosen.settings.n_gpu_layers:
        # The last resort, but quickly found, and so looked for first. In RAM that the GPUs share,
        # what left them is still there.
        budgets = tighter(RETRY_SHARES[-1]) if solver.budgets.shared else solver.budgets
        on_cpu = solver.with_budgets(budgets).best(replace(wishes, n_gpu_layers=0))
    for share in RETRY_SHARES if gpus else ():
        less = solver.with_budgets(tighter(share))
        found.append(_noted(less.best(wishes), f"{share:.0%} of the memory"))
    found.append(_noted(on_cpu, "no layers on a GPU"))
    if not gpus:
        found += in_less_ram(solver, wishes, chosen)
    return tuple(distinct(found, chosen))


def in_less_ram(solver: Solver, wishes: Wishes, chosen: Candidate) -> Iterator[Candidate]:
    """What to try, in order, where a load runs out of RAM. Each keeps the wishes and takes less of
    the host's memory than the one before: a smaller batch, a cheaper cache, less context, or
    layers on a GPU, as the solver finds them best. Without a GPU then the least that there is, at
    last with weights as the file has them, whose pages the system may take back."""
    gpus = len(solver.machine.gpus)
    taken = chosen.footprint.host.total
    for share in RAM_SHARES:
        less = solver.with_budgets(solver.budgets.tighter_in_ram(share, chosen.footprint, gpus))
        found = less.best(wishes)
        if found and found.footprint.host.total < taken:
            taken = found.footprint.host.total
            yield replace(found, note=f"{share:.0%} of the RAM that may shrink")
    if gpus:
        return
    least = least_short(solver, wishes)
    if least.fits and least.footprint.host.total < taken:
        yield replace(least, note=LEAST)
    if wishes.use_extra_bufts and least.fits and repacks_any(solver.model):
        mapped = least_short(solver, replace(wishes, use_extra_bufts=False))
        yield replace(mapped, note=MAPPED)


def one_more_gib(solver: Solver, wishes: Wishes, chosen: Candidate) -> Candidate | None:
    """What every GPU (without one: the host) with 1 GiB more would give: the choice then, or the
    best with this context and these cache types, whichever first is better than the choice in
    something that a user notices and worse in nothing."""
    gpus = len(solver.machine.gpus)
    more = solver.with_budgets(solver.budgets.grown(GIB, gpus))
    s = chosen.settings
    for wish in (wishes, replace(wishes, n_ctx=s.n_ctx, type_k=s.type_k, type_v=s.type_v)):
        found = more.best(wish)
        slower = found and found.speed.prompt_tps < chosen.speed.prompt_tps * (1 - NOTICEABLE)
        if found and not slower and dominates(found, chosen):
            return found
    return None


def next_context(n_ctx: int, wished: int) -> int:
    """The next round number of tokens that is clearly more, up to the wished one."""
    return min(1 << (n_ctx * 3 // 2 - 1).bit_length(), wished)


def _is_better(other: Candidate | None, candidate: Candidate) -> bool:
    return other is not None and other.score > candidate.score


def _noted(candidate: Candidate | None, note: str) -> Candidate | None:
    return candidate and replace(candidate, note=note)


def _user_visible(c: Candidate) -> tuple[float, ...]:
    """What a user notices of a plan, more being better: speed, context, cache precision."""
    return round(c.speed.decode_tps, 1), c.settings.n_ctx, -c.quality.loss


def dominates(a: Candidate, b: Candidate) -> bool:
    """`a` is at least as good as `b` in all that a user notices, and better in something."""
    pa, pb = _user_visible(a), _user_visible(b)
    return pa != pb and all(x >= y for x, y in zip(pa, pb, strict=True))
