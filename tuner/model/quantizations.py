"""The usual quantizations of llama.cpp, and what a model would be in another one.

A quantization is a mix: most matrices have one type, some, of which a model's answers depend more
than of others, a better one. Which, stands in `llama_tensor_get_type` (src/llama-quant.cpp), and
here as one row per mix; the engine's own words are what the tests hold it against. Left out are
falcon's and glm5-next's further rules, which concern little. Files that others made by rules of
their own ("UD-Q4_K_XL") are somewhat larger or smaller.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import prod

from tuner.gguf.header import TensorInfo
from tuner.gguf.types import GGML_NUMBERS, GGML_TYPES
from tuner.model.model import Model
from tuner.model.tensors import LayerTensors

_MIXTRAL = 8  # experts: rules of their own for models of so many
_SHARED = 4  # heads of Q for each of K from which on V is small enough to be stored better


@dataclass(frozen=True, slots=True)
class _Place:
    """A matrix among those of its kind."""

    i: int  # how many of its kind come before it, or its layer in a model with experts
    n: int  # how many there are
    group: int  # heads of Q for each of K
    n_expert: int


def _more_bits(at: _Place) -> bool:
    """`use_more_bits`: the first and last eighth, and every third between them."""
    first = at.n // 8
    return at.i < first or at.i >= 7 * at.n // 8 or (at.i - first + 1) % 3 == 0


def _always(_: _Place) -> bool:
    return True


def _first_two(at: _Place) -> bool:
    return at.i in (0, 1)


def _first_eighth(at: _Place) -> bool:
    return at.i < at.n // 8


def _first_sixteenth(at: _Place) -> bool:
    return at.i < at.n // 16


def _shared(at: _Place) -> bool:
    return at.group >= _SHARED


def _shared_or_experts(at: _Place) -> bool:
    return at.group >= _SHARED or at.n_expert >= _SHARED


def _eighth_or_mixtral(at: _Place) -> bool:
    return _first_eighth(at) or (at.n_expert == _MIXTRAL and _more_bits(at))


# The first condition that holds decides; where none does, it is the mix's usual type.
_Rules = tuple[tuple[Callable[[_Place], bool], str], ...]


@dataclass(frozen=True, slots=True)
class Mix:
    """One quantization, by the name that `llama-quantize` and files have. Types go by their names
    in ggml."""

    name: str
    usual: str  # the type of what no rule names
    output: str = "q6_K"  # also of an embedding that serves as output
    embedding: str = ""  # "": the usual one
    attn_q: str = ""
    attn_k: str = ""
    attn_v: _Rules = ()
    attn_output: str = ""
    ffn_down: _Rules = ()
    mixtral_output: str = ""  # of attn_output in a model of eight experts
    low: bool = False  # two bits: its own rules for eight experts
    least_params: float = 0.0  # smaller models lose too much by it to be of use

    def types(self, tensors: Iterable[TensorInfo], model: Model) -> list[int]:
        """The type of each tensor in this mix, by ggml's number; `tensors` are the model's."""
        return [*_Types(self, model, list(tensors)).all()]


# From the largest to the smallest, as they are usually made: IQ3_XXS with an importance matrix,
# IQ4_XS, which is hardly larger then, without. Perplexity of Llama-3-8B grows by 0.003 with Q8_0,
# 0.02 with Q6_K, 0.06 with Q5_K_M, 0.18 with Q4_K_M, 0.66 with Q3_K_M and 3.5 with Q2_K
# (tools/quantize/quantize.cpp): of two bits only large models make something.
MIXES = (
    Mix("Q8_0", "q8_0", output="q8_0"),
    Mix("Q6_K", "q6_K"),
    Mix(
        "Q5_K_M",
        "q5_K",
        attn_v=((_more_bits, "q6_K"),),
        ffn_down=((_more_bits, "q6_K"),),
    ),
    Mix(
        "Q4_K_M",
        "q4_K",
        attn_v=((_more_bits, "q6_K"),),
        ffn_down=((_more_bits, "q6_K"),),
        mixtral_output="q5_K",
    ),
    Mix(
        "IQ4_XS",
        "iq4_xs",
        attn_v=((_shared, "q5_K"),),
        ffn_down=((_first_eighth, "q5_K"),),
        mixtral_output="q5_K",
    ),
    Mix(
        "Q3_K_M",
        "q3_K",
        attn_v=((_first_two, "q5_K"), (_always, "q4_K")),
        attn_output="q4_K",
        ffn_down=((_first_sixteenth, "q5_K"), (_always, "q4_K")),
        mixtral_output="q5_K",
    ),
    Mix(
        "IQ3_M",
        "iq3_s",
        attn_v=((_always, "q4_K"),),
        attn_output="q4_K",
        ffn_down=((_eighth_or_mixtral, "q4_K"),),
        mixtral_output="q5_K",
    ),
    Mix(
        "IQ3_XXS",
        "iq3_xxs",
        output="q5_K",
        embedding="iq3_s",
        attn_q="iq2_s",
        attn_k="iq2_s",
        attn_v=((_shared, "q4_K"),),
        attn_output="iq3_s",
        mixtral_output="q5_K",
    ),
    Mix(
        "IQ2_M",
        "iq2_s",
        output="q5_K",
        embedding="iq3_s",
        attn_v=((_shared_or_experts, "q4_K"), (_always, "iq3_s")),
        attn_output="iq3_s",
        ffn_down=((_first_eighth, "iq3_s"),),
        mixtral_output="q5_K",
        low=True,
        least_params=20e9,
    ),
    Mix(
        "IQ2_XS",
        "iq2_xs",
        output="q5_K",
        embedding="q2_K",
        attn_v=((_shared_or_experts, "q4_K"), (_always, "q2_K")),
        ffn_down=((_first_eighth, "q2_K"),),
        mixtral_output="q5_K",
        low=True,
        least_params=60e9,
    ),
)


def in_mix(model: Model, mix: Mix) -> Model:
    """The same model in another quantization: its tensors' types and bytes, its size and name. What
    is not loaded (blocks that predict ahead) is taken to shrink alike."""
    tensors = tensors_of(model)
    of = dict(zip(tensors, mix.types(tensors, model), strict=True))
    new = {t: replace(t, ggml_type=kind, n_bytes=_bytes(t.shape, kind)) for t, kind in of.items()}
    groups = model.tensors

    def mixed(ts: tuple[TensorInfo, ...]) -> tuple[TensorInfo, ...]:
        return tuple(new[t] for t in ts)

    before = sum(t.n_bytes for t in new) or 1
    after = sum(t.n_bytes for t in new.values())
    return replace(
        model,
        quantization=mix.name,
        size_bytes=round(model.size_bytes * after / before),
        tensors=replace(
            groups,
            input=mixed(groups.input),
            output=mixed(groups.output),
            rope=mixed(groups.rope),
            layers=tuple(LayerTensors(mixed(x.others), mixed(x.experts)) for x in groups.layers),
            tied=groups.tied and new[groups.tied],
        ),
    )


# Types that models are trained in, or for: there is nothing better to make another file from.
_NATIVE = frozenset(
    GGML_NUMBERS[name] for name in ("mxfp4", "nvfp4", "tq1_0", "tq2_0", "q1_0", "q2_0")
)


def is_native(model: Model) -> bool:
    """Whether the file has the weights as they were trained, in few bits (gpt-oss, BitNet)."""
    return any(t.ggml_type in _NATIVE for t in tensors_of(model))


def tensors_of(model: Model) -> list[TensorInfo]:
    """A model's tensors in the order in which they are quantized: layer by layer."""
    groups = model.tensors
    layers = (t for layer in groups.layers for t in (*layer.others, *layer.experts))
    tied = (groups.tied,) if groups.tied else ()
    return [*dict.fromkeys((*groups.input, *tied, *groups.output, *groups.rope, *layers))]


