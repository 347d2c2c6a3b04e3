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
TILED_COST = 2.0

# FLOP of prompts in those over weights of q4_0, by the weights' type. Those that
# ggml-cpu/tiled/tiled.cpp unpacks once for many tokens are the cheapest; those that are repacked at
# a load go without that. q4_1 and q5_1 have neither that nor a kernel of `llamafile_sgemm`
# (ggml-cpu/llamafile): each row is multiplied with each token by itself.
_TILED = "q3_K q5_K q6_K iq4_xs iq2_xxs iq2_xs iq2_s iq3_xxs iq3_s iq1_s iq1_m"
_REPACKED = "q4_K iq4_nl mxfp4"
_WEIGHT_COSTS = {
    **dict.fromkeys(_TILED.split(), 0.5),
    **dict.fromkeys(_REPACKED.split(), 0.7),
    **{"f16": 0.8, "bf16": 0.8, "f32": 0.9, "q8_0": 0.9, "q5_0": 1.1, "q2_K": 1.4},
    **{"q4_1": 2.0, "q5_1": 2.5},
}
_COST_OF = {GGML_NUMBERS[name]: cost for name, cost in _WEIGHT_COSTS.items()}
# The same of experts, each of which sees few of the tokens (`ggml_compute_forward_mul_mat_id`):
# nothing but tiles serves many of them at once there.
_EXPERT_COSTS = {
    **{"f16": 2.9, "bf16": 1.4, "q8_0": 1.8, "q5_1": 2.6, "q5_0": 2.5, "q4_1": 2.4, "q4_0": 1.3},
    **{"iq4_nl": 1.3, "mxfp4": 1.7, "q2_K": 1.1, "q3_K": 0.7, "q4_K": 1.2, "q6_K": 0.9},
}
_EXPERT_COST_OF = {GGML_NUMBERS[name]: cost for name, cost in _EXPERT_COSTS.items()}

# Nanoseconds of a core for a weight that is multiplied with one token, read from RAM: measured type
# by type on the core that the cache types were measured on; q2_K, q4_0, q4_K, iq4_nl and mxfp4 as
# they are repacked at a load.
_WEIGHT_NS = {
    **{"f32": 0.25, "f16": 0.109, "bf16": 0.106, "q8_0": 0.056},
    **{"q5_1": 0.086, "q5_0": 0.080, "q4_1": 0.083, "q4_0": 0.029, "iq4_nl": 0.031},
    **{"q6_K": 0.046, "q5_K": 0.045, "q4_K": 0.027, "q3_K": 0.047, "q2_K": 0.027},
    **{"iq4_xs": 0.045, "iq3_s": 0.110, "iq3_xxs": 0.093, "iq2_xxs": 0.070, "mxfp4": 0.034},
}
_NS_OF = {GGML_NUMBERS[name]: ns for name, ns in _WEIGHT_NS.items()}
_USUAL_NS = 0.07  # of the types that are in no row, between these


def weight_cost(ggml_type: int) -> float:
    """FLOP of prompts over weights of this type in those over q4_0."""
    return _COST_OF.get(ggml_type, 1.0)


def expert_cost(ggml_type: int) -> float:
    """The same over an expert's weights of this type."""
    return _EXPERT_COST_OF.get(ggml_type, weight_cost(ggml_type))


def weight_seconds(ggml_type: int) -> float:
    """Seconds of one core to multiply a weight of this type with one token."""
    return 1e-9 * _NS_OF.get(ggml_type, _USUAL_NS)


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
