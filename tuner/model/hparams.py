"""The numbers that decide a model's layers (`llama_hparams`, src/llama-hparams.h)."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.model.architecture import Architecture
from tuner.model.architectures import architecture as architecture_row


@dataclass(frozen=True, slots=True)
class HParams:
    """The numbers that decide a model's layers. Tuples have one entry per layer, MTP included."""

    architecture: str

    # ---- layers
    n_layer: int  # layers that the chat graph runs
    n_layer_all: int  # with the multi-token-prediction blocks: slots that n_gpu_layers counts
    n_layer_dense_lead: int  # the first layers, which have no experts
    cycles: tuple[int, int, int]  # hrm_text: layers of a stack, slow runs, fast runs
    residual_block: int  # kimi-k3: layers from one banked residual to the next
    rescaled_every: int  # rwkv6: the last of so many layers halves what it has made; 0: none does
    parallel_residual: bool  # gptneox: attention and feed-forward side by side
    rms_norm: bool  # an epsilon for norms by the root mean square is stated

    # ---- embeddings
    n_embd: int
    n_embd_inp: int  # elements of one input embedding row
    n_vocab: int
    n_ctx_train: int  # tokens, no more than the engine can count; 0: the file does not say
    positions: int  # numbers that say where a token is
    scaled_input: bool  # embeddings are multiplied by a number as they are looked up
    ngram_layers: tuple[int, ...]  # qwen4exp: layers that read embeddings of n-grams
    ngram_row: int  # elements of one such embedding
    ngram_state: int  # elements of the history that such a layer keeps

    # ---- attention
    n_head: tuple[int, ...]
    n_head_kv: tuple[int, ...]
    head_k: tuple[int, ...]  # elements per key head
    head_v: tuple[int, ...]
    swa: tuple[bool, ...]  # layers that see a window only
    n_swa: int  # the window in tokens; 0: none
    n_layer_kv: int  # layers from here on share the cache of an earlier one
    mla: bool  # latent attention: one cached row serves K and V
    rope_finetuned: bool  # granite's switch for rotation by position

    # ---- sparse attention
    indexer_head: int  # elements of an index key
    indexer_top_k: int  # how many tokens, blocks or rows are picked
    indexer_full: tuple[bool, ...]  # layers with an indexer of their own
    indexer_block: int  # minimax-m3: tokens that are picked together
    indexer_kpool: int  # glm5-next: tokens of a pool
    indexer_tail: bool  # glm5-next: the tokens of an incomplete pool are always seen
    compress_ratios: tuple[int, ...]  # deepseek4: tokens per compressed row; qwen4exp: per block

    # ---- states
    recurrent: tuple[bool, ...]  # layers that keep a state instead of a cache
    state_r: int  # elements of the convolution (or token shift) state per recurrent layer
    state_s: int  # elements of the recurrent state itself
    ssm: Ssm

    # ---- feed-forward parts
    n_ff: tuple[int, ...]
    n_ff_exp: int
    n_expert: int
    n_expert_used: int
    n_expert_groups: int
    n_groups_used: int
    scaled_residual: bool  # what a layer's parts have made is scaled before it is added
    scaled_logits: bool
    capped_logits: bool  # they go through tanh
    expert_gate: str  # by what function the router's word becomes shares; "" if not stated
    expert_weights_norm: bool  # the weights of the chosen experts are made to sum up to 1
    expert_weights_scaled: bool  # and are then scaled
    clamped: tuple[bool, ...]  # layers whose experts' gated units are clamped
    clamped_shared: tuple[bool, ...]  # the same of dense parts and shared experts

    def __hash__(self) -> int:
        """Of three fields, since hashing all of them takes longer than what `cache_layout`
        keeps by it; models that agree in these three are told apart by equality."""
        return hash((self.architecture, self.n_layer_all, self.n_embd))

    @property
    def row(self) -> Architecture:
        """What is known of the architecture."""
        return architecture_row(self.architecture)

    @property
    def keys_are_values(self) -> bool:
        """Whether one cached row serves as a key and as a value."""
        return self.mla or self.row.memory == "compressed"

    def group(self, il: int) -> int:
        """Heads of Q for each head of K in a layer."""
        return self.n_head[il] // max(1, self.n_head_kv[il])

    @property
    def k_row(self) -> tuple[int, ...]:
        """`n_embd_k_gqa`: key elements per token."""
        return tuple(h * n for h, n in zip(self.head_k, self.n_head_kv, strict=True))

    @property
    def v_row(self) -> tuple[int, ...]:
        return tuple(h * n for h, n in zip(self.head_v, self.n_head_kv, strict=True))


@dataclass(frozen=True, slots=True)
class Ssm:
    """The sizes of recurrent layers, as the metadata states them."""

    conv: int
    inner: int
    state: int
    rank: int
    groups: int
    kda_head: int
    kda_bounded: bool  # the decay has a lower bound
    wkv_head: int
