"""What the engine would refuse, or silently do badly, said beforehand.

Sources: `llama_init_from_model` and the flash-attention probe (src/llama-context.cpp), the list
of cache types (common/arg.cpp); which kernels a backend has is in `machine/backends.py`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from tuner.engine_version import ENGINE_VERSION
from tuner.machine.backends import backend, backends
from tuner.machine.machine import Device, Machine
from tuner.memory.beside import growth_on, unknown_batches
from tuner.memory.cache_types import CACHE_TYPES, CacheType
from tuner.memory.kv_cache import cache_layout
from tuner.model.hparams import HParams
from tuner.model.model import Model
from tuner.settings import Settings
from tuner.units import size_text


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
                other = "f16" if "q4_0" in row.types_without_kernel else "q4_0"
                return (
                    f"{row.name} has no attention kernel for {kind.name}, so attention would "
                    f"silently run on the CPU; choose {other}."
                )
            if kind.name in row.types_alone and k.name != v.name:
                return (
                    f"{row.name} has no attention kernel for {k.name} with {v.name}, so attention "
                    f"would silently run on the CPU; choose {kind.name} for both."
                )
    return None


def converts_cache(model: Model, type_k: str, type_v: str, machine: Machine) -> tuple[bool, ...]:
    """For each GPU, whether fused attention copies its layers' caches of these types to f16 for
    every token that is decoded."""
    return tuple(
        any(
            backend(gpu.backend).converts_cache(
                type_k, type_v, gpu.compute_capability, head=head, group=group
            )
            for head, group in _heads(model.hparams)
        )
        for gpu in machine.gpus
    )


@lru_cache(maxsize=16)
def _heads(hp: HParams) -> tuple[tuple[int, int], ...]:
    """Of the layers with a cache: elements of a key head, and heads of Q for each of K."""
    layers = dict.fromkeys(row.layer for row in cache_layout(hp).rows)
    return tuple(dict.fromkeys((hp.head_k[il], hp.group(il)) for il in layers))


def slow_attention(model: Model, settings: Settings, machine: Machine) -> Device | None:
    """The first GPU on which decoding copies the whole cache to f16 for every token; None where
    each reads it as it is. Prompts are as fast as ever there."""
    fused = settings.flash_attn != "off" and not model.hparams.row.unfused
    if not (settings.n_gpu_layers > 0 and fused):
        return None
    found = converts_cache(model, settings.type_k, settings.type_v, machine)
    return next((gpu for gpu, copies in zip(machine.gpus, found, strict=True) if copies), None)


def largest_known_batch(model: Model, machine: Machine) -> tuple[int, Device] | None:
    """The tokens of a micro-batch beyond which nobody knows what a long prompt with this model
    takes of some GPU, and that GPU: larger ones are not planned unasked. None: none is too large.
    """
    known = ((unknown_batches(gpu, model), gpu) for gpu in machine.gpus)
    bounds = [(n, gpu) for n, gpu in known if n is not None]
    return min(bounds, key=lambda bound: bound[0], default=None)


def notes(model: Model, settings: Settings, machine: Machine) -> tuple[str, ...]:
    """Warnings about settings that will load: slow paths, things the engine decides alone."""
    found: list[str] = []
    slow = slow_attention(model, settings, machine)
    if slow:
        found.append(_copied(model, settings, slow, machine))
    if settings.n_gpu_layers > 0 and settings.flash_attn != "off":
        odd = _odd_heads(model, machine)
        if odd:
            found.append(odd)
    known = largest_known_batch(model, machine)
    if known and settings.n_ubatch > known[0]:
        found.append(_unknown_growth(model, settings.n_ubatch, known[1]))
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


def _unknown_growth(model: Model, n_ubatch: int, gpu: Device) -> str:
    """That nobody knows what so large a micro-batch costs on a GPU."""
    size = size_text(growth_on(gpu, model, n_ubatch).usual)
    return (
        f"With experts, {gpu.backend} may take {size} more of {gpu.id} once a long prompt is read "
        f"with n_ubatch {n_ubatch}: assumed from one log of another machine, as nothing was "
        "measured here. A long prompt, or --bench, measures it for later plans."
    )


def _copied(model: Model, settings: Settings, slow: Device, machine: Machine) -> str:
    """What it costs that a GPU cannot read a cache as it is, and which types it can."""
    k, v = settings.type_k, settings.type_v
    others = [
        name
        for name in CACHE_TYPES
        if not any(converts_cache(model, name, name, machine))
        and refusal(model, replace(settings, type_k=name, type_v=name), machine) is None
    ]
    text = (
        f"A default {slow.backend} build cannot read a cache of K {k} with V {v} as it is: for "
        "every token that it decodes it first copies the whole cache to f16. The longer the "
        "conversation, the slower the answer; "
    )
    row = backend(slow.backend)
    slower = row.slow_prompts(k, v, slow.compute_capability)
    text += "prompts are slower too." if slower else "prompts are as fast as with f16."
    if others:
        *first, last = others
        named = f"{', '.join(first)} or {last}" if first else last
        text += f" {named} for both has no such cost."
    return text


def _odd_heads(model: Model, machine: Machine) -> str:
    """Head sizes for which a backend has no fused kernel, so that attention runs on the CPU."""
    hp = model.hparams
    layers = dict.fromkeys(row.layer for row in cache_layout(hp).rows)
    heads = dict.fromkeys((hp.head_k[il], hp.head_v[il], hp.group(il)) for il in layers)
    for row in backends(gpu.backend for gpu in machine.gpus):
        for k, v, group in heads:
            if not row.has_kernel_for_heads(k, v, group):
                return (
                    f"{row.name} has no flash-attention kernel for heads of {k} and {v}: "
                    "attention runs on the CPU unless flash attention is off."
                )
    return ""
