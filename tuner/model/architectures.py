"""One row per architecture: every chat architecture that llama.cpp knows.

The names are those of LLM_ARCH_NAMES (src/llama-arch.cpp). A row says how an architecture is
unlike llama (`architecture.py` has the columns, with llama's ways as their defaults), from
`llama_model::create_memory` (src/llama-model.cpp) and src/models/*.cpp; of the many that are like
llama there is only a name. Most of a layer is read from its tensors.

For a new row, read src/models/NAME.cpp: `load_arch_hparams` for keys and windows, `create_memory`
in src/llama-model.cpp for the kind of memory, the graph for what is unlike llama's. A name without
its columns can make a plan worse than none: of a known architecture only those keys count that its
row lists. tests/memory/test_engine_sizes.py says whether the engine agrees, once a header of the
architecture is in the archive.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from tuner.model.architecture import (
    Architecture,
    GraphTraits,
    Indexer,
    KeyGroup,
    LayerPart,
    Order,
    Window,
)

_SSM: frozenset[KeyGroup] = frozenset({"ssm", "ssm_groups"})
_WKV: frozenset[KeyGroup] = frozenset({"wkv"})
_MLA: frozenset[KeyGroup] = frozenset({"mla"})
_KDA: frozenset[KeyGroup] = frozenset({"kda", "mla"})
_BOUND: frozenset[KeyGroup] = frozenset({"kda_bound"})
_DSA: frozenset[KeyGroup] = frozenset({"mla", "indexer"})
_CAPPED: frozenset[KeyGroup] = frozenset({"logit_cap"})
_BOTH: tuple[LayerPart, ...] = ("attention", "ffn")
_FFN_INPUT: Order = ("ffn", "input", "attention")
_FFN_ATTENTION: Order = ("ffn", "attention", "input")
_ATTENTION_FFN: Order = ("attention", "ffn", "input")
_RMS = GraphTraits(layer_norm=False)
_STATED = GraphTraits(expert_weights="stated")
_PHI3 = GraphTraits(layer_norm=False, residual_first=("ffn",), scale_of_q=True)
_SIGMOID = GraphTraits(expert_weights="stated", expert_gate="sigmoid")

_NEMOTRON_H = Architecture(
    "nemotron_h",
    scaled_ffn=True,
    scaled_shared=True,
    memory="hybrid",
    reads=_SSM,
    one_part=True,
    mtp_cached=True,
    scaled_experts=True,
    graph=GraphTraits(
        logit_rows="after_norm", rope="none", expert_weights="stated", expert_gate="sigmoid"
    ),
)

# a cache of keys and values in every layer
_CACHE = (
    Architecture(
        "afmoe",
        window=Window(4, optional=True),
        graph=GraphTraits(
            rope="most", norm_before_rows=True, expert_weights="stated", expert_gate="sigmoid"
        ),
    ),
    Architecture("apertus", graph=GraphTraits(layer_norm=False)),
    Architecture("arcee"),
    Architecture("arctic"),
    Architecture(
        "baichuan",
        graph=GraphTraits(
            rope_n_layer=32,  # the 13B knows positions by a bias
        ),
    ),
    Architecture("bailingmoe", graph=_STATED),
    Architecture("bailingmoe2", graph=_STATED),
    Architecture(
        "bitnet", scaled_ffn=True, tied_in_place=True, graph=GraphTraits(host_output=True)
    ),
    Architecture("bloom", graph=GraphTraits(rope="none", alibi=True)),
    Architecture("chameleon"),
    Architecture("chatglm"),
    Architecture("codeshell"),
    Architecture("cogvlm", graph=GraphTraits(logit_rows="all")),
    Architecture(
        "cohere2",
        scaled_ffn=True,
        window=Window(4),
        graph=GraphTraits(layer_norm=True, parallel=_FFN_INPUT, rope="window"),
    ),
    Architecture(
        "cohere2moe",
        scaled_shared=True,
        scaled_ffn=True,
        window=Window(4, dense_first=True),
        scaled_experts=True,
        graph=GraphTraits(
            logit_rows="after_norm",
            layer_norm=True,
            rms_if_stated=True,
            parallel=_FFN_INPUT,
            rope="window",
            rope_in_lead=True,
            expert_weights="stated",
            expert_gate="sigmoid",
        ),
    ),
    Architecture("command-r", graph=GraphTraits(layer_norm=True, parallel=_FFN_INPUT)),
    Architecture("dbrx", graph=GraphTraits(layer_norm=True)),
    Architecture("deci"),
    Architecture("deepseek", graph=GraphTraits(expert_weights="plain")),
    Architecture("deepseek2-ocr", graph=_STATED),
    Architecture("dots1", graph=_STATED),
    Architecture("ernie4_5"),
    Architecture("ernie4_5-moe"),
    Architecture("exaone"),
    Architecture("exaone-moe", window=Window(4, default=128), graph=_STATED),
    Architecture(
        "exaone4", window=Window(4, default=4096, n_layer=64), graph=GraphTraits(rope="window")
    ),
    Architecture("falcon", output_in_q8_0=True, graph=GraphTraits(parallel=_FFN_ATTENTION)),
    Architecture("gemma", graph=GraphTraits(scaled_input=True, scale_of_q=True)),
    Architecture(
        "gemma2",
        logit_cap=30.0,
        reads=_CAPPED,
        window=Window(2, default=4096),
        graph=GraphTraits(scaled_input=True, scale_of_q=True, softcap=True),
    ),
    Architecture(
        "gemma3",
        reads=_CAPPED,
        window=Window(6, optional=True),
        graph=GraphTraits(scaled_input=True, scale_of_q=True),
    ),
    Architecture(
        "gemma3n",
        logit_cap=30.0,
        first_shared_kv=20,
        window=Window(5),
        output_first=True,
        graph=GraphTraits(builder="altup", scaled_input=True, logit_rows="all", norm_v=True),
    ),
    Architecture(
        "gemma4",
        scaled_ffn=True,
        logit_cap=30.0,
        reads=_CAPPED | {"shared_kv"},
        window=Window(),
        rope_factors_outside_windows=True,
        output_first=True,
        scaled_experts=True,
        graph=GraphTraits(
            scaled_input=True,
            logit_rows="after_norm",
            norm_v=True,
            dense_beside_experts=True,
        ),
    ),
    Architecture("glm4", positions="mrope_by_sections"),
    Architecture("glm4moe", positions="mrope_by_sections", graph=_SIGMOID),
    Architecture(
        "gpt-oss",
        window=Window(2),
        graph=GraphTraits(logit_rows="before_norm", expert_weights="softmax"),
    ),
    Architecture("gpt2", graph=GraphTraits(rope="none")),
    Architecture(
        "gptneox", graph=GraphTraits(layer_norm=True, parallel=_FFN_INPUT, parallel_if_stated=True)
    ),
    Architecture("granite", graph=GraphTraits(rope="stated")),
    Architecture("granite_swa", window=Window()),
    Architecture("granitemoe"),
    Architecture("graniteswitch", mtp_cached=True, switched=True, graph=GraphTraits(rope="stated")),
    Architecture(
        "grok",
        embedding_scale=78.4,
        logit_scale=0.58,
        reads=_CAPPED,
        unfused=True,
        graph=GraphTraits(softcap=True, dense_beside_experts=True),
    ),
    Architecture("grovemoe", graph=GraphTraits(expert_choice="sigmoid")),
    Architecture(
        "hrm_text", graph=GraphTraits(builder="cycles", logit_rows="before_norm", bare_norms=True)
    ),
    Architecture("hunyuan-dense", one_expert_is_dense=True),
    Architecture("hunyuan-moe"),
    Architecture("hunyuan_vl", one_expert_is_dense=True, positions="mrope_by_sections"),
    Architecture(
        "hy_v3",
        scaled_shared=True,
        scaled_ffn=True,
        scaled_experts=True,
        graph=GraphTraits(logit_rows="after_norm", expert_weights="stated", expert_gate="sigmoid"),
    ),
    Architecture("internlm2"),
    Architecture("jais", graph=GraphTraits(rope="none")),
    Architecture("jais2"),
    Architecture("laguna", window=Window(4, dense_first=True, optional=True), graph=_SIGMOID),
    Architecture("llama", scaled_ffn=True, scaled_experts=True, n_layer_70b=80),
    Architecture(
        "llama4",
        window=Window(4, fixed=8192, zero_is_none=True),
        graph=GraphTraits(
            rope="most_or_but_last",
            scaled_q=True,
            expert_gate="sigmoid",
            expert_weights="plain",
            expert_choice="logits",
            weighted_input=True,
        ),
    ),
    Architecture("maincoder"),
    Architecture("maple", window=Window(), graph=GraphTraits(rope="window")),
    Architecture("mellum", window=Window(4, optional=True), scaled_experts=True),
    Architecture("mimo2", window=Window(), graph=GraphTraits(expert_gate="sigmoid")),
    Architecture("minicpm", embedding_scale=12.0, residual_scale=1.4, logit_scale=1.0),
    Architecture("minicpm3", graph=GraphTraits(whole_query=True)),
    Architecture("minimax-m2"),
    Architecture("mistral3", scaled_ffn=True, scaled_experts=True),
    Architecture("mpt", graph=GraphTraits(layer_norm=True, rope="none")),
    Architecture(
        "muse-glimmer",
        logit_cap=30.0,
        reads=_CAPPED,
        window=Window(4),
        graph=GraphTraits(norm_before_rows=True, rope="window"),
    ),
    Architecture("nanbeige", scaled_ffn=True, reads=frozenset({"loops"})),
    Architecture("nemotron"),
    Architecture("olmo", graph=GraphTraits(layer_norm=True, bare_norms=True)),
    Architecture("olmo2", window=Window(4, optional=True)),
    Architecture("olmoe", graph=GraphTraits(expert_weights="plain")),
    Architecture("openelm", graph=GraphTraits(residual_first=("attention",))),
    Architecture("orion"),
    Architecture("paddleocr", positions="mrope"),
    Architecture("pangu-embedded"),
    Architecture("phi2", graph=GraphTraits(parallel=_ATTENTION_FFN, scale_of_q=True)),
    Architecture("phi3", graph=_PHI3),
    Architecture("phimoe", graph=_PHI3),
    Architecture("plamo", graph=GraphTraits(parallel=_FFN_ATTENTION)),
    Architecture("plamo3", window=Window(8, optional=True)),
    Architecture("plm", graph=GraphTraits(whole_query=True)),
    Architecture("qwen"),
    Architecture("qwen2"),
    Architecture("qwen2moe", graph=GraphTraits(expert_weights="plain")),
    Architecture("qwen2vl", positions="mrope"),
    Architecture("qwen3", scaled_ffn=True),
    Architecture("qwen3moe", scaled_experts=True),
    Architecture("qwen3vl", positions="mrope"),
    Architecture("qwen3vlmoe", positions="mrope"),
    Architecture("refact", graph=GraphTraits(rope="none", alibi=True, experts=False)),
    Architecture("seed_oss"),
    Architecture(
        "smallthinker",
        window=Window(4, dense_first=True, fixed=4096, optional=True),
        graph=GraphTraits(rope="window", early_router=True),
    ),
    Architecture("smollm3", graph=GraphTraits(rope="most")),
    Architecture("spark2_5", window=Window()),
    Architecture("stablelm", graph=GraphTraits(parallel_without_norm=True)),
    Architecture("starcoder", graph=GraphTraits(rope="none")),
    Architecture("starcoder2"),
    Architecture(
        "step35",
        reads=frozenset({"clamps"}),
        window=Window(),
        graph=GraphTraits(logit_rows="before_norm", expert_weights="stated", expert_gate="sigmoid"),
    ),
    Architecture("talkie", graph=GraphTraits(embedding_skip=True, bare_norms=True)),
    Architecture("xverse"),
)

# latent attention, and attention to what an indexer has picked
_LATENT = (
    Architecture("deepseek2", reads=_MLA, graph=_STATED),
    Architecture(
        "deepseek32",
        scaled_shared=True,
        scaled_ffn=True,
        reads=_DSA,
        indexer=Indexer(layers="attending"),
        scaled_experts=True,
        graph=_STATED,
    ),
    Architecture(
        "deepseek4",
        memory="compressed",
        reads=frozenset({"indexer"}),
        mtp_by_tensor=True,
        window=Window(layers="all"),
        indexer=Indexer("rows"),
        graph=GraphTraits(
            builder="hyper_connections", needs_every_layer=True, expert_weights="stated"
        ),
    ),
    Architecture(
        "dots3note",
        scaled_shared=True,
        scaled_ffn=True,
        reads=_DSA,
        window=Window(),
        indexer=Indexer(),
        scaled_experts=True,
        graph=_STATED,
    ),
    Architecture(
        "glm-dsa",
        scaled_shared=True,
        scaled_ffn=True,
        reads=_DSA,
        indexer=Indexer(unlisted="glm_5_2"),
        scaled_experts=True,
        graph=_SIGMOID,
    ),
    Architecture(
        "hy_v4",
        reads=_DSA,
        mtp_cached=True,
        indexer=Indexer(unlisted="none", needs_top_k=True, rotated=False),
        graph=GraphTraits(builder="residual_streams", scaled=(), expert_weights="stated"),
    ),
    Architecture(
        "minimax-m3",
        reads=frozenset({"indexer", "indexer_blocks"}),
        indexer=Indexer("blocks", layers="behind_lead", values=True),
        graph=_STATED,
    ),
    Architecture(
        "mistral4", reads=_MLA, graph=GraphTraits(expert_weights="stated", precise_down=True)
    ),
)

# a state in every layer
_STATE = (
    Architecture("arwkv7", memory="state", reads=_WKV, graph=_RMS),
    Architecture("mamba", memory="state", reads=frozenset({"ssm"})),
    Architecture("mamba2", memory="state", reads=_SSM),
    Architecture("rwkv6", memory="state", reads=_WKV | {"rescaling"}),
    Architecture("rwkv6qwen2", memory="state", reads=_WKV, graph=_RMS),
    Architecture("rwkv7", memory="state", reads=_WKV),
)

# some layers attend, the others keep a state
_HYBRID = (
    Architecture(
        "bailingmoe3",
        memory="hybrid",
        reads=_KDA | _BOUND | {"clamps"},
        mtp_cached=True,
        positions="mrope_by_sections",
        graph=GraphTraits(
            logit_rows="after_norm",
            scaled=(),
            expert_weights="stated",
            copied_gate=True,
            signed_decay=True,
        ),
    ),
    Architecture(
        "falcon-h1",
        memory="hybrid",
        reads=_SSM,
        side_by_side=True,
        mtp_cached=True,
    ),
    Architecture(
        "glm5-next",
        memory="hybrid",
        reads=_KDA | _BOUND | {"indexer"},
        indexer=Indexer("pools"),
        graph=GraphTraits(
            builder="hyper_connections",
            needs_every_layer=True,
            expert_weights="stated",
            expert_gate="sigmoid",
        ),
    ),
    Architecture(
        "granitehybrid",
        memory="hybrid",
        reads=_SSM,
        mtp_cached=True,
        graph=GraphTraits(rope="stated"),
    ),
    Architecture(
        "jamba",
        memory="hybrid",
        reads=frozenset({"ssm"}),
        mtp_cached=True,
        graph=GraphTraits(residual_first=_BOTH, rope="none", expert_weights="plain"),
    ),
    Architecture(
        "kimi-k3",
        memory="hybrid",
        reads=_KDA | _BOUND,
        mtp_cached=True,
        graph=GraphTraits(
            builder="residual_bank",
            scaled=(),
            rope="none",
            expert_weights="stated",
            situ_gate=True,
            reshaped_gate=True,
        ),
    ),
    Architecture(
        "kimi-linear",
        memory="hybrid",
        reads=_KDA,
        mtp_cached=True,
        graph=GraphTraits(
            scaled=("attn_output",), norm_first=True, rope="none", reshaped_gate=True
        ),
    ),
    Architecture(
        "lfm2",
        memory="hybrid",
        reads=frozenset({"shortconv"}),
        mtp_cached=True,
        window=Window(layers="attending", optional=True),
        embedding_norm_last=True,
        graph=GraphTraits(residual_first=_BOTH),
    ),
    Architecture(
        "lfm2moe",
        memory="hybrid",
        reads=frozenset({"shortconv"}),
        mtp_cached=True,
        embedding_norm_last=True,
        graph=GraphTraits(residual_first=_BOTH),
    ),
    Architecture(
        "minimax-01",
        memory="hybrid",
        recurrent_interval=8,
        matrix_state=True,
        graph=GraphTraits(builder="lightning"),
    ),
    _NEMOTRON_H,
    replace(_NEMOTRON_H, name="nemotron_h_moe"),
    Architecture(
        "plamo2",
        memory="hybrid",
        reads=_SSM,
        mtp_cached=True,
        head_sizes_stated=True,
        graph=GraphTraits(turned_input=True),
    ),
    Architecture(
        "qwen35",
        scaled_ffn=True,
        scaled_gate=True,
        memory="hybrid",
        reads=_SSM,
        recurrent_interval=4,
        positions="mrope",
        graph=GraphTraits(logit_rows="after_norm", norm_first=True),
    ),
    Architecture(
        "qwen35moe",
        scaled_shared=True,
        scaled_gate=True,
        memory="hybrid",
        reads=_SSM,
        recurrent_interval=4,
        positions="mrope",
        scaled_experts=True,
        graph=GraphTraits(logit_rows="after_norm", norm_first=True),
    ),
    Architecture(
        "qwen3next",
        scaled_shared=True,
        memory="hybrid",
        reads=_SSM,
        recurrent_interval=4,
        scaled_experts=True,
        graph=GraphTraits(logit_rows="after_norm", norm_first=True, repeated_keys=True),
    ),
    Architecture(
        "qwen4exp",
        scaled_shared=True,
        scaled_gate=True,
        memory="hybrid",
        reads=_SSM | {"indexer", "ngrams"},
        recurrent_interval=4,
        indexer=Indexer("ratio_blocks", layers="attending"),
        positions="mrope",
        one_ratio_for_all=True,
        scaled_experts=True,
        graph=GraphTraits(
            builder="qsa",
            needs_every_layer=True,
            biased=False,
            copied_columns=True,
            sigmoid_gate=True,
        ),
    ),
)

ROWS = (*_CACHE, *_LATENT, *_STATE, *_HYBRID)
_BY_NAME = {row.name: row for row in ROWS}
KNOWN = frozenset(_BY_NAME)

# An architecture that is newer than this table reads whatever its file states of keys that shape
# caches and states, and is a hybrid where it states them. Only a file that lists its window layers
# is believed, since counting a window that the engine ignores would promise memory that is not
# there.
GENERAL = Architecture(
    "",
    known=False,
    memory="stated",
    reads=frozenset(
        {
            "ssm",
            "ssm_groups",
            "wkv",
            "shortconv",
            "kda",
            "kda_bound",
            "mla",
            "indexer",
            "indexer_blocks",
            "logit_cap",
        }
    ),
    window=Window(optional=True),
)


@lru_cache(maxsize=256)
def architecture(name: str) -> Architecture:
    """The row of an architecture; for a name that is not in the table the general one."""
    return _BY_NAME.get(name) or replace(GENERAL, name=name)
