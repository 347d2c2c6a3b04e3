"""What llama.cpp's loader reads from the metadata before it builds a model.

The rules are those of `llama_model_base::load_hparams` (src/llama-model.cpp) and of each
architecture's `load_arch_hparams` (src/models/*.cpp); window patterns are in `layer_pattern.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tuner.errors import FileError
from tuner.gguf.header import Header, SkippedArray
from tuner.gguf.keys import Keys
from tuner.model.layer_pattern import KNOWN, recurrent_layers, window
from tuner.units import printable

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS (src/llama-hparams.h)
MAX_EMBEDDING = 1 << 20  # far beyond any model; larger numbers are damage
MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS


@dataclass(frozen=True, slots=True)
class HParams:
    """The numbers that decide a model's layers. Tuples have one entry per layer, MTP included."""

    architecture: str
    n_layer: int  # layers that the chat graph runs
    n_layer_all: int  # with the multi-token-prediction blocks: slots that n_gpu_layers counts
    n_embd: int
    n_vocab: int
    n_ctx_train: int
    n_expert: int
    n_expert_used: int
    n_head: tuple[int, ...]
    n_head_kv: tuple[int, ...]
    n_ff: tuple[int, ...]
    n_ff_exp: int
    head_k: tuple[int, ...]  # elements per key head
    head_v: tuple[int, ...]
    swa: tuple[bool, ...]  # layers that see a window only
    n_swa: int  # the window in tokens; 0: none
    recurrent: tuple[bool, ...]  # layers that keep a state instead of a cache
    n_layer_kv: int  # layers from here on share the cache of an earlier one
    mla: bool  # latent attention: one cached row serves K and V
    state_r: int  # elements of the convolution (or token shift) state per recurrent layer
    state_s: int  # elements of the recurrent state itself
    indexer_head: int
    indexer_top_k: int
    indexer_full: tuple[bool, ...]
    indexer_kpool: int
    compress_ratios: tuple[int, ...]  # deepseek4: tokens per compressed row
    n_layer_dense_lead: int
    n_embd_inp: int  # elements of one input embedding row
    ssm: Ssm
    indexer_block: int = 0  # minimax-m3: tokens that are picked together
    indexer_tail: bool = False  # glm5-next: the tokens of an incomplete pool are always seen
    ngram_layers: tuple[int, ...] = ()  # qwen4exp: layers that read embeddings of n-grams
    ngram_row: int = 0  # elements of one such embedding
    ngram_state: int = 0  # elements of the history that such a layer keeps
    residual_block: int = 0  # kimi-k3: layers from one banked residual to the next
    rope_finetuned: bool = True  # granite's switch for rotation by position
    scaled_input: bool = False  # embeddings are multiplied by a number as they are looked up
    positions: int = 1  # numbers that say where a token is: 4 where images have places too
    cycles: tuple[int, int, int] = (0, 0, 0)  # hrm_text: layers of a stack, slow runs, fast runs
    rms_norm: bool = False  # an epsilon for norms by the root mean square is stated
    parallel_residual: bool = False
    expert_weights_norm: bool = False
    n_expert_groups: int = 0
    n_groups_used: int = 0
    clamped: tuple[bool, ...] = ()  # layers whose experts' gated units are clamped
    clamped_shared: tuple[bool, ...] = ()  # the same of dense parts and shared experts

    def __hash__(self) -> int:
        return hash((self.architecture, self.n_layer_all, self.n_embd))  # quick, for caches

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
    wkv_head: int


