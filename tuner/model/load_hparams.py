"""What llama.cpp's loader reads from the metadata before it builds a model.

The rules are those of `llama_model_base::load_hparams` (src/llama-model.cpp) and of each
architecture's `load_arch_hparams` (src/models/*.cpp); which architecture follows which of them
stands in `architectures.py`, window patterns are in `layer_pattern.py`.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from tuner.errors import FileError
from tuner.gguf.header import Header, SkippedArray
from tuner.gguf.keys import Keys
from tuner.gguf.limits import MAX_LAYERS, MAX_ROW, MAX_STATE, MAX_VOCABULARY
from tuner.model.architecture import Architecture, KeyGroup
from tuner.model.architectures import architecture as architecture_row
from tuner.model.hparams import HParams, Ssm
from tuner.model.layer_pattern import recurrent_layers, window
from tuner.safe_text import cut
from tuner.settings import MAX_CONTEXT

_MROPE_POSITIONS = 4  # numbers that say where a token is where images have places too
_GLM_5_2_CONTEXT = 1 << 20  # from here on a model is taken for GLM 5.2 (src/models/glm-dsa.cpp)
_GLM_5_2_INDEXERS = 3, 4  # in its first layers, and in one of so many after them
# llama_expert_gating_func_type
_GATES = {1: "softmax", 2: "sigmoid", 3: "softmax_weight", 4: "sqrt_softplus"}
_NO_LIMIT = 1e-6  # a limit of gated units up to this is none (src/llama-graph.cpp)


def load_hparams(header: Header, architecture: str) -> HParams:
    """Reads what the engine would. Raises FileError("malformed") where the engine would abort."""
    keys = Keys(header, architecture)
    row = architecture_row(architecture)
    layers = _layers(header, keys, row)
    n, n_all = layers.n_layer, layers.n_layer_all
    n_embd = keys.integer("embedding_length")
    if not n_embd:
        raise keys.wrong("embedding_length", "is missing")
    n_expert, n_used = _experts(keys, row, layers.n_stated)
    n_swa, swa = window(keys, row, n, n_all)
    recurrent = recurrent_layers(keys, row, n, n_all, n_head_kv=layers.n_head_kv, n_ff=layers.n_ff)
    if not any(layers.n_head) and not any(recurrent):
        stated = keys.value("attention.head_count") is not None
        raise keys.wrong(
            "attention.head_count", f"is {0 if stated else 'missing'}, and no layer is recurrent"
        )
    heads = _head_sizes(keys, row, layers.n_head[0], n_embd, windowed=any(swa))
    ssm = _ssm(keys, row)
    state_r, state_s = _state_sizes(keys, row, ssm, n_embd, layers.n_head[0], heads.k)

    hparams = HParams(
        architecture=architecture,
        n_layer=n,
        n_layer_all=n_all,
        n_layer_dense_lead=keys.optional("leading_dense_block_count"),
        cycles=(
            keys.optional("hrm.layers_per_stack"),
            keys.optional("hrm.h_cycles"),
            keys.optional("hrm.l_cycles"),
        ),
        residual_block=keys.optional("attn_res.block_size"),
        rescaled_every=_read_by(keys, row, "rescale_every_n_layers", "rescaling"),
        parallel_residual=keys.flag("use_parallel_residual"),
        rms_norm=keys.number("attention.layer_norm_rms_epsilon") > 0,
        n_embd=n_embd,
        n_embd_inp=n_embd * (1 + keys.optional("n_deepstack_layers")),
        n_vocab=_vocabulary(header, keys),
        n_ctx_train=min(keys.integer("context_length"), MAX_CONTEXT),
        positions=_positions(keys, row),
        scaled_input=keys.number("embedding_scale", row.embedding_scale) != 0,
        ngram_layers=keys.array("ple.layers") or () if "ngrams" in row.reads else (),
        ngram_row=keys.optional("embedding_length_per_layer_input"),
        ngram_state=_ngram_state(keys, row, n_embd),
        n_head=layers.n_head,
        n_head_kv=layers.n_head_kv,
        head_k=tuple(heads.k_swa if s else heads.k for s in swa),
        head_v=tuple(heads.v_swa if s else heads.v for s in swa),
        swa=swa,
        n_swa=n_swa,
        n_layer_kv=_first_shared(keys, row, n_all),
        mla=_is_mla(keys, row),
        rope_finetuned=keys.value("rope.scaling.finetuned") is not False,
        indexer_head=_read_by(keys, row, "attention.indexer.key_length", "indexer"),
        indexer_top_k=keys.optional("attention.indexer.top_k"),
        indexer_full=_indexer_layers(keys, row, n, n_all),
        indexer_block=_read_by(keys, row, "attention.indexer.block_size", "indexer_blocks"),
        indexer_kpool=keys.optional("attention.indexer.kpool"),
        indexer_tail=keys.flag("attention.indexer.kpool_select_tail"),
        compress_ratios=_compress_ratios(keys, row, n_all),
        recurrent=recurrent,
        state_r=state_r,
        state_s=state_s,
        ssm=ssm,
        n_ff=layers.n_ff,
        n_ff_exp=keys.optional("expert_feed_forward_length"),
        n_expert=n_expert,
        n_expert_used=n_used,
        n_expert_groups=keys.integer("expert_group_count"),
        n_groups_used=keys.optional("expert_group_used_count"),
        scaled_residual=keys.number("residual_scale", row.residual_scale) != 0,
        scaled_logits=keys.number("logit_scale", row.logit_scale) != 0,
        capped_logits=_logit_cap(keys, row) != 0,
        expert_gate=_GATES.get(keys.optional("expert_gating_func"), ""),
        expert_weights_norm=keys.flag("expert_weights_norm"),
        expert_weights_scaled=keys.number("expert_weights_scale") not in (0.0, 1.0),
        clamped=_clamped(keys, row, "swiglu_clamp_exp", n_all),
        clamped_shared=_clamped(keys, row, "swiglu_clamp_shexp", n_all),
    )
    _require_sizes(keys, hparams)
    return hparams


def _require_sizes(keys: Keys, hp: HParams) -> None:
    """Raises FileError where heads have no size, or where numbers that are each within limits
    make a layer that no model has. No byte of a cache or a state is then beyond 64 bits."""
    for il, n_head in enumerate(hp.n_head_kv[: hp.n_layer]):
        attends = n_head and not (hp.recurrent[il] and not hp.row.side_by_side)
        if attends and not (hp.head_k[il] and hp.head_v[il]):
            which = "value_length" if hp.head_k[il] else "key_length"
            raise keys.wrong(f"attention.{which}", f"leaves heads without elements in layer {il}")
    depth, slow, fast = hp.cycles
    if hp.row.graph.builder == "cycles" and not 0 < depth * slow * (fast + 1) == hp.n_layer:
        raise keys.wrong("block_count", "is not what the stacks of layers make of their runs")
    if max(*hp.k_row, *hp.v_row) > MAX_ROW:
        raise keys.wrong("attention.head_count_kv", "makes rows of the cache that no model has")
    if max(hp.state_r, hp.state_s) > MAX_STATE:
        raise keys.wrong("ssm.state_size", "makes a state that no model has")


class _Layers(NamedTuple):
    n_stated: int  # as many as the file has blocks
    n_layer: int
    n_layer_all: int
    n_head: tuple[int, ...]
    n_head_kv: tuple[int, ...]
    n_ff: tuple[int, ...]


def _layers(header: Header, keys: Keys, row: Architecture) -> _Layers:
    """The layers that the engine makes of the file's blocks, and what each of them is wide."""
    if keys.value("block_count") is None:
        raise FileError(
            "not_a_chat_model",
            header.path,
            f"{header.path} ({cut(row.name)}) describes no layers of a language model: "
            "it is another kind of model, or a part of one.",
        )
    n_stated = n_all = keys.integer("block_count")
    if not n_all:
        raise keys.wrong("block_count", "is no number")
    n_nextn = keys.integer("nextn_predict_layers")
    if n_nextn > n_all:
        raise keys.wrong("nextn_predict_layers", f"is {n_nextn}, the model has {n_all} layers")
    if row.mtp_by_tensor and n_nextn:
        probe = f"blk.{n_all - n_nextn}.nextn.eh_proj.weight"
        if not any(t.name == probe for t in header.tensors):
            n_nextn = 0

    zeros = (0,) * n_all
    n_head = keys.per_layer("attention.head_count", n_all, zeros)
    n_head_kv = keys.per_layer("attention.head_count_kv", n_all, n_head)
    n_ff = keys.per_layer("feed_forward_length", n_all, zeros)

    loops = max(1, keys.integer("num_loops", 1)) if "loops" in row.reads else 1
    if loops > 1:
        n_all *= loops
        if n_all > MAX_LAYERS:
            raise keys.wrong("num_loops", f"makes {n_all} layers, over {MAX_LAYERS}")
        n_head, n_head_kv, n_ff = n_head * loops, n_head_kv * loops, n_ff * loops
    if row.switched:
        return _Layers(n_stated, n_all, n_all + 1, (*n_head, 1), (*n_head_kv, 1), (*n_ff, 0))
    return _Layers(n_stated, n_all - n_nextn, n_all, n_head, n_head_kv, n_ff)


