"""What the engine would refuse, or silently do badly, said beforehand.

Sources: `llama_init_from_model` and the flash-attention probe (src/llama-context.cpp), the list
of cache types (common/arg.cpp); which kernels a backend has is in `machine/backends.py`.
"""

from __future__ import annotations

from tuner.engine_version import ENGINE_VERSION
from tuner.machine.backends import Backend, backends
from tuner.machine.machine import Machine
from tuner.memory.cache_types import CACHE_TYPES, CacheType
from tuner.memory.kv_cache import cache_layout
from tuner.model.model import Model
from tuner.settings import Settings


def refusal(model: Model, settings: Settings, machine: Machine) -> str | None:
    """Why these settings must not be loaded, in one sentence; None where nothing stands against
    them. Some of it the engine refuses itself, some it would run on wrong data or on the CPU."""
    for which, name in (("K", settings.type_k), ("V", settings.type_v)):
        if name not in CACHE_TYPES:
            known = ", ".join(CACHE_TYPES)
            return f"{name} is no type for the {which} cache; llama.cpp takes {known}."
    k, v = CACHE_TYPES[settings.type_k], CACHE_TYPES[settings.type_v]
    if not cache_layout(model.hparams).rows:
        return None  # nothing but recurrent states, which have a type of their own
    flash = settings.flash_attn != "off"
    if model.hparams.row.unfused:
        if v.quantized:
            return (
                f"{model.architecture} runs without flash attention, which a quantized V cache "
                f"({v.name}) needs; choose f16 for V."
            )
        flash = False
    if v.quantized and not flash:
        return f"A quantized V cache ({v.name}) needs flash attention; switch it on or use f16."
    if k.name != v.name and model.hparams.keys_are_values:
        return (
            f"{model.architecture} keeps K and V in one cache, so they must have the same type, "
            f"not {k.name} and {v.name}."
        )
    return _indivisible(model, k, v) or _on_gpus(model, settings, machine, k, v)


def _indivisible(model: Model, k: CacheType, v: CacheType) -> str | None:
    """A row of a head must fill whole blocks; without flash attention nobody checks K's."""
    hp = model.hparams
    for which, kind, heads in (("K", k, hp.head_k), ("V", v, hp.head_v)):
        if not kind.quantized or (which == "V" and hp.mla):
            continue
        for il in (row.layer for row in cache_layout(hp).rows):
            if heads[il] % kind.block:
                return (
                    f"{kind.name} stores blocks of {kind.block} elements, which do not divide "
                    f"this model's {which} heads of {heads[il]}; choose f16 for {which}."
                )
    return None


def _on_gpus(
    model: Model, settings: Settings, machine: Machine, k: CacheType, v: CacheType
) -> str | None:
    if settings.n_gpu_layers == 0 or settings.flash_attn == "off":
        return None
    for row in backends(gpu.backend for gpu in machine.gpus):
        if row.equal_types_only and k.name != v.name and not model.hparams.mla:
            return (
                f"{row.name} has attention kernels for equal types only, so {k.name} and "
                f"{v.name} would silently run on the CPU; choose one type for both."
            )
        for kind in (k, v):
            if kind.name in row.types_without_kernel:
                return (
                    f"{row.name} has no attention kernel for {kind.name}, so attention would "
                    "silently run on the CPU; choose q4_0."
                )
    return None


def slow_attention(model: Model, settings: Settings, machine: Machine) -> Backend | None:
    """The backend whose default build has no fast attention kernel for these cache types and
    converts the cache to f16 at every step; None where attention is as fast as can be."""
    fused = settings.flash_attn != "off" and not model.hparams.row.unfused
    if not (settings.n_gpu_layers > 0 and fused and cache_layout(model.hparams).rows):
        return None
    rows = backends(gpu.backend for gpu in machine.gpus)
    pair = (settings.type_k, settings.type_v)
    return next((row for row in rows if row.slow_with(*pair)), None)


def notes(model: Model, settings: Settings, machine: Machine) -> tuple[str, ...]:
    """Warnings about settings that will load: slow paths, things the engine decides alone."""
    found: list[str] = []
    slow = slow_attention(model, settings, machine)
    if slow:
        *others, last = (name for name in CACHE_TYPES if name in (slow.fast_types or ()))
        found.append(
            f"Default {slow.name} builds have no fast attention kernel for K {settings.type_k} "
            f"with V {settings.type_v}: prompts and long contexts run several times slower than "
            f"with equal {', '.join(others)} or {last}."
        )
    if settings.n_gpu_layers > 0 and settings.flash_attn != "off":
        odd = _odd_heads(model, machine)
        if odd:
            found.append(odd)
    if model.hparams.row.unfused and settings.flash_attn != "off":
        found.append(f"llama.cpp runs {model.architecture} without flash attention.")
    if 0 < model.n_ctx_train < settings.n_ctx:
        found.append(
            f"The context of {settings.n_ctx:,} tokens is longer than the {model.n_ctx_train:,} "
            "that the model was trained for: answers may fall apart beyond that."
        )
    if settings.swa_full and model.hparams.n_swa:
        found.append("swa_full keeps the whole context in layers that only ever see a window.")
    if not model.known:
        found.append(
            f"{model.architecture} is not an architecture of llama.cpp ({ENGINE_VERSION}): its "
            "memory is planned by the general rule and should be verified by a dry run."
        )
    return tuple(found)


def _odd_heads(model: Model, machine: Machine) -> str:
    """Head sizes for which a backend has no fused kernel, so that attention runs on the CPU."""
    hp = model.hparams
    heads = dict.fromkeys((hp.head_k[r.layer], hp.head_v[r.layer]) for r in cache_layout(hp).rows)
    for row in backends(gpu.backend for gpu in machine.gpus):
        for k, v in heads:
            if not row.has_kernel_for_heads(k, v):
                return (
                    f"{row.name} has no flash-attention kernel for heads of {k} and {v}: "
                    "attention runs on the CPU unless flash attention is off."
                )
    return ""
