"""Which layers see a window only, and which keep a recurrent state instead of a cache.

One rule per architecture, from `load_arch_hparams` in src/models/*.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

from tuner.gguf.keys import Keys

RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv7", "rwkv6qwen2", "arwkv7"})
HYBRID = frozenset(
    {
        "jamba", "falcon-h1", "plamo2", "granitehybrid", "lfm2", "lfm2moe", "nemotron_h",
        "nemotron_h_moe", "qwen3next", "kimi-linear", "bailingmoe3", "kimi-k3", "glm5-next",
        "qwen35", "qwen35moe", "qwen4exp", "minimax-01",
    }
)  # fmt: skip
# architectures whose recurrent layers are every one but each n-th
_INTERVAL = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "qwen4exp": 4, "minimax-01": 8}


@dataclass(frozen=True, slots=True)
class _Window:
    """How an architecture uses its sliding window.

    `period`: every `period`-th layer sees everything, the last of each period or, with
    `dense_first`, the first; None: the file must list the layers. `fixed`: the window whatever
    the file says; `default`: where the file says nothing; `optional`: a file without a window
    has none.
    """

    period: int | None
    dense_first: bool = False
    fixed: int = 0
    default: int = 0
    optional: bool = False


_WINDOWS: dict[str, _Window] = {
    "gemma2": _Window(2, default=4096),
    "gemma3": _Window(6, optional=True),
    "gemma3n": _Window(5),
    "gemma4": _Window(None),
    "gpt-oss": _Window(2),
    "cohere2": _Window(4),
    "cohere2moe": _Window(4, dense_first=True),
    "exaone-moe": _Window(4, default=128),
    "muse-glimmer": _Window(4),
    "afmoe": _Window(4, optional=True),
    "olmo2": _Window(4, optional=True),
    "mellum": _Window(4, optional=True),
    "plamo3": _Window(8, optional=True),
    "laguna": _Window(4, dense_first=True, optional=True),
    "smallthinker": _Window(4, dense_first=True, fixed=4096, optional=True),
    "llama4": _Window(4, fixed=8192),
    "maple": _Window(None),
    "mimo2": _Window(None),
    "step35": _Window(None),
    "spark2_5": _Window(None),
    "granite_swa": _Window(None),
    "dots3note": _Window(None),
    "deepseek4": _Window(0),
}


def window(keys: Keys, architecture: str, n_layer: int, n_all: int) -> tuple[int, tuple[bool, ...]]:
    """The window in tokens (0: none) and the layers that see no more than it."""
    none = 0, (False,) * n_all
    stated = keys.value("attention.sliding_window")
    size = keys.integer("attention.sliding_window")
    if architecture == "lfm2":  # every attention layer, once there is a window at all
        kv = keys.per_layer("attention.head_count_kv", n_all, (0,) * n_all)
        swa = tuple(il < n_layer and kv[il] != 0 for il in range(n_all))
        return (size, swa) if size > 0 else none
    if architecture == "exaone4":
        if n_layer != 64:  # the smaller ones attend to everything
            return none
        rule = _Window(4, default=4096)
    elif architecture in _WINDOWS:
        rule = _WINDOWS[architecture]
    elif architecture in KNOWN:
        return none  # phi3, starcoder2 and others state a window that llama.cpp does not use
    else:
        # a new architecture: only a file that lists its window layers is believed, since
        # counting a window that the engine ignores would promise memory that is not there
        rule = _Window(None, optional=True)
    if rule.optional and size <= 0:
        return none
    if architecture == "llama4" and stated is not None and size == 0:
        return none
    size = rule.fixed or size or rule.default
    if architecture == "deepseek4":  # every layer, whatever pattern the file states
        return size, (True,) * n_all

    listed = keys.array("attention.sliding_window_pattern")
    if listed is not None:
        if len(listed) < n_layer:
            raise keys.wrong(
                "attention.sliding_window_pattern",
                f"lists {len(listed)} layers, the model has {n_layer}",
            )
        swa = tuple(bool(v) for v in listed[:n_all])
        return size, swa + (False,) * (n_all - len(swa))
    period = rule.period
    if period is None:
        return none
    period = keys.integer("attention.sliding_window_pattern", period)
    return size, tuple(
        il < n_layer and _in_window(il, period, rule.dense_first) for il in range(n_all)
    )


def _in_window(il: int, period: int, dense_first: bool) -> bool:
    """`set_swa_pattern` (src/llama-hparams.cpp)."""
    if period == 0:
        return True
    return il % period != 0 if dense_first else il % period < period - 1


def recurrent_layers(
    keys: Keys,
    architecture: str,
    n_layer: int,
    n_all: int,
    *,
    n_head_kv: tuple[int, ...],
    n_ff: tuple[int, ...],
) -> tuple[bool, ...]:
    """`is_recr`: the layers with a recurrent state."""
    if architecture in RECURRENT or architecture == "falcon-h1":
        return (True,) * n_all
    if architecture in _INTERVAL:
        listed = keys.value("attention.recurrent_layers")
        if listed is not None:
            stated = keys.per_layer("attention.recurrent_layers", n_all, ())
            return tuple(bool(v) for v in stated)
        every = keys.integer("full_attention_interval", _INTERVAL[architecture]) or 1
        return tuple(il < n_layer and (il + 1) % every != 0 for il in range(n_all))
    if architecture in ("nemotron_h", "nemotron_h_moe"):
        return tuple(il < n_layer and n_head_kv[il] == 0 and n_ff[il] == 0 for il in range(n_all))
    new_hybrid = architecture not in KNOWN and keys.value("ssm.state_size") is not None
    if architecture in HYBRID or new_hybrid:
        return tuple(il < n_layer and n_head_kv[il] == 0 for il in range(n_all))
    return (False,) * n_all


# every chat architecture of llama.cpp's LLM_ARCH_NAMES (src/llama-arch.cpp)
_NAMES = """
    llama llama4 deci falcon grok gpt2 gptneox mpt baichuan starcoder refact bloom stablelm qwen
    qwen2 qwen2moe qwen2vl qwen3 qwen3moe qwen3next qwen3vl qwen3vlmoe qwen35 qwen35moe qwen4exp
    phi2 phi3 phimoe plamo plamo2 plamo3 codeshell orion internlm2 minicpm minicpm3 gemma gemma2
    gemma3 gemma3n gemma4 starcoder2 mamba mamba2 maple jamba falcon-h1 xverse command-r cohere2
    cohere2moe dbrx olmo olmo2 olmoe muse-glimmer openelm arctic deepseek deepseek2 deepseek2-ocr
    deepseek32 deepseek4 chatglm glm4 glm4moe glm-dsa bitnet jais jais2 nemotron nemotron_h
    nemotron_h_moe exaone exaone4 exaone-moe rwkv6 rwkv6qwen2 rwkv7 arwkv7 granite granitemoe
    granitehybrid graniteswitch granite_swa chameleon plm bailingmoe bailingmoe2 bailingmoe3 dots1
    dots3note arcee afmoe laguna ernie4_5 ernie4_5-moe hunyuan-moe hunyuan-dense hunyuan_vl hy_v3
    hy_v4 smollm3 gpt-oss lfm2 lfm2moe smallthinker seed_oss grovemoe apertus minimax-01 hrm_text
    minimax-m2 minimax-m3 cogvlm pangu-embedded mistral3 mistral4 paddleocr mimo2 step35 spark2_5
    maincoder kimi-linear kimi-k3 glm5-next talkie mellum nanbeige
"""
KNOWN = frozenset(_NAMES.split())
