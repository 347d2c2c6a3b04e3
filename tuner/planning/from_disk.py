"""What a model that is larger than all memory would do: read its file again for every token.

The engine maps the file, so weights that stay in RAM are pages of it, which the system may drop and
reads back when they are next used. Such a load does not fail; it is slow, and this says how slow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tuner.planning.budgets import in_ram
from tuner.planning.plan import Candidate
from tuner.planning.solver import Solver
from tuner.wishes import Wishes

ASSUMED_DISK = 3e9  # bytes/s: an NVMe disk that reads in order; single pages come slower


@dataclass(frozen=True, slots=True)
class FromDisk:
    """The best plan that leaves too many weights in RAM. Sizes in bytes."""

    candidate: Candidate  # with the speed that it would have in memory
    missing: int  # of the host's weights, what there is no room for
    per_token: int  # read from disk for each decoded token, at least
    decode_tps: float  # tokens/s at best, from a disk of `ASSUMED_DISK`


def from_disk(solver: Solver, wishes: Wishes, closest: Candidate) -> FromDisk | None:
    """What a load would read from disk where nothing fits, with the cache of the plan that comes
    closest, since a larger one leaves less room for the file's pages. None where those are not all
    that is lacking: nothing else can be dropped. Where GPUs draw from the same RAM it is told of a
    load without layers there, since what those take is no page that could be dropped."""
    budgets, s = solver.budgets, closest.settings
    wishes = replace(wishes, n_ctx=s.n_ctx, type_k=s.type_k, type_v=s.type_v)
    if budgets.shared:
        if wishes.n_gpu_layers:
            return None
        wishes = replace(wishes, n_gpu_layers=0)
    host = in_ram(solver.machine)
    mapped = solver.model.size_bytes * 2  # a tied output may be there twice
    more = budgets.less([-mapped if there else 0 for there in host])
    found = solver.with_budgets(more).confirmed(wishes)[1]
    if found is None:
        return None
    short = found.short(budgets)
    missing = max(lack for lack, there in zip(short, host, strict=True) if there)
    if not 0 < missing <= found.footprint.host.weights:
        return None
    per_token = _read(solver, found, missing)
    seconds = 1 / found.speed.decode_tps + per_token / ASSUMED_DISK
    return FromDisk(replace(found, fits=False), missing, per_token, 1 / seconds)


def _read(solver: Solver, found: Candidate, missing: int) -> int:
    """Bytes read for each token, at least. Of a dense model every weight is used for each, so as
    much is read as there is no room for, and more where the system drops just what comes next. Of
    experts a few are used, and as many of those are missing as of all."""
    model = solver.model
    where = solver.fitting.estimator.placement(found.settings)
    multiplied = where.output < 0 and model.tensors.tied  # else a row of each for a token
    looked_up = 0 if multiplied else sum(t.n_bytes for t in model.tensors.input)
    in_ram = max(where.on_host, where.n_cpu_moe)
    experts = sum(t.n_bytes for layer in model.tensors.layers[:in_ram] for t in layer.experts)
    needed = max(0, missing - looked_up)
    of_experts = min(needed, experts)
    used = model.n_expert_used / model.n_expert if model.n_expert else 1.0
    return int(of_experts * used) + needed - of_experts