class _HeadSizes(NamedTuple):
    """Elements of a head's keys and values, and of those in layers with a window."""

    k: int
    v: int
    k_swa: int
    v_swa: int


def _head_sizes(
    keys: Keys, row: Architecture, n_head: int, n_embd: int, *, windowed: bool
) -> _HeadSizes:
    """`n_head`: the first layer's; `windowed`: there are layers with a window."""
    k = v = 0
    if n_head or row.head_sizes_stated:
        default = n_embd // n_head if n_head else 0
        k = keys.integer("attention.key_length", default)
        v = keys.integer("attention.value_length", default)
    if not windowed:
        return _HeadSizes(k, v, k, v)
    return _HeadSizes(
        k,
        v,
        keys.integer("attention.key_length_swa", k),
        keys.integer("attention.value_length_swa", v),
    )


def _first_shared(keys: Keys, row: Architecture, n_all: int) -> int:
    """`n_layer_kv_from_start`: the first layer without a cache of its own."""
    if row.first_shared_kv is not None:
        return row.first_shared_kv
    first = n_all - _read_by(keys, row, "attention.shared_kv_layers", "shared_kv")
    return first if first >= 0 else n_all  # int32_t, and used "if non-negative"


def _logit_cap(keys: Keys, row: Architecture) -> float:
    """What logits are kept within; 0: nothing."""
    stated = "logit_cap" in row.reads
    return keys.number("final_logit_softcapping", row.logit_cap) if stated else row.logit_cap


