"""Header -> Model: what llama.cpp will build from a file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from tuner.engine_version import installed_engine_version, is_other_engine
from tuner.errors import FileError
from tuner.gguf import package_names
from tuner.gguf.header import Header, SkippedArray, TensorInfo, read_header
from tuner.gguf.types import FILE_TYPES, GGML_TYPES, GUESSED
from tuner.model.architectures import architecture as architecture_row
from tuner.model.chat_models import require_chat_model, unknown_architecture
from tuner.model.chat_templates import TemplateChoice, chosen, named_templates
from tuner.model.hparams import HParams
from tuner.model.load_hparams import load_hparams
from tuner.model.loadable import require_keys, require_tensors
from tuner.model.sampling_defaults import sampling_defaults
from tuner.model.tensors import TensorGroups, group_tensors
from tuner.model.vocabulary import require_vocabulary

MAX_NAME = 200  # characters of general.name that are kept


@dataclass(frozen=True, slots=True)
class Model:
    """A chat model as its file describes it. Sizes in bytes."""

    path: Path
    architecture: str
    name: str
    quantization: str  # "Q4_K_M"
    n_params: int
    n_layer: int  # real layers
    n_layer_all: int  # with multi-token-prediction blocks
    n_ctx_train: int
    n_embd: int
    n_vocab: int
    n_expert: int
    n_expert_used: int
    moe_layers: tuple[int, ...]  # layers that have expert tensors
    size_bytes: int  # of all parts
    fingerprint: str  # 32 hex digits: same content, same fingerprint, wherever the file lies
    chat_templates: Mapping[str, str] = field(hash=False)  # by name (`chat_templates.py`)
    known: bool  # the architecture has a row of its own; else planned by the general one
    hparams: HParams
    tensors: TensorGroups
    # What the file recommends, by the names of `Sampling`.
    sampling: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def n_items(self) -> int:
        """What n_gpu_layers can count: every layer, and the output."""
        return self.n_layer_all + 1

    def whole(self, n_gpu_layers: int, n_cpu_moe: int) -> bool:
        """Whether so many layers on GPUs, and the experts of so many in RAM, leave no layer
        of it to the CPU, nor a part of one; layers without experts leave none in RAM."""
        experts_too = not self.moe_layers or n_cpu_moe <= self.moe_layers[0]
        return n_gpu_layers >= self.n_items and experts_too

    @property
    def chat_template(self) -> str | None:
        """The file's template for chat; None where it has none."""
        return chosen(self.chat_templates, TemplateChoice())


def read_model(path: Path) -> Model:
    """The model of a file. Raises FileError as `read_header` and `loadable_model` do."""
    return loadable_model(read_header(path))


def loadable_model(header: Header) -> Model:
    """The model of a file that the engine will load, as far as its header tells.

    Raises FileError: beside what `describe` raises, "unknown_architecture" and "incompatible" for
    files that are whole and not made for this llama.cpp. With another engine installed its own dry
    run has the word.
    """
    try:
        return _loadable(header)
    except FileError:
        if is_other_engine(installed_engine_version()):
            return describe(header)
        raise


def _loadable(header: Header) -> Model:
    architecture = require_chat_model(header)
    if not architecture_row(architecture).known:
        if f"{architecture}.block_count" not in header.metadata:
            return describe(header)  # which says that it is another kind of model
        raise unknown_architecture(header, architecture)
    require_vocabulary(header)
    require_keys(header, architecture)
    model = describe(header)
    require_keys(header, architecture, model.hparams)
    require_tensors(header, model.hparams)
    return model


def describe(header: Header) -> Model:
    """The model of a header.

    Raises FileError: "not_a_chat_model" for every other kind of GGUF, "malformed" for numbers
    on which the engine would abort. An architecture unknown here is planned by the general
    rule, `known` says so.
    """
    architecture = require_chat_model(header)
    hparams = load_hparams(header, architecture)
    groups = group_tensors(header, hparams)
    name = header.metadata.get("general.name")
    return Model(
        path=header.path,
        architecture=architecture,
        name=name[:MAX_NAME] if isinstance(name, str) and name else header.path.stem,
        quantization=_quantization(header),
        n_params=sum(prod(t.shape) for t in header.tensors),
        n_layer=hparams.n_layer,
        n_layer_all=hparams.n_layer_all,
        n_ctx_train=hparams.n_ctx_train,
        n_embd=hparams.n_embd,
        n_vocab=hparams.n_vocab,
        n_expert=hparams.n_expert,
        n_expert_used=hparams.n_expert_used,
        moe_layers=tuple(il for il, layer in enumerate(groups.layers) if layer.experts),
        size_bytes=sum(header.file_sizes),
        fingerprint=fingerprint(header),
        chat_templates=named_templates(header.metadata),
        known=hparams.row.known,
        hparams=hparams,
        tensors=groups,
        sampling=sampling_defaults(header.metadata),
    )


def _quantization(header: Header) -> str:
    file_type = header.metadata.get("general.file_type")
    if isinstance(file_type, int):
        number = file_type & ~GUESSED
        name = FILE_TYPES.get(number) or package_names.file_type(number)
        if name:
            return name
    return _commonest_type(header.tensors)


def _commonest_type(tensors: tuple[TensorInfo, ...]) -> str:
    """What most tensors are, as llama.cpp guesses it (src/llama-model-loader.cpp)."""
    kinds = Counter(t.ggml_type for t in tensors if len(t.shape) > 1)
    if not kinds:
        return "F32"
    commonest = kinds.most_common(1)[0][0]
    known = GGML_TYPES.get(commonest)
    return known.name.upper() if known else f"type {commonest}"


def fingerprint(header: Header) -> str:
    """A hash of what the file says about itself: metadata, tensor table, sizes. Weights are not
    read: two fine-tunes differ in name or metadata, and hashing them would cost gigabytes."""
    digest = hashlib.blake2b(digest_size=16)
    for key in sorted(header.metadata):
        value = header.metadata[key]
        if isinstance(value, SkippedArray):
            value = (value.element_type, value.length)
        digest.update(f"{key}={value!r}\n".encode(errors="surrogatepass"))
    for t in header.tensors:
        digest.update(f"{t.name}|{t.shape}|{t.ggml_type}|{t.offset}|{t.part}\n".encode())
    digest.update(repr(header.file_sizes).encode())
    return digest.hexdigest()
