"""What to load after memory ran out all the same: where it did, by the engine's words, and which of
a plan's rungs take less there."""

from __future__ import annotations

import re

from tuner.machine.machine import Machine
from tuner.planning.alternatives import in_less_ram
from tuner.planning.plan import Candidate, Plan
from tuner.planning.solver import Solver
from tuner.settings import Settings

# What names the host's memory, also where a driver's name is beside it: "CUDA_Host" is pinned RAM.
_HOST = re.compile(
    r"_host\b|\bcpu|\bhost memory|bad_alloc|memoryerror|killed|sigkill|mmap|map segment|thread",
    re.IGNORECASE,
)
# What a driver, or ggml's code for it, calls its memory.
_GPU = re.compile(r"cuda|hip\b|rocm|vulkan|vk_|device ?memory|metal|mtl|sycl|rpc", re.IGNORECASE)


def ran_out_on(words: str, machine: Machine, settings: Settings) -> int:
    """The place in `machine.devices` of the device whose memory ran out, as far as the engine's
    words tell; else the first GPU that has layers, or the host."""
    host = len(machine.gpus)
    for place, gpu in enumerate(machine.gpus):
        if gpu.kind == "rpc" and gpu.buffer_name:
            name = rf"{re.escape(gpu.buffer_name)}|server {re.escape(gpu.name)}"
        else:
            name = re.escape(gpu.engine_name.partition("[")[0])
        if name and re.search(rf"\b({name})(?!\w|_host)", words, re.IGNORECASE):
            return place
    if not settings.n_gpu_layers or (_HOST.search(words) and not _of_gpu(words)):
        return host
    counts = settings.tensor_split or (1.0,)
    return next((place for place, share in enumerate(counts) if share and place < host), host)


def _of_gpu(words: str) -> bool:
    return _GPU.search(re.sub(r"\w+_host\b", "", words, flags=re.IGNORECASE)) is not None


def following(plan: Plan, place: int, solver: Solver) -> tuple[Candidate, ...]:
    """What is left to try once the load of the plan's choice ran out of memory on the device at
    `place`: each takes less there."""
    failed, gpus = plan.chosen.footprint.totals[place], len(plan.machine.gpus)
    left = [c for c in plan.fallbacks if _less(c, plan.chosen, place, failed)]
    if plan.fallbacks and not left and gpus and place == gpus:
        left = [*in_less_ram(solver.hurried(), plan.wishes, plan.chosen)]
    return tuple(left)


def _less(candidate: Candidate, failed: Candidate, place: int, size: int) -> bool:
    """Weights that stay pages of the file take less than any sum says."""
    mapped = failed.settings.use_extra_bufts and not candidate.settings.use_extra_bufts
    return candidate.footprint.totals[place] < size or mapped
