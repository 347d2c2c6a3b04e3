"""KoboldCpp: flags of 1.117 (the argparse at the end of koboldcpp.py), by the names that older ones
have too."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tuner.memory.cache_types import CACHE_TYPES
from tuner.memory.estimator import Estimator
from tuner.report.emit.carried import Carried, number
from tuner.report.emit.shell import Words, script
from tuner.units import MIB, size_text

_BACKENDS = {"CUDA": "--usecublas", "ROCm": "--usecublas", "Vulkan": "--usevulkan"}
_LEAST_CONTEXT, _MOST_CONTEXT = 256, 524_288
_MORE_CONTEXT = 128  # tokens beside those that are asked for
_F32 = 4  # bytes of a logit
_BATCHES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
# The cache's type, by the numbers that older ones take alone; the others by name, since 1.112.
_CACHE_TYPES = {"f16": "0", "q8_0": "1", "q4_0": "2", "bf16": "bf16", "q5_1": "q5_1"}
# What its API calls a value of `Sampling`; the others it does not have.
_SAMPLING = {
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p",
    "typical_p": "typical", "seed": "sampler_seed", "max_tokens": "max_length",
    "top_n_sigma": "nsigma", "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold", "dynatemp_range": "dynatemp_range",
    "dynatemp_exponent": "dynatemp_exponent", "repeat_penalty": "rep_pen",
    "repeat_last_n": "rep_pen_range", "presence_penalty": "presence_penalty",
    "dry_multiplier": "dry_multiplier", "dry_base": "dry_base",
    "dry_allowed_length": "dry_allowed_length", "dry_penalty_last_n": "dry_penalty_last_n",
    "dry_sequence_breakers": "dry_sequence_breakers", "mirostat": "mirostat",
    "mirostat_ent": "mirostat_tau", "mirostat_lr": "mirostat_eta", "stop": "stop_sequence",
    "grammar": "grammar",
}  # fmt: skip


def koboldcpp(carried: Carried) -> str:
    """A command that serves the model."""
    return script(_sentences(carried), "koboldcpp", _flags(carried))


def _sentences(carried: Carried) -> Iterator[str]:
    s, plan = carried.settings, carried.plan
    yield from carried.head()
    yield (
        "For KoboldCpp 1.117; where flash attention is not yet the default, add --flashattention. "
        + _beyond(carried)
    )
    if s.type_k != s.type_v or s.type_k not in _CACHE_TYPES:
        taken = _cache_type(carried)
        yield (
            f"It has one type for K and V, one of {', '.join(_CACHE_TYPES)}: {taken} in place of K "
            f"{s.type_k}, V {s.type_v}. Better plan with --kv {taken}."
        )
    if _batch(s.n_ubatch) != s.n_ubatch:
        yield f"n_ubatch {s.n_ubatch} is none of its batch sizes."
    if _context(s.n_ctx) != s.n_ctx:
        yield f"A context of {s.n_ctx:,} tokens is beyond what it takes."
    if not s.use_extra_bufts:
        yield "It cannot be told to leave the CPU's weights as they are (--no-repack)."
    gpus = plan.machine.gpus
    if gpus and not any(gpu.backend in _BACKENDS for gpu in gpus):
        yield f"Its {gpus[0].backend} build uses the GPU by itself."
    if carried.chat_template.name or (carried.chat_template.source and not carried.template_file):
        yield "The chat template: write it to a file and add --jinjatemplate FILE."
    if lost := [name for name in carried.sampling if name not in _SAMPLING]:
        yield f"It has no {', '.join(lost)}."


def _beyond(carried: Carried) -> str:
    """What it takes that the plan does not count."""
    s, plan = carried.settings, carried.plan
    estimator = Estimator(plan.model, plan.machine)
    planned, more = (
        sum(estimator.totals(s.with_context(n_ctx), "nothing"))
        for n_ctx in (s.n_ctx, s.n_ctx + _MORE_CONTEXT)
    )
    cache, logits = more - planned, _F32 * plan.model.n_vocab * _batch(s.n_ubatch)
    said = (
        f"Beyond the plan it takes up to {size_text(cache + logits)}: {_MORE_CONTEXT} tokens of "
        f"context ({size_text(cache)}) and the logits of a whole batch ({size_text(logits)})."
    )
    uses = zip(plan.chosen.footprint.uses, plan.machine.gpus, strict=False)
    if all(gpu.budget - use.total >= cache + logits for use, gpu in uses):
        return said
    reserve = max(gpu.reserve for gpu in plan.machine.gpus) + cache + logits
    return f"{said} To leave room for that, plan with --reserve {-(-reserve // MIB)}MiB."


def _flags(carried: Carried) -> Iterator[Words]:
    s, gpus = carried.settings, carried.plan.machine.gpus
    yield "--model", carried.path
    yield "--contextsize", str(_context(s.n_ctx))
    yield "--blasbatchsize", str(_batch(s.n_ubatch))
    yield "--quantkv", _CACHE_TYPES[_cache_type(carried)]
    if s.flash_attn == "off":
        yield ("--noflashattention",)
    yield _backend(carried)
    yield "--gpulayers", str(carried.n_gpu_layers)
    if s.n_cpu_moe:
        yield "--moecpu", str(s.n_cpu_moe)
    if s.tensor_split:
        yield "--tensor_split", *map(number, s.tensor_split)
    if carried.devices and gpus:
        yield "--device", ",".join(carried.devices)
    if carried.rpc_servers:
        yield "--rpcmode", "connect", "--rpctargets", ",".join(carried.rpc_servers)
    if s.swa_full:
        yield ("--noswa",)
    yield "--usemmap", "--threads", str(carried.n_threads)
    yield from _template(carried)
    if defaults := {
        _SAMPLING[name]: value for name, value in carried.sampling.items() if name in _SAMPLING
    }:
        yield "--gendefaults", json.dumps(defaults)


def _backend(carried: Carried) -> Words:
    gpus = carried.plan.machine.gpus
    if not gpus:
        return ("--usecpu",)
    flag = next((_BACKENDS[gpu.backend] for gpu in gpus if gpu.backend in _BACKENDS), "")
    return (flag,) if flag else ()


def _template(carried: Carried) -> Iterator[Words]:
    """Its chat endpoint takes the file's template only where it is told to."""
    if carried.template_file:
        yield "--jinja", "--jinjatemplate", carried.template_file
    elif carried.plan.model.chat_template is not None and not carried.chat_template.name:
        yield ("--jinja",)


def _context(n_ctx: int) -> int:
    return min(max(n_ctx, _LEAST_CONTEXT), _MOST_CONTEXT)


def _batch(n_ubatch: int) -> int:
    """Its largest batch that is no larger."""
    return max((size for size in _BATCHES if size <= n_ubatch), default=_BATCHES[0])


def _cache_type(carried: Carried) -> str:
    """The most precise of its types that is no larger than either of the plan's."""
    s = carried.settings
    room = min(CACHE_TYPES[s.type_k].bits, CACHE_TYPES[s.type_v].bits)
    if s.type_k == s.type_v and s.type_k in _CACHE_TYPES:
        return s.type_k
    fitting = [name for name in _CACHE_TYPES if CACHE_TYPES[name].bits <= room]
    return max(fitting, key=lambda name: CACHE_TYPES[name].bits)
