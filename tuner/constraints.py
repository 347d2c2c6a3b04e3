"""What the engine would refuse, corrupt or run slowly without a word: told before it is asked.

The refusals are those of `llama_init_from_model` (src/llama-context.cpp) and of the cache's
constructor (src/llama-kv-cache.cpp); the notes follow the attention kernels of the backends
(ggml-cuda/fattn.cu, ggml-metal).
"""

from __future__ import annotations

from tuner.cache_types import CACHE_TYPES
from tuner.machine import Machine
from tuner.model import Model
from tuner.settings import Settings

_NO_FLASH = frozenset({"grok"})  # llama.cpp switches flash attention off for it
_ONE_TYPE = frozenset({"deepseek4"})
_CUDA_HEADS = frozenset({40, 64, 72, 80, 96, 112, 128, 192, 256, 320, 512, 576})
_CUDA_FAST = frozenset({"f16", "bf16", "q8_0", "q4_0"})  # with K = V, in a default build


def refusal(model: Model, settings: Settings, machine: Machine) -> str | None:
    """Why the engine cannot load the model so, in one sentence that says what to do; or None."""
    k, v = CACHE_TYPES[settings.type_k], CACHE_TYPES[settings.type_v]
    flash = settings.flash_attn != "off" and model.architecture not in _NO_FLASH
    hp = model.hparams
    if (hp.mla or model.architecture in _ONE_TYPE) and k != v:
        return (
            f"{model.architecture} keeps K and V in one cache, so both need one type, not "
            f"{k.name} and {v.name}; use --kv."
        )
    if v.quantized and not flash and not hp.mla:
        why = (
            f"{model.architecture} runs without flash attention"
            if settings.flash_attn != "off"
            else "flash attention is off"
        )
        return f"A V cache in {v.name} needs flash attention, but {why}; use --type-v f16."
    for letter, kind, heads in (("K", k, hp.head_k), ("V", v, hp.head_v)):
        for size, n_head in sorted(set(zip(heads, hp.n_head_kv, strict=True))):
            if n_head and size % kind.block and not (letter == "V" and hp.mla):
                return (
                    f"A {letter} cache in {kind.name} needs a head size that divides by "
                    f"{kind.block}, and this model's is {size}; use f16."
                )
    return None


def notes(model: Model, settings: Settings, machine: Machine) -> tuple[str, ...]:
    """Sentences about settings that work, but not as one would wish."""
    if settings.n_gpu_layers == 0 or settings.flash_attn == "off":
        return ()
    k, v = settings.type_k, settings.type_v
    backends = {gpu.backend for gpu in machine.gpus}
    found = []
    if "CUDA" in backends:
        sizes = {h for h, n in zip(model.hparams.head_k, model.hparams.n_head_kv, strict=True) if n}
        if "iq4_nl" in (k, v):
            found.append(
                "CUDA has no attention kernel for an iq4_nl cache: attention will run on the CPU, "
                "far slower; q4_0 takes the same memory."
            )
        elif k != v or k not in _CUDA_FAST:
            found.append(
                f"A default CUDA build has no fast attention kernel for K {k} with V {v}: long "
                "prompts will be several times slower. Equal types of f16, bf16, q8_0 or q4_0 "
                "have one; so does an engine built with GGML_CUDA_FA_QUANTS for this pair."
            )
        if sizes - _CUDA_HEADS:
            found.append(
                f"CUDA's flash attention does not know a head size of {min(sizes - _CUDA_HEADS)}: "
                "attention will run on the CPU; try --flash-attn off."
            )
    if "Metal" in backends and k != v:
        found.append(
            "Metal's flash attention needs one type for K and V: attention will run on the CPU; "
            "use --kv."
        )
    return tuple(found)
