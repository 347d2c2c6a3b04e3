"""How the graphs of architectures differ, as far as memory is concerned.

Most of a layer can be read from its tensors. What cannot is here: one line per architecture that
is not like llama, from src/models/*.cpp. What the metadata decides is in `HParams`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tuner.model.hparams import HParams

Part = Literal["attention", "ffn", "input"]


@dataclass(frozen=True, slots=True)
class Traits:
    """`rows` says where the rows that become logits are picked: after attention in the last
    layer, before or after the last norm, or nowhere. `parallel` is set where attention and
    feed-forward read the same input, and is the order in which the three are summed up, which
    decides whose memory the sum takes over.
    """

    rows: Literal["layer", "sum", "norm", "all"] = "layer"
    parallel: tuple[Part, Part, Part] | None = None
    layer_norm: bool | None = None  # None: norms with a bias are LayerNorms, others are not
    rms_if_stated: bool = False  # but not so where the file states an epsilon for the other kind
    bare_norms: bool = False  # norms have no weights
    # layers that rotate queries and keys by position; "most": all but every fourth
    rope: Literal["all", "most", "window", "none", "stated"] = "all"
    rope_in_lead: bool = False  # so do the leading dense layers
    scaled_q: bool = False  # queries that are not rotated are scaled by position instead
    norm_v: bool = False  # values are normed, without weights
    scaled_input: bool = False  # by the first layer's device, not as they are looked up
    skip: bool = False  # the embeddings are added again behind every layer
    residual_first: tuple[Part, ...] = ()  # what is added to the residual, not it to that
    norm_first: bool = False  # the first norm runs before the mixer asks for its state
    situ: bool = False  # gated units are made of several operations
    softcap: bool = False  # attention scores go through tanh
    host_output: bool = False  # logits are made with the embeddings where they are
    # how the weights of the chosen experts are made to sum up to 1, if at all
    expert_weights: Literal["sum", "softmax", "plain", "stated"] = "sum"
    experts: bool = True  # an architecture without may have tensors of experts, but never runs them
    dense_beside_experts: bool = False


# architectures whose graphs read a factor for each expert, should a file have such tensors
SCALED_EXPERTS = frozenset(
    {"cohere2moe", "deepseek32", "dots3note", "gemma4", "glm-dsa", "hy_v3", "llama", "mellum",
     "mistral3", "nemotron_h", "nemotron_h_moe", "qwen35moe", "qwen3moe", "qwen3next",
     "qwen4exp"}
)  # fmt: skip
_LLAMA = Traits()
_BOTH: tuple[Part, ...] = ("attention", "ffn")
_FFN_INPUT: tuple[Part, Part, Part] = ("ffn", "input", "attention")
_FFN_ATTENTION: tuple[Part, Part, Part] = ("ffn", "attention", "input")
_STATED = Traits(expert_weights="stated")
_STATED_LATE = Traits(expert_weights="stated", rows="norm")

_TRAITS: dict[str, Traits] = {
    "afmoe": Traits(expert_weights="stated", rope="most"),
    "apertus": Traits(layer_norm=False),
    "bailingmoe": _STATED,
    "bailingmoe2": _STATED,
    "bailingmoe3": _STATED_LATE,
    "bitnet": Traits(host_output=True),
    "bloom": Traits(rope="none"),
    "cogvlm": Traits(rows="all"),
    "cohere2": Traits(parallel=_FFN_INPUT, layer_norm=True, rope="window"),
    "cohere2moe": Traits(
        rows="norm",
        parallel=_FFN_INPUT,
        layer_norm=True,
        rms_if_stated=True,
        rope="window",
        rope_in_lead=True,
        expert_weights="stated",
    ),
    "command-r": Traits(parallel=_FFN_INPUT, layer_norm=True),
    "dbrx": Traits(layer_norm=True),
    "deepseek": Traits(expert_weights="plain"),
    "deepseek2": _STATED,
    "deepseek2-ocr": _STATED,
    "deepseek32": _STATED,
    "deepseek4": _STATED,
    "dots1": _STATED,
    "dots3note": _STATED,
    "exaone-moe": _STATED,
    "exaone4": Traits(rope="window"),
    "falcon": Traits(parallel=_FFN_ATTENTION),
    "gemma": Traits(scaled_input=True),
    "gemma2": Traits(scaled_input=True, softcap=True),
    "gemma3": Traits(scaled_input=True),
    "gemma3n": Traits(scaled_input=True, rows="all", norm_v=True),
    "gemma4": Traits(scaled_input=True, norm_v=True, rows="norm", dense_beside_experts=True),
    "glm-dsa": _STATED,
    "glm4moe": _STATED,
    "glm5-next": _STATED,
    "gpt-oss": Traits(rows="sum", expert_weights="softmax"),
    "gpt2": Traits(rope="none"),
    "gptneox": Traits(layer_norm=True),
    "granite": Traits(rope="stated"),
    "granitehybrid": Traits(rope="stated"),
    "graniteswitch": Traits(rope="stated"),
    "grok": Traits(softcap=True, dense_beside_experts=True),
    "hrm_text": Traits(rows="sum", bare_norms=True),
    "hy_v3": _STATED_LATE,
    "hy_v4": _STATED,
    "jais": Traits(rope="none"),
    "jamba": Traits(rope="none", expert_weights="plain", residual_first=_BOTH),
    "kimi-k3": Traits(rope="none", expert_weights="stated", situ=True),
    "kimi-linear": Traits(rope="none", norm_first=True),
    "laguna": _STATED,
    "lfm2": Traits(residual_first=_BOTH),
    "lfm2moe": Traits(residual_first=_BOTH),
    "llama4": Traits(expert_weights="plain", rope="most", scaled_q=True),
    "maple": Traits(rope="window"),
    "minimax-m3": _STATED,
    "mistral4": _STATED,
    "mpt": Traits(rope="none", layer_norm=True),
    "muse-glimmer": Traits(rope="window"),
    "nemotron_h": Traits(rope="none", rows="norm", expert_weights="stated"),
    "nemotron_h_moe": Traits(rope="none", rows="norm", expert_weights="stated"),
    "olmo": Traits(layer_norm=True, bare_norms=True),
    "olmoe": Traits(expert_weights="plain"),
    "phi2": Traits(parallel=("attention", "ffn", "input")),
    "openelm": Traits(residual_first=("attention",)),
    "phi3": Traits(layer_norm=False, residual_first=("ffn",)),
    "phimoe": Traits(layer_norm=False, residual_first=("ffn",)),
    "plamo": Traits(parallel=_FFN_ATTENTION),
    "qwen2moe": Traits(expert_weights="plain"),
    "qwen35": Traits(rows="norm", norm_first=True),
    "qwen35moe": Traits(rows="norm", norm_first=True),
    "qwen3next": Traits(rows="norm", norm_first=True),
    "refact": Traits(rope="none", experts=False),
    "smallthinker": Traits(rope="window"),
    "smollm3": Traits(rope="most"),
    "starcoder": Traits(rope="none"),
    "step35": Traits(rows="sum", expert_weights="stated"),
    "talkie": Traits(bare_norms=True, skip=True),
}


def rotates(hp: HParams, il: int) -> bool:
    """Whether a layer rotates queries and keys by position."""
    its = traits(hp.architecture)
    if hp.architecture == "baichuan":
        return hp.n_layer == 32  # the 13B knows positions by a bias
    match its.rope:
        case "window" if hp.n_swa > 0:
            return hp.swa[il] or (its.rope_in_lead and il < hp.n_layer_dense_lead)
        case "most":
            step = hp.n_layer if hp.architecture == "llama4" and not hp.n_swa else 4
            return (il + 1) % step != 0
        case "stated":
            return hp.rope_finetuned
    return its.rope != "none"


def traits(architecture: str) -> Traits:
    """What is known of an architecture; one that is not listed is taken to be like llama."""
    return _TRAITS.get(architecture, _LLAMA)
