"""What may differ from one architecture to another: the columns of the table in `architectures.py`.

Every default is what llama does (but for `scaled_experts`), so that a row says no more than how
its architecture is unlike llama. Sources: `llama_model::create_memory` (src/llama-model.cpp) for
the kinds of memory, the architectures' `load_arch_hparams` and graphs (src/models/*.cpp) for the
rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

# What a model keeps of the tokens before: a cache in every layer; a state in every layer; one or
# the other; a window and compressed caches (deepseek4); or, of an architecture that nobody here
# knows, what the file's own keys say.
Memory = Literal["cache", "state", "hybrid", "compressed", "stated"]

# Groups of metadata keys. A file may state keys of other architectures, which must not count.
KeyGroup = Literal[
    "ssm",  # ssm.*, but for the next
    "ssm_groups",  # ssm.group_count
    "kda",  # kda.head_dim and ssm.conv_kernel
    "kda_bound",  # kda.gate_lower_bound
    "wkv",  # wkv.head_size
    "rescaling",  # rescale_every_n_layers
    "shortconv",  # shortconv.l_cache
    "mla",  # attention.key_length_mla, attention.value_length_mla
    "indexer",  # attention.indexer.key_length
    "indexer_blocks",  # attention.indexer.block_size
    "ngrams",  # ple.*: embeddings of the last few tokens together
    "clamps",  # swiglu_clamp_*, where limits take operations of their own
    "logit_cap",  # final_logit_softcapping
    "loops",  # num_loops: the same weights run several times, each time with a cache of its own
    "shared_kv",  # attention.shared_kv_layers
]

# The parts of a layer that are summed up.
LayerPart = Literal["attention", "ffn", "input"]
Order = tuple[LayerPart, LayerPart, LayerPart]


@dataclass(frozen=True, slots=True)
class Window:
    """How an architecture uses its sliding window.

    `period`: every `period`-th layer sees everything, the last of each period or, with
    `dense_first`, the first; None: the file must list the layers. `layers`: "all" of them,
    whatever the file lists, or all "attending" ones, in place of such a pattern. `fixed`: the
    window whatever the file says; `default`: where the file says nothing; `optional`: a file
    without a window has none; `zero_is_none`: neither has one that states 0. `n_layer`: only
    models of so many layers have one.
    """

    period: int | None = None
    dense_first: bool = False
    layers: Literal["pattern", "all", "attending"] = "pattern"
    fixed: int = 0
    default: int = 0
    optional: bool = False
    zero_is_none: bool = False
    n_layer: int | None = None


@dataclass(frozen=True, slots=True)
class Indexer:
    """How sparse attention finds its tokens, and which keys it keeps for that.

    `picks`: single tokens (src/models/deepseek32.cpp and its kin), blocks of tokens for each
    group of heads (minimax-m3), tokens of blocks as large as a layer's ratio ("ratio_blocks",
    qwen4exp), pools of tokens (glm5-next) or compressed rows (deepseek4). `layers` with keys of
    their own: all that attend to everything, those of them that the file lists, or all behind
    the leading dense ones. `unlisted`: what a file means that lists none: all layers, no layer,
    or GLM_5_2_DEFAULT_INDEXER_TYPES (src/models/glm-dsa.cpp).
    """

    picks: Literal["tokens", "blocks", "ratio_blocks", "pools", "rows"] = "tokens"
    layers: Literal["attending", "listed", "behind_lead"] = "listed"
    unlisted: Literal["all", "none", "glm_5_2"] = "all"
    needs_top_k: bool = False  # without a number of tokens to pick nothing is kept
    values: bool = False  # values of one head are kept beside the keys, in a buffer of their own
    rotated: bool = True  # index keys are rotated (Hadamard) before they are stored


@dataclass(frozen=True, slots=True)
class GraphTraits:
    """How graphs differ, as far as memory is concerned and as it cannot be read from tensors."""

    # what builds the graph (`memory/compute/replica/model_graph.py` knows them by these names)
    builder: Literal[
        "common", "altup", "cycles", "hyper_connections", "lightning", "qsa", "residual_bank",
        "residual_streams",
    ] = "common"  # fmt: skip
    precise_down: bool = False  # experts' last products take what is multiplied as f32
    # of a choice of layers it comes out a few MiB off: the zeros of sparse attention wait for
    # their layer and leave holes of their own behind, layer by layer
    needs_every_layer: bool = False

    # ---- embeddings and logits
    scaled_input: bool = False  # by the first layer's device, not as they are looked up
    embedding_skip: bool = False  # the embeddings are added again behind every layer
    # where the rows that become logits are picked: behind attention in the last layer, before or
    # after the last norm, or nowhere
    logit_rows: Literal["last_layer", "before_norm", "after_norm", "all"] = "last_layer"
    host_output: bool = False  # logits are made with the embeddings where they are

    # ---- products
    # the weights by which products use a scale and a bias, should a file have them; None: all
    scaled: tuple[str, ...] | None = None
    biased: bool = True  # the others use a bias, too, should a file have one

    # ---- norms and sums
    layer_norm: bool | None = None  # None: norms with a bias are LayerNorms, others are not
    rms_if_stated: bool = False  # but not so where the file states an epsilon for the other kind
    bare_norms: bool = False  # norms have no weights
    norm_before_rows: bool = False  # the norm behind attention is of all rows in the last layer too
    norm_first: bool = False  # the first norm runs before the mixer asks for its state
    # attention and feed-forward read the same input: the order in which the three are summed up,
    # which decides whose memory the sum takes over
    parallel: Order | None = None
    parallel_if_stated: bool = False  # only where use_parallel_residual is, and each with its norm
    parallel_without_norm: bool = False  # layers without a second norm are so too
    residual_first: tuple[LayerPart, ...] = ()  # what is added to the residual, not it to that

    # ---- attention
    # layers that rotate queries and keys by position. "most": all but every fourth;
    # "most_or_but_last": the same, without a window all but the last; "window": those with one,
    # if there is one; "stated": as rope.scaling.finetuned says
    rope: Literal["all", "most", "most_or_but_last", "window", "none", "stated"] = "all"
    rope_in_lead: bool = False  # so do the leading dense layers
    rope_n_layer: int | None = None  # only models of so many layers rotate
    scale_of_q: bool = False  # queries are scaled by themselves, not in attention
    scaled_q: bool = False  # queries that are not rotated are scaled by position instead
    norm_v: bool = False  # values are normed, without weights
    softcap: bool = False  # attention scores go through tanh
    alibi: bool = False  # they have a bias by distance, whatever the file says
    whole_query: bool = False  # latent attention rotates the end of a query where it is
    copied_gate: bool = False  # what a gate has let through is copied into rows

    # ---- feed-forward parts
    experts: bool = True  # an architecture without may have tensors of experts, but never runs them
    # by what function a router's word becomes shares where the file states none
    expert_gate: Literal["softmax", "sigmoid"] = "softmax"
    # how the weights of the chosen experts are made to sum up to 1, if at all
    expert_weights: Literal["sum", "softmax", "plain", "stated"] = "sum"
    # what experts are chosen by: their shares, the router's bare word, or a sigmoid of it
    expert_choice: Literal["shares", "logits", "sigmoid"] = "shares"
    weighted_input: bool = False  # experts' inputs are weighted, not their results
    early_router: bool = False  # experts are picked before the layer attends
    dense_beside_experts: bool = False
    situ_gate: bool = False  # gated units are made of several operations

    # ---- states
    copied_columns: bool = False  # a convolution's last columns are copied before they are stored
    turned_input: bool = False  # mamba's input is a copy, taken out of the product turned round
    repeated_keys: bool = False  # keys are repeated for each head of values
    sigmoid_gate: bool = False  # what a delta net makes passes a sigmoid, not a SiLU
    signed_decay: bool = False  # a bounded decay's weight has its sign already
    reshaped_gate: bool = False  # what a gate is made of is reshaped, and back again


@dataclass(frozen=True, slots=True)
class Architecture:
    """One row: an architecture as far as its memory differs from llama's."""

    name: str
    # llama.cpp knows it, so that its keys count only where it reads them; of one that is not known
    # every key counts that could make its memory larger (`GENERAL` in architectures.py)
    known: bool = True
    memory: Memory = "cache"
    reads: frozenset[KeyGroup] = frozenset()
    window: Window | None = None  # None: a window that a file states is not used
    indexer: Indexer | None = None
    graph: GraphTraits = field(default_factory=GraphTraits)

    # ---- layers
    recurrent_interval: int | None = None  # all layers are recurrent but each n-th
    side_by_side: bool = False  # every layer both attends and keeps a state
    one_part: bool = False  # a layer mixes tokens or feeds forward, never both
    matrix_state: bool = False  # a state is a matrix for each head
    mtp_cached: bool = False  # blocks that predict ahead have caches too
    mtp_by_tensor: bool = False  # such blocks count only where the file has their tensors
    switched: bool = False  # one more attention layer, which routes to adapters
    first_shared_kv: int | None = None  # layers from here on share the cache of an earlier one

    # ---- numbers
    head_sizes_stated: bool = False  # sizes of heads are read even if the first layer has no heads
    one_expert_is_dense: bool = False
    positions: Literal["one", "mrope", "mrope_by_sections"] = "one"
    embedding_scale: float = 0.0  # where the file states none
    residual_scale: float = 0.0
    logit_scale: float = 0.0
    logit_cap: float = 0.0  # where the file states none, or nobody reads what it states
    one_ratio_for_all: bool = False  # attention.compress_ratios may be one number
    unfused: bool = False  # llama.cpp switches flash attention off (src/llama-context.cpp)

    # ---- tensors
    embedding_norm_last: bool = False  # token_embd_norm is the norm before the output
    rope_factors_outside_windows: bool = False  # layers with a window read no rope_freqs
    tied_in_place: bool = False  # logits are made by the embedding where it lies, without a copy
    scaled_ffn: bool = False  # so is one for each product of a dense feed-forward part,
    scaled_shared: bool = False  # or of shared experts, or
    scaled_gate: bool = False  # for the gate of what mixes tokens
    scaled_experts: bool = False  # a factor for each expert is used, should a file have them
    output_first: bool = False  # the output is created before the embedding: never shared with it

    # ---- quantizing (`llama_tensor_get_type`, src/llama-quant.cpp)
    output_in_q8_0: bool = False  # whatever the mix
    n_layer_70b: int = 0  # of the size that it calls 70B, with grouped heads; 0: there is none