def _experts(keys: Keys, row: Architecture, n_layer: int) -> tuple[int, int]:
    """How many experts a layer has, and how many of them a token uses."""
    n_expert = keys.integer("expert_count")
    used = max(keys.per_layer("expert_used_count", n_layer, (0,)))
    if row.one_expert_is_dense and n_expert <= 1:
        return 0, 0
    if used > n_expert:
        raise keys.wrong("expert_used_count", f"is {used}, the model has {n_expert} experts")
    if n_expert and not used:
        raise keys.wrong("expert_used_count", f"is 0, the model has {n_expert} experts")
    groups = keys.integer("expert_group_count")
    if groups and groups >= n_expert:
        raise keys.wrong("expert_group_count", f"is {groups}, the model has {n_expert} experts")
    if groups > 1:
        chosen = keys.integer("expert_group_used_count")
        if n_expert % groups or not 0 < chosen < groups:
            raise keys.wrong(
                "expert_group_count", f"is {groups}, which does not divide its experts"
            )
    return n_expert, used


def _vocabulary(header: Header, keys: Keys) -> int:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, SkippedArray):
        found = tokens.length
    elif isinstance(tokens, tuple):
        found = len(tokens)
    else:
        embeddings = (t.shape for t in header.tensors if t.name == "token_embd.weight")
        found = keys.integer("vocab_size") or sum(next(embeddings, ())[1:2])
    if found > MAX_VOCABULARY:
        raise keys.wrong("vocab_size", f"or the list of tokens makes {found:,}, which no model has")
    return found


def _compress_ratios(keys: Keys, row: Architecture, n_all: int) -> tuple[int, ...]:
    """Tokens per compressed row of each layer."""
    if row.one_ratio_for_all:
        return keys.per_layer("attention.compress_ratios", n_all, (0,) * n_all)
    return keys.array("attention.compress_ratios") or (0,) * n_all


