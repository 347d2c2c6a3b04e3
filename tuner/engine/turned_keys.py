"""Whether the engine can turn the keys of a quantized cache to where they are moved.

`build_rope_shift` (src/llama-kv-cache.cpp) takes them to be rotated (tuner/memory/rotation.py), in
runs of which the part that is turned has whole ones, and does not look: of others it makes
nonsense, or its process dies."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

_LEAST_RUN = 64  # elements of a key that are rotated together (`attn_rot_k`, `build_input_k_rot`)


def turns_quantized_keys(
    number: Callable[[str], int], environ: Mapping[str, str] = os.environ
) -> bool:
    """`number`: of a key of the file behind its architecture's name; 0 for what it has not."""
    if number("attention.kv_lora_rank") or environ.get("LLAMA_ATTN_ROT_DISABLE"):
        return False  # latent keys are not rotated
    n_head = number("attention.head_count")
    n_key = number("attention.key_length") or (number("embedding_length") // max(1, n_head))
    n_turned = number("rope.dimension_count") or n_key
    run = n_key & -n_key  # the largest power of 2 in it
    alike = number("attention.key_length_swa") in {0, n_key}
    return n_head > 0 and alike and run >= _LEAST_RUN and n_turned % run == 0
