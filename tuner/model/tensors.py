"""Sorts a file's tensors by where llama.cpp puts them.

The classes are those of `LLM_TENSOR_INFOS` (src/llama-arch.cpp): input tensors always stay on
the host, output tensors count as one more layer after the last, all others belong to a layer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tuner.gguf.header import Header, TensorInfo
from tuner.model.hparams import HParams

_INPUT = frozenset({"token_embd", "position_embd", "token_types", "per_layer_token_embd"})
# named without a layer, yet placed with the first one
_FIRST_LAYER = frozenset(
    {"token_embd_norm", "per_layer_model_proj", "per_layer_proj_norm", "hrm.z_l_init"}
)
_ROPE = frozenset({"rope_freqs", "rope_factors_long", "rope_factors_short"})
_LAYER = re.compile(r"blk\.(\d+)\.")
# what `--n-cpu-moe` keeps on the host, behind "blk.N" (LLM_FFN_EXPS_REGEX in common/common.h)
EXPERT_TENSORS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
_EXPERTS = re.compile(rf"blk\.\d+{EXPERT_TENSORS}")


@dataclass(frozen=True, slots=True)
class LayerTensors:
    """The tensors of one layer; `experts` are those that n_cpu_moe may keep on the host."""

    others: tuple[TensorInfo, ...] = ()
    experts: tuple[TensorInfo, ...] = ()


@dataclass(frozen=True, slots=True)
class TensorGroups:
    """A model's tensors as llama.cpp places them."""

    input: tuple[TensorInfo, ...]
    output: tuple[TensorInfo, ...]
    layers: tuple[LayerTensors, ...]  # one per slot; empty where the engine skips a layer
    rope: tuple[TensorInfo, ...]  # one copy in each buffer that holds a layer of rope_layers
    rope_layers: tuple[int, ...]
    tied: TensorInfo | None  # token embedding that serves as output too: a second copy there
    output_first: bool  # the output is created before the embedding: never shared with it


@dataclass(slots=True)
class _Layer:
    others: list[TensorInfo] = field(default_factory=list)
    experts: list[TensorInfo] = field(default_factory=list)


def group_tensors(header: Header, hparams: HParams) -> TensorGroups:
    """Groups in one pass; blocks that only predict ahead (MTP) are not loaded, hence left out."""
    row = hparams.row
    n_slots = hparams.n_layer_all
    n_used = n_slots if row.switched else hparams.n_layer
    layers = [_Layer() for _ in range(n_slots)]
    inputs: list[TensorInfo] = []
    outputs: list[TensorInfo] = []
    rope: list[TensorInfo] = []
    embedding: TensorInfo | None = None
    has_output = False
    for tensor in header.tensors:
        match = _LAYER.match(tensor.name)
        if match:
            il = int(match[1])
            if il < n_used:
                layer = layers[il]
                experts = _EXPERTS.match(tensor.name) is not None
                (layer.experts if experts else layer.others).append(tensor)
            continue
        stem = tensor.name.removesuffix(".weight").removesuffix(".bias")
        if stem == "output":
            has_output = True
        if tensor.name == "token_embd.weight":
            embedding = tensor
        if stem in _INPUT:
            inputs.append(tensor)
        elif stem in _ROPE:
            rope.append(tensor)
        elif stem == "token_embd_norm" and row.embedding_norm_last:
            outputs.append(tensor)
        elif stem in _FIRST_LAYER:
            layers[0].others.append(tensor)
        elif not stem.startswith("masked_embd"):
            outputs.append(tensor)
    windowed = hparams.swa if row.rope_factors_outside_windows else (False,) * n_used
    return TensorGroups(
        input=tuple(inputs),
        output=tuple(outputs),
        layers=tuple(LayerTensors(tuple(x.others), tuple(x.experts)) for x in layers),
        rope=tuple(rope),
        rope_layers=tuple(il for il in range(n_used) if not windowed[il]),
        tied=None if has_output or row.tied_in_place else embedding,
        output_first=row.output_first,
    )