def _ngram_state(keys: Keys, row: Architecture, n_embd: int) -> int:
    """`ple_conv_state` (src/llama-hparams.cpp): what a dilated convolution over streams keeps."""
    if "ngrams" not in row.reads:
        return 0
    columns = (keys.integer("ple.conv_kernel", 1) - 1) * keys.integer("ple.ngram_size")
    return max(0, columns) * keys.integer("hyper_connection.count") * n_embd


def _clamped(keys: Keys, row: Architecture, key: str, n_all: int) -> tuple[bool, ...]:
    """The layers for which the file states a limit, where that takes operations of its own."""
    found = keys.value(key) if "clamps" in row.reads else None
    values = found if isinstance(found, tuple) else (found,) * n_all
    limited = tuple(isinstance(v, (int, float)) and v > _NO_LIMIT for v in values[:n_all])
    return limited + (False,) * (n_all - len(limited))


def _positions(keys: Keys, row: Architecture) -> int:
    """`n_pos_per_embd` (src/llama-hparams.cpp) by `llama_model_rope_type`."""
    by_sections = False
    if row.positions == "mrope_by_sections":
        by_sections = min((keys.array("rope.dimension_sections") or (0,))[:2]) > 0
    return _MROPE_POSITIONS if row.positions == "mrope" or by_sections else 1


def _read_by(keys: Keys, row: Architecture, key: str, *groups: KeyGroup) -> int:
    """The key's number, where the engine reads it: where the architecture reads such a group."""
    return keys.integer(key) if row.reads.intersection(groups) else 0


def _is_mla(keys: Keys, row: Architecture) -> bool:
    return bool(
        _read_by(keys, row, "attention.key_length_mla", "mla")
        and _read_by(keys, row, "attention.value_length_mla", "mla")
    )


def _indexer_layers(keys: Keys, row: Architecture, n_layer: int, n_all: int) -> tuple[bool, ...]:
    """`is_indexer_full`: which layers own an indexer cache."""
    rule = row.indexer
    unlisted = rule.unlisted if rule else "all"
    lists = rule is not None and rule.layers == "listed" and rule.picks != "rows"
    if not lists or keys.value("attention.indexer.types") is None:
        if unlisted == "glm_5_2" and keys.integer("context_length") >= _GLM_5_2_CONTEXT:
            first, period = _GLM_5_2_INDEXERS
            return tuple(il < first or (il - first + 1) % period == 0 for il in range(n_all))
        return (unlisted != "none",) * n_all
    types = keys.per_layer("attention.indexer.types", min(n_layer, n_all), ())
    return tuple(bool(t) for t in types) + (False,) * (n_all - len(types))


def _ssm(keys: Keys, row: Architecture) -> Ssm:
    return Ssm(
        conv=_read_by(keys, row, "ssm.conv_kernel", "ssm", "kda"),
        inner=_read_by(keys, row, "ssm.inner_size", "ssm"),
        state=_read_by(keys, row, "ssm.state_size", "ssm"),
        rank=_read_by(keys, row, "ssm.time_step_rank", "ssm"),
        groups=_read_by(keys, row, "ssm.group_count", "ssm_groups"),
        kda_head=_read_by(keys, row, "kda.head_dim", "kda"),
        kda_bounded="kda_bound" in row.reads and keys.number("kda.gate_lower_bound", -inf) > -inf,
        wkv_head=_read_by(keys, row, "wkv.head_size", "wkv"),
    )


def _state_sizes(
    keys: Keys, row: Architecture, ssm: Ssm, n_embd: int, n_head: int, head_k: int
) -> tuple[int, int]:
    """`n_embd_r` and `n_embd_s` (src/llama-hparams.cpp), in elements."""
    if ssm.wkv_head:
        return keys.optional("token_shift_count", 2) * n_embd, n_embd * ssm.wkv_head
    l_cache = _read_by(keys, row, "shortconv.l_cache", "shortconv")
    if l_cache:
        return n_embd * (l_cache - 1), ssm.state * ssm.inner
    kda = ssm.kda_head
    if kda:
        return 3 * (ssm.conv - 1 if ssm.conv > 0 else 3) * n_head * kda, kda * kda * n_head
    columns = max(ssm.conv - 1, 0) * (ssm.inner + 2 * ssm.groups * ssm.state)
    return columns, head_k * head_k * n_head if row.matrix_state else ssm.state * ssm.inner