def _bytes(shape: tuple[int, ...], ggml_type: int) -> int:
    kind = GGML_TYPES[ggml_type]
    return prod(shape) // kind.block * kind.block_bytes


# Small matrices that a mix leaves as they are (`tensor_allows_quantization`).
_KEPT = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|ffn_gate_tid2eid\.weight|altup|laurel"
    r"|per_layer_model_proj|ssm_conv1d|shortconv\.conv\.weight|indexer\.[kq]_proj\.weight"
    r"|time_mix_(first|[wvag][012]|decay_w[12]|lerp_fused)\.weight"
    r"|attn_rel_b\.weight|position_embd|token_types"
)
_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
_LAYER = re.compile(r"blk\.(\d+)\.")
# Where a row does not divide into blocks of 256 (`tensor_type_fallback`).
_FALLBACK = {
    "iq2_xs": "iq4_nl", "iq2_s": "iq4_nl", "iq3_xxs": "iq4_nl", "iq3_s": "iq4_nl",
    "iq4_xs": "iq4_nl", "q2_K": "q4_0", "q3_K": "q4_0", "q4_K": "q5_0", "q5_K": "q5_1",
    "q6_K": "q8_0",
}  # fmt: skip


class _Types:
    """One pass over a model's tensors, which counts those of a kind."""

    def __init__(self, mix: Mix, model: Model, tensors: list[TensorInfo]) -> None:
        hp = model.hparams
        self._mix, self._tensors = mix, tensors
        self._row, self._n_expert = hp.row, model.n_expert
        self._n_layer = model.n_layer_all
        n_head, n_head_kv = (*hp.n_head, 0)[0], (*hp.n_head_kv, 0)[0]
        self._group = n_head // n_head_kv if n_head_kv else 0  # `n_gqa`
        # `llama_quant_model_from_metadata` (src/llama-quant.cpp)
        self._is_70b = model.n_layer_all == hp.row.n_layer_70b and self._group > 1
        self._n_v = sum(_is_v(t.name) for t in tensors)
        self._tied = all(t.name != "output.weight" for t in tensors)
        self._seen_v = self._seen_down = 0

    def all(self) -> Iterable[int]:
        for tensor in self._tensors:
            if len(tensor.shape) < 2 or not _quantized(tensor.name):  # noqa: PLR2004
                yield tensor.ggml_type
            else:
                yield GGML_NUMBERS[_that_fits(tensor, self._of(tensor))]

    def _of(self, tensor: TensorInfo) -> str:
        mix, name = self._mix, tensor.name
        if name == "output.weight" or (self._tied and name in _EMBEDDINGS):
            block = GGML_TYPES[GGML_NUMBERS[mix.usual]].block
            odd = self._row.output_in_q8_0 or tensor.shape[0] % block
            return "q8_0" if odd else mix.output
        if name in _EMBEDDINGS:
            return mix.embedding or mix.usual
        if _is_v(name):
            self._seen_v += 1
            return self._of_v(self._place(self._seen_v - 1, self._n_v))
        mixtral = self._n_expert == _MIXTRAL
        if "attn_k.weight" in name:
            return ("q4_K" if mix.low else "q8_0") if mixtral else mix.attn_k or mix.usual
        if "attn_q.weight" in name:
            return mix.attn_q or mix.usual
        if "attn_output.weight" in name:
            return (mix.mixtral_output if mixtral else mix.attn_output) or mix.usual
        if "ffn_down" in name:
            self._seen_down += 1
            layer = _LAYER.match(name)
            by_layer = layer and self._n_expert > 1 and not mix.low
            i = int(layer[1]) if by_layer and layer else self._seen_down - 1
            return self._ruled(mix.ffn_down, self._place(i, self._n_layer))
        return mix.usual

    def _of_v(self, at: _Place) -> str:
        found = self._ruled(self._mix.attn_v, at)
        if self._mix.low:
            return found
        if self._n_expert == _MIXTRAL:
            return "q8_0"
        return "q5_K" if self._is_70b and found in ("q3_K", "q4_K") else found

    def _place(self, i: int, n: int) -> _Place:
        return _Place(i, n, self._group, self._n_expert)

    def _ruled(self, rules: _Rules, at: _Place) -> str:
        return next((kind for holds, kind in rules if holds(at)), self._mix.usual)


def _is_v(name: str) -> bool:
    """`category_is_attn_v`: also where it is one matrix with Q and K, and latent."""
    return any(part in name for part in ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight"))


def _quantized(name: str) -> bool:
    return name.endswith("weight") and not _KEPT.search(name)


def _that_fits(tensor: TensorInfo, kind: str) -> str:
    if tensor.shape[0] % GGML_TYPES[GGML_NUMBERS[kind]].block == 0:
        return kind
    other = _FALLBACK.get(kind, kind)
    return "f16" if tensor.shape[0] % GGML_TYPES[GGML_NUMBERS[other]].block else other
