"""Whether the engine rotates what a quantized cache holds (Hadamard), which spares it much loss.

Follows the end of `llama_kv_cache::llama_kv_cache` (src/llama-kv-cache.cpp, `attn_rot_k` and
`attn_rot_v`) and which graphs ask for the rotation (`build_input_k_rot`, src/llama-graph.cpp). It
also wants all heads of a cache of one size, which they always are: layers with a window have sizes,
and a cache, of their own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from tuner.machine.switches import as_number
from tuner.model.hparams import HParams

_BLOCK = 64  # elements of a head that the smallest rotation takes
_SWITCH = "LLAMA_ATTN_ROT_DISABLE"  # read by the engine, which inherits it


@dataclass(frozen=True, slots=True)
class Rotation:
    """Whether keys and values are rotated where their type is a quantized one."""

    k: bool
    v: bool


def rotation(hp: HParams, environ: Mapping[str, str] = os.environ) -> Rotation:
    """What the engine does with the caches of such a model."""
    off = as_number(environ.get(_SWITCH, ""))
    # No graph of latent attention asks for it (`build_attn_inp_k`), nor that of states beside
    # windows (`build_inp_mem_hybrid_iswa`), though the cache says in the log that it would.
    if off or hp.mla or (any(hp.recurrent) and any(hp.swa)):
        return Rotation(k=False, v=False)
    v = hp.head_v[0] % _BLOCK == 0 and not hp.keys_are_values
    return Rotation(k=hp.head_k[0] % _BLOCK == 0, v=v)