def read_hparams(header: Header, architecture: str) -> HParams:
    """Reads what the engine would. Raises FileError("malformed") where the engine would abort."""
    keys = Keys(header, architecture)
    if keys.value("block_count") is None:
        raise FileError(
            "not_a_chat_model",
            header.path,
            f"{header.path} ({printable(architecture)}) describes no layers of a language model: "
            "it is another kind of model, or a part of one.",
        )
    n_all = keys.integer("block_count")
    if not 0 < n_all <= MAX_LAYERS:
        raise keys.wrong("block_count", f"is {n_all}: llama.cpp takes 1 to {MAX_LAYERS} layers")
    n_nextn = keys.integer("nextn_predict_layers")
    if not 0 <= n_nextn <= n_all:
        raise keys.wrong("nextn_predict_layers", f"is {n_nextn}, the model has {n_all} layers")
    if architecture == "deepseek4" and n_nextn:
        probe = f"blk.{n_all - n_nextn}.nextn.eh_proj.weight"
        if not any(t.name == probe for t in header.tensors):
            n_nextn = 0
    n_embd = keys.integer("embedding_length")
    if not 0 < n_embd <= MAX_EMBEDDING:
        raise keys.wrong("embedding_length", f"is {n_embd}, which no model has")
    n_expert, n_used = _experts(keys, n_all)

    zeros = (0,) * n_all
    n_head = keys.per_layer("attention.head_count", n_all, zeros)
    n_head_kv = keys.per_layer("attention.head_count_kv", n_all, n_head)
    n_ff = keys.per_layer("feed_forward_length", n_all, zeros)

    loops = max(1, keys.integer("num_loops", 1)) if architecture == "nanbeige" else 1
    if loops > 1:  # the same weights run several times, each time with a cache of its own
        n_all *= loops
        if n_all > MAX_LAYERS:
            raise keys.wrong("num_loops", f"makes {n_all} layers, over {MAX_LAYERS}")
        n_head, n_head_kv, n_ff = n_head * loops, n_head_kv * loops, n_ff * loops
    n_layer = n_all - n_nextn
    if architecture == "graniteswitch":  # one more attention layer, the adapter router
        n_layer, n_all, n_nextn = n_all, n_all + 1, 1
        n_head, n_head_kv, n_ff = (*n_head, 1), (*n_head_kv, 1), (*n_ff, 0)

    heads = max(1, n_head[0])
    full_k = keys.integer("attention.key_length", n_embd // heads) if n_head[0] else 0
    full_v = keys.integer("attention.value_length", n_embd // heads) if n_head[0] else 0
    if architecture == "plamo2":  # reads them even where the first layer has no heads
        full_k = keys.integer("attention.key_length", full_k)
        full_v = keys.integer("attention.value_length", full_v)
    swa_k = keys.integer("attention.key_length_swa", full_k)
    swa_v = keys.integer("attention.value_length_swa", full_v)

    n_swa, swa = window(keys, architecture, n_layer, n_all)
    recurrent = recurrent_layers(keys, architecture, n_layer, n_all, n_head_kv=n_head_kv, n_ff=n_ff)
    if not any(n_head) and not any(recurrent):
        raise keys.wrong("attention.head_count", "is 0, and no layer is recurrent")
    ssm = _ssm(keys)
    state_r, state_s = _state_sizes(keys, ssm, n_embd, n_head[0], full_k)
    n_layer_kv = n_all
    if architecture == "gemma3n":
        n_layer_kv = 20
    elif architecture == "gemma4":
        n_layer_kv = n_all - keys.integer("attention.shared_kv_layers")

    return HParams(
        architecture=architecture,
        n_layer=n_layer,
        n_layer_all=n_all,
        n_embd=n_embd,
        n_vocab=_vocabulary(header, keys),
        n_ctx_train=keys.integer("context_length"),
        n_expert=n_expert,
        n_expert_used=n_used,
        n_head=n_head,
        n_head_kv=n_head_kv,
        n_ff=n_ff,
        n_ff_exp=keys.integer("expert_feed_forward_length"),
        head_k=tuple(swa_k if s else full_k for s in swa),
        head_v=tuple(swa_v if s else full_v for s in swa),
        swa=swa,
        n_swa=n_swa,
        recurrent=recurrent,
        n_layer_kv=n_layer_kv,
        mla=_is_mla(keys),
        state_r=state_r,
        state_s=state_s,
        indexer_head=_read_by(keys, "attention.indexer.key_length", _INDEXER),
        indexer_top_k=keys.integer("attention.indexer.top_k"),
        indexer_full=_indexer_layers(keys, architecture, n_layer, n_all),
        indexer_kpool=keys.integer("attention.indexer.kpool"),
        compress_ratios=_compress_ratios(keys, n_all),
        ngram_layers=keys.array("ple.layers") or () if architecture == "qwen4exp" else (),
        ngram_row=keys.integer("embedding_length_per_layer_input"),
        ngram_state=_ngram_state(keys, n_embd),
        n_layer_dense_lead=keys.integer("leading_dense_block_count"),
        n_embd_inp=n_embd * (1 + keys.integer("n_deepstack_layers")),
        ssm=ssm,
        indexer_block=_read_by(keys, "attention.indexer.block_size", frozenset({"minimax-m3"})),
        indexer_tail=bool(keys.integer("attention.indexer.kpool_select_tail")),
        residual_block=keys.integer("attn_res.block_size"),
        rope_finetuned=keys.value("rope.scaling.finetuned") is not False,
        scaled_input=keys.number("embedding_scale", _EMBEDDING_SCALE.get(architecture, 0)) != 0,
        positions=_positions(keys),
        cycles=(
            keys.integer("hrm.layers_per_stack"),
            keys.integer("hrm.h_cycles"),
            keys.integer("hrm.l_cycles"),
        ),
        rms_norm=keys.number("attention.layer_norm_rms_epsilon") > 0,
        parallel_residual=bool(keys.integer("use_parallel_residual")),
        expert_weights_norm=bool(keys.integer("expert_weights_norm")),
        n_expert_groups=keys.integer("expert_group_count"),
        n_groups_used=keys.integer("expert_group_used_count"),
        clamped=_clamped(keys, "swiglu_clamp_exp", n_all),
        clamped_shared=_clamped(keys, "swiglu_clamp_shexp", n_all),
    )


def _experts(keys: Keys, n_layer: int) -> tuple[int, int]:
    n_expert = keys.integer("expert_count")
    used = max(keys.per_layer("expert_used_count", n_layer, (0,)))
    if keys.architecture in ("hunyuan_vl", "hunyuan-dense") and n_expert <= 1:
        return 0, 0
    if not 0 <= n_expert <= MAX_EXPERTS:
        raise keys.wrong("expert_count", f"is {n_expert}: llama.cpp takes up to {MAX_EXPERTS}")
    if not 0 <= used <= n_expert:
        raise keys.wrong("expert_used_count", f"is {used}, the model has {n_expert} experts")
    if n_expert and not used:
        raise keys.wrong("expert_used_count", f"is 0, the model has {n_expert} experts")
    return n_expert, used


def _vocabulary(header: Header, keys: Keys) -> int:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, SkippedArray):
        return tokens.length
    if isinstance(tokens, tuple):
        return len(tokens)
    stated = keys.integer("vocab_size")
    if stated:
        return stated
    return next((t.shape[1] for t in header.tensors if t.name == "token_embd.weight"), 0)


_MROPE = frozenset(
    {"paddleocr", "qwen2vl", "qwen35", "qwen35moe", "qwen3vl", "qwen3vlmoe", "qwen4exp"}
)
_MROPE_BY_SECTIONS = frozenset({"bailingmoe3", "glm4", "glm4moe", "hunyuan_vl"})


def _compress_ratios(keys: Keys, n_all: int) -> tuple[int, ...]:
    """Tokens per compressed row of each layer: deepseek4 lists them, qwen4exp may state one."""
    if keys.architecture == "qwen4exp":
        return keys.per_layer("attention.compress_ratios", n_all, (0,) * n_all)
    return keys.array("attention.compress_ratios") or (0,) * n_all


def _ngram_state(keys: Keys, n_embd: int) -> int:
    """`ple_conv_state` (src/llama-hparams.cpp): what a dilated convolution over streams keeps."""
    if keys.architecture != "qwen4exp":
        return 0
    columns = (keys.integer("ple.conv_kernel", 1) - 1) * keys.integer("ple.ngram_size")
    return max(0, columns) * keys.integer("hyper_connection.count") * n_embd


def _clamped(keys: Keys, key: str, n_all: int) -> tuple[bool, ...]:
    """The layers for which the file states a limit, where that takes operations of its own."""
    found = keys.value(key) if keys.architecture in ("bailingmoe3", "step35") else None
    values = found if isinstance(found, tuple) else (found,) * n_all
    limited = tuple(isinstance(v, (int, float)) and v > 1e-6 for v in values[:n_all])
    return limited + (False,) * (n_all - len(limited))


def _positions(keys: Keys) -> int:
    """`n_pos_per_embd` (src/llama-hparams.cpp) by `llama_model_rope_type`."""
    sections = keys.array("rope.dimension_sections") or (0, 0)
    by_sections = keys.architecture in _MROPE_BY_SECTIONS and min(sections[:2]) > 0
    return 4 if keys.architecture in _MROPE or by_sections else 1


# Which architectures read which keys of recurrent layers: a file may state others' keys too, and
# they must not count. A new architecture is taken to read whatever its file states.
_KDA = frozenset({"bailingmoe3", "glm5-next", "kimi-k3", "kimi-linear"})
_WKV = frozenset({"arwkv7", "rwkv6", "rwkv6qwen2", "rwkv7"})
_SHORTCONV = frozenset({"lfm2", "lfm2moe"})
_SSM_BUT_GROUPS = frozenset({"jamba", "mamba"})
_SSM = _SSM_BUT_GROUPS | {
    "falcon-h1", "granitehybrid", "mamba2", "nemotron_h", "nemotron_h_moe", "plamo2", "qwen35",
    "qwen35moe", "qwen3next", "qwen4exp",
}  # fmt: skip


_EMBEDDING_SCALE = {"grok": 78.4, "minicpm": 12.0}  # where the file states none


def _read_by(keys: Keys, key: str, *readers: frozenset[str]) -> int:
    """The key's number, where the engine reads it."""
    known = keys.architecture in KNOWN
    if known and not any(keys.architecture in group for group in readers):
        return 0
    return keys.integer(key)


_MLA = _KDA | {"deepseek2", "deepseek32", "dots3note", "glm-dsa", "hy_v4", "mistral4"}
_INDEXER = frozenset(
    {"deepseek32", "deepseek4", "dots3note", "glm-dsa", "glm5-next", "hy_v4", "minimax-m3",
     "qwen4exp"}
)  # fmt: skip


def _is_mla(keys: Keys) -> bool:
    return bool(
        _read_by(keys, "attention.key_length_mla", _MLA)
        and _read_by(keys, "attention.value_length_mla", _MLA)
    )


def _indexer_layers(keys: Keys, architecture: str, n_layer: int, n_all: int) -> tuple[bool, ...]:
    """`is_indexer_full`: which layers own an indexer cache."""
    default = architecture != "hy_v4"
    found = keys.value("attention.indexer.types")
    if found is None:
        if architecture == "glm-dsa" and keys.integer("context_length") >= 1 << 20:
            # GLM_5_2_DEFAULT_INDEXER_TYPES (src/models/glm-dsa.cpp)
            return tuple(il < 3 or (il - 2) % 4 == 0 for il in range(n_all))
        return (default,) * n_all
    types = keys.per_layer("attention.indexer.types", min(n_layer, n_all), ())
    return tuple(bool(t) for t in types) + (False,) * (n_all - len(types))


def _ssm(keys: Keys) -> Ssm:
    return Ssm(
        conv=_read_by(keys, "ssm.conv_kernel", _SSM, _KDA),
        inner=_read_by(keys, "ssm.inner_size", _SSM),
        state=_read_by(keys, "ssm.state_size", _SSM),
        rank=_read_by(keys, "ssm.time_step_rank", _SSM),
        groups=_read_by(keys, "ssm.group_count", _SSM - _SSM_BUT_GROUPS),
        kda_head=_read_by(keys, "kda.head_dim", _KDA),
        wkv_head=_read_by(keys, "wkv.head_size", _WKV),
    )


def _state_sizes(keys: Keys, ssm: Ssm, n_embd: int, n_head: int, head_k: int) -> tuple[int, int]:
    """`n_embd_r` and `n_embd_s` (src/llama-hparams.cpp), in elements."""
    if ssm.wkv_head:
        return keys.integer("token_shift_count", 2) * n_embd, n_embd * ssm.wkv_head
    l_cache = _read_by(keys, "shortconv.l_cache", _SHORTCONV)
    if l_cache:
        return n_embd * (l_cache - 1), ssm.state * ssm.inner
    kda = ssm.kda_head
    if kda:
        return 3 * (ssm.conv - 1 if ssm.conv > 0 else 3) * n_head * kda, kda * kda * n_head
    row = max(ssm.conv - 1, 0) * (ssm.inner + 2 * ssm.groups * ssm.state)
    if keys.architecture == "minimax-01":
        return row, head_k * head_k * n_head
    return row, ssm.state * ssm.inner
