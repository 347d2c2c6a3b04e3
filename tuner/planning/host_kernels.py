"""What ggml's kernels take on a core of the host, by the types that they read.

One token is attended to row by row (`ggml_compute_forward_flash_attn_ext_f16_one_chunk`,
ggml-cpu/ops.cpp): for each head of Q and each token in the cache a product with a row of K, an
exponential, and a row of V added up. So a row costs something by itself, and each of its elements
what the kernels of its type take, which stands in the rows of `memory/cache_types.py`. Prompts over
f16 go through products of tiles (`..._flash_attn_ext_tiled`); over other types row by row, too.
"""

from __future__ import annotations

from functools import lru_cache

from tuner.gguf.types import GGML_NUMBERS
from tuner.memory.cache_types import CACHE_TYPES

Pair = tuple[str, str]  # the types of K and V

SECONDS_PER_ROW = 11e-9  # the exponential, the mask, two calls
# An element of a row of V that the steps of a loop leave over (`ggml_vec_mad_f16`, ggml-cpu/vec.h)
# is converted from f16 and back by itself.
SECONDS_LEFT_OVER = 1.5e-9
# FLOP of the tiles in those of a prompt's other products: they are small, and of f32.
TILED_COST = 1.6

# FLOP of prompts in those over weights of q4_0, by the weights' type. Those that
# ggml-cpu/tiled/tiled.cpp unpacks once for many tokens are the cheapest. q4_1 and q5_1 have neither
# that nor a kernel of `llamafile_sgemm` (ggml-cpu/llamafile): each row is multiplied with each
# token by itself.
_TILED = "q2_K q3_K q4_K q5_K q6_K iq4_xs iq2_xxs iq2_xs iq2_s iq3_xxs iq3_s iq1_s iq1_m"
_WEIGHT_COSTS = {
    **dict.fromkeys(_TILED.split(), 0.4),
    **{"f16": 0.8, "bf16": 0.8, "f32": 0.9, "q8_0": 0.9, "q5_0": 1.1, "iq4_nl": 1.1},
    **{"q4_1": 2.0, "q5_1": 2.5},
}
_COST_OF = {GGML_NUMBERS[name]: cost for name, cost in _WEIGHT_COSTS.items()}


def weight_cost(ggml_type: int) -> float:
    """FLOP of prompts over weights of this type in those over q4_0."""
    return _COST_OF.get(ggml_type, 1.0)


@lru_cache(maxsize=256)
def row_seconds(pair: Pair | None, head_k: int, head_v: int, f16_step: int) -> float:
    """Seconds of one core for one head of Q and one token in the cache. `pair`: None for the least
    that any takes; `head_k`, `head_v`: elements of a row; `f16_step`: as of `Device`."""
    keys, values = ((name,) for name in pair) if pair else (CACHE_TYPES, CACHE_TYPES)
    k = min(head_k * CACHE_TYPES[name].k_seconds for name in keys)
    v = min(_v_seconds(name, head_v, f16_step) for name in values)
    return SECONDS_PER_ROW + k + v


def _v_seconds(name: str, n: int, f16_step: int) -> float:
    left_over = n % f16_step if name == "f16" else 0
    return (n - left_over) * CACHE_TYPES[name].v_seconds + left_over * SECONDS_LEFT_OVER
