"""Which numbers a key may have: those that llama.cpp's loader takes, or that any model could have.

Most are `uint32_t` in llama.cpp (`llama_hparams`, src/llama-hparams.h; `get_key<uint32_t>`,
src/llama-model-loader.cpp), which is what a key without a row here is held to. A row says less
where llama.cpp asserts it, or where more than that would be no model: numbers are multiplied with
each other, and bytes must stay below 2^63 whatever a file says.
"""

from __future__ import annotations

from typing import NamedTuple

from tuner.units import INT32, UINT32

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS (src/llama-hparams.h)
MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS (src/llama-hparams.h)
MAX_EMBEDDING = 1 << 20  # the widest models have 2^14.5
MAX_HEADS = 1 << 12  # of one layer; the largest models have 128
MAX_HEAD = 1 << 14  # elements of a head, or of a latent row; the largest have 576
MAX_VOCABULARY = 1 << 24  # tokens; the largest vocabularies have 2^18
MAX_ROW = 1 << 19  # elements that a layer keeps of a token; the largest keep 2^15
MAX_STATE = 1 << 32  # elements of a layer's recurrent state; the largest keep 2^20


class Limit(NamedTuple):
    """The least and the greatest number that a key may have."""

    least: int = 0
    most: int = UINT32


_HEADS, _HEAD = Limit(0, MAX_HEADS), Limit(0, MAX_HEAD)
_SMALL = Limit(0, 1 << 16)  # sizes and counts of parts of a layer, none of them over 1,000 so far

# by the name of the key without its architecture
LIMITS: dict[str, Limit] = {
    "block_count": Limit(1, MAX_LAYERS),
    "nextn_predict_layers": Limit(0, MAX_LAYERS),
    "num_loops": Limit(0, MAX_LAYERS),
    "embedding_length": Limit(1, MAX_EMBEDDING),
    "vocab_size": Limit(0, MAX_VOCABULARY),
    "expert_count": Limit(0, MAX_EXPERTS),
    "expert_used_count": Limit(0, MAX_EXPERTS),
    "expert_group_count": Limit(0, MAX_EXPERTS),
    "expert_feed_forward_length": Limit(0, 1 << 24),
    "attention.head_count": _HEADS,
    "attention.head_count_kv": _HEADS,
    "attention.key_length": _HEAD,
    "attention.value_length": _HEAD,
    "attention.key_length_swa": _HEAD,
    "attention.value_length_swa": _HEAD,
    "attention.indexer.key_length": _HEAD,
    "attention.indexer.block_size": _SMALL,
    "attention.indexer.kpool": _SMALL,
    "attention.indexer.top_k": Limit(0, INT32),
    "attention.compress_ratios": _SMALL,
    "attention.sliding_window": Limit(0, UINT32),
    "rope.dimension_sections": Limit(-INT32 - 1, INT32),  # int (`llama_hparams::rope_sections`)
    "embedding_length_per_layer_input": Limit(0, MAX_EMBEDDING),
    "n_deepstack_layers": Limit(0, MAX_LAYERS),
    "hyper_connection.count": _SMALL,
    "ple.conv_kernel": _SMALL,
    "ple.ngram_size": _SMALL,
    "ssm.conv_kernel": _SMALL,
    "ssm.inner_size": Limit(0, MAX_EMBEDDING),
    "ssm.state_size": _SMALL,
    "ssm.time_step_rank": _SMALL,
    "ssm.group_count": _SMALL,
    "kda.head_dim": _HEAD,
    "wkv.head_size": _HEAD,
    "token_shift_count": _SMALL,
    "shortconv.l_cache": _SMALL,
    "attn_res.block_size": Limit(0, MAX_LAYERS),
    "hrm.layers_per_stack": Limit(0, MAX_LAYERS),
    "hrm.h_cycles": Limit(0, MAX_LAYERS),
    "hrm.l_cycles": Limit(0, MAX_LAYERS),
}


def limit(key: str) -> Limit:
    """What a key's numbers are held to."""
    return LIMITS.get(key, Limit())
