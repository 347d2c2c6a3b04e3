"""What llama.cpp's loader asks of a file, by architecture: engine_reads.json, read and evaluated.

`python -m bench.record_reads` found it in llama.cpp's sources: `llama_model_base::load_hparams`
and `load_tensors` (src/llama-model.cpp), `load_arch_hparams` and `load_arch_tensors`
(src/models/*.cpp). The parts of an architecture, every text a Python expression:

    keys        [key, form, required, when]: `get_key` and its kin (forms: `tuner.gguf.keys`); a key
                that has no architecture in front begins with a slash
    values      names for longer expressions, and for numbers that keys state
    refusals    [layers, words, when]: where the loader gives up or aborts
    tensors     [name, shape, flags, when]: `create_tensor`; "layers" has those of the layers that
                a chat runs, "all_layers" of the others too: ".ffn_norm.weight" is blk.N's

`required`, `flags` and `when` are left out where they are 0, 0 and 1. What the recorder could not
follow is `unknown`, and so is what depends on it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

from tuner.engine_version import ENGINE_VERSION
from tuner.errors import FileError
from tuner.gguf.header import Header, SkippedArray, TensorInfo
from tuner.gguf.keys import ANOTHER_FILE
from tuner.model.hparams import HParams

NOT_REQUIRED, RESHAPED = 1, 4  # of a tensor's flags (`llama_model_loader::TENSOR_*`)
_NEVER_REQUIRED = ("1", "3", "5", "7")


def incompatible(header: Header, what: str, *, newer: bool = False) -> FileError:
    """The error for a file that is whole and that llama.cpp would not load. `newer`: it may be
    that a later llama.cpp does."""
    for_what = f"was not made for llama.cpp ({ENGINE_VERSION})"
    if newer:
        for_what = f"was made for a newer llama.cpp than {ENGINE_VERSION}, or for another program"
    return FileError(
        "incompatible", header.path, f"{header.path} {for_what}: {what}; {ANOTHER_FILE}."
    )


class _Unknown:
    """What an expression is worth that depends on something unknown."""

    def _same(self, *_: object) -> _Unknown:
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __neg__ = _same
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __call__ = _same
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _same  # type: ignore[assignment]
    __hash__ = object.__hash__

    def __and__(self, other: object) -> object:
        return False if other is False else self

    def __or__(self, other: object) -> object:
        return True if other is True else self

    __rand__, __ror__ = __and__, __or__


UNKNOWN = _Unknown()


def certain(value: Any) -> bool:
    """Whether a condition holds for sure."""
    return value is not UNKNOWN and bool(value)


def possible(value: Any) -> bool:
    """Whether a condition may hold."""
    return value is UNKNOWN or bool(value)


class Text(NamedTuple):
    """An expression, and whether its value may differ from layer to layer."""

    source: str
    code: CodeType
    layered: bool


class KeyRow(NamedTuple):
    key: str
    form: str
    n: Text | None  # how many values an array must have
    required: Text
    when: Text


class TensorRow(NamedTuple):
    name: str
    shape: Text
    flags: Text
    when: Text
    required: bool  # that it may be missing is not for sure


class Rows(NamedTuple):
    """What the loader asks of one architecture."""

    keys: tuple[KeyRow, ...]
    values: dict[str, Text]
    refusals: tuple[tuple[str, str, Text], ...]
    tensors: tuple[TensorRow, ...]
    layers: tuple[TensorRow, ...]
    all_layers: tuple[TensorRow, ...]


class Names(dict[str, Any]):
    """What the names in expressions stand for, in the layer `i`."""

    def __init__(self, header: Header, architecture: str, hparams: HParams | None):
        """Without `hparams`, what they would tell is unknown."""
        super().__init__(unknown=UNKNOWN, arch=architecture, i=0, pick=_pick, at=_at, str=str)
        self._header = header
        self._values = rows_of(architecture).values
        self._constant: dict[str, Any] = {}  # by expression
        self._of_layer: dict[str, Any] = {}  # the same, of those that are of the layer `i`
        self._n: dict[str, int] = {"once": 1, "tensors": 1}

        def number(key: str, default: Any) -> Any:
            name = key[1:] if key.startswith("/") else f"{architecture}.{key}"
            value = header.metadata.get(name, default)
            return UNKNOWN if isinstance(value, SkippedArray) else value

        def kind(key: str) -> str:
            return header.value_types.get(f"{architecture}.{key}", "")

        self.update(
            key=number,
            has_key=lambda key: bool(kind(key)),
            has_array=lambda key: kind(key).startswith("arr"),
            has=lambda name: self.full_name(name) in self.tensors,
            n_vocab=_vocabulary(header, number("vocab_size", 0)),
            n_token_types=number("/tokenizer.ggml.token_type_count", 0),
            n_ctx_train=number("context_length", UNKNOWN),
        )
        if hparams is not None:
            self._n |= {"layers": hparams.n_layer, "all_layers": hparams.n_layer_all}
            used = number("expert_used_count", 0) if hparams.n_expert else 0
            self._add_hparams(hparams, used)

    def _add_hparams(self, hp: HParams, n_expert_used: Any) -> None:
        """The functions are those of `llama_hparams` (src/llama-hparams.cpp)."""

        def windowed(name: str) -> Callable[[Any], Any]:
            return lambda i: _pick(self["is_swa"](i), self[f"{name}_swa"], self[f"{name}_full"])

        def is_mla(_: Any = 0) -> Any:
            return (self["n_embd_head_k_mla_impl"] != 0) & (self["n_embd_head_v_mla_impl"] != 0)

        def out(_: Any) -> Any:
            return _pick(self["n_embd_out_impl"] > 0, self["n_embd_out_impl"], hp.n_embd)

        n_head_kv = _by_layer(hp.n_head_kv)
        head_k, head_v = windowed("n_embd_head_k"), windowed("n_embd_head_v")
        self.update(
            n_layer=hp.n_layer,
            n_layer_all=hp.n_layer_all,
            n_embd=hp.n_embd,
            n_expert=hp.n_expert,
            n_head=_by_layer(hp.n_head),
            n_head_kv=n_head_kv,
            n_ff=_by_layer(hp.n_ff),
            is_recr=_by_layer(hp.recurrent),
            is_swa=_by_layer(hp.swa),
            is_indexer_full=_by_layer(hp.indexer_full),
            n_expert_used=lambda i: _at(n_expert_used, i),
            n_ff_exp=lambda i: _at(self["n_ff_exp_arr"], i),
            n_rot=windowed("n_rot"),
            n_embd_head_k=head_k,
            n_embd_head_v=head_v,
            n_embd_k_gqa=lambda i: head_k(i) * n_head_kv(i),
            n_embd_v_gqa=lambda i: head_v(i) * n_head_kv(i),
            is_mla=is_mla,
            n_embd_head_k_mla=lambda _: _pick(is_mla(), self["n_embd_head_k_mla_impl"], head_k(0)),
            n_embd_head_v_mla=lambda _: _pick(is_mla(), self["n_embd_head_v_mla_impl"], head_v(0)),
            n_embd_out=out,
        )

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """The file's, by name."""
        return {tensor.name: tensor for tensor in self._header.tensors}

    def full_name(self, name: str) -> str:
        """Of a tensor's name in the table, that in the file."""
        return f"blk.{self['i']}{name}" if name.startswith(".") else name

    def layers(self, which: str) -> Iterator[None]:
        """Makes `i` each layer of a part in turn."""
        for i in range(self._n[which]):
            self["i"] = i
            self._of_layer.clear()
            yield

    def of(self, text: Text) -> Any:
        """What an expression is worth now."""
        worth = self._of_layer if text.layered else self._constant
        if text.source in worth:
            return worth[text.source]
        try:
            found = eval(text.code, {"__builtins__": {}}, self)
        except (ArithmeticError, TypeError):  # a number that is none, which the keys' rows tell
            found = UNKNOWN
        worth[text.source] = found
        return found

    def __missing__(self, name: str) -> Any:
        text = self._values.get(name)
        return UNKNOWN if text is None else self.of(text)


def _pick(condition: Any, yes: Any, no: Any) -> Any:
    if condition is UNKNOWN:
        return yes if yes is no else UNKNOWN
    return yes if condition else no


def _at(values: Any, i: Any) -> Any:
    """An element of what a key lists, or what it states for all layers."""
    if not isinstance(values, tuple):
        return values
    return values[i] if isinstance(i, int) and i < len(values) else UNKNOWN


def _by_layer(values: Sequence[int]) -> Callable[[Any], Any]:
    listed = tuple(values)
    return lambda i: _at(listed, i)


def _vocabulary(header: Header, vocab_size: Any) -> Any:
    """`llama_vocab::n_tokens`."""
    tokenizer = header.metadata.get("tokenizer.ggml.model")
    if isinstance(tokenizer, str) and table()["tokenizers"].get(tokenizer) == "NONE":
        return vocab_size
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return tokens.length if isinstance(tokens, SkippedArray) else UNKNOWN


# ---------------------------------------------------------------- the table


@lru_cache(maxsize=1)
def table() -> dict[str, Any]:
    """All of engine_reads.json."""
    text = Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


@lru_cache(maxsize=8)
def rows_of(architecture: str) -> Rows:
    """What is asked of an architecture; of one that the table does not have, of every one."""
    common, own = table()["common"], table()["architectures"].get(architecture, {})
    values: dict[str, str] = {**common["values"], **own.get("values", {})}
    layered, before = {"i"}, 0
    while len(layered) > before:
        before = len(layered)
        layered |= {name for name, text in values.items() if _depends(text, layered)}

    ours = {row[0] for name in ("tensors", "layers", "all_layers") for row in own.get(name, ())}

    def part(name: str, full: int) -> Iterator[list[str]]:
        # what an architecture has created itself the generic pass leaves alone
        shared = (row for row in common.get(name, ()) if row[0] not in ours)
        for row in (*own.get(name, ()), *shared):
            yield [*row, *("0", "1")[len(row) - full + 2 :]]

    def text(expression: str) -> Text:
        return Text(expression, _compiled(expression), _depends(expression, layered))

    def tensors(name: str) -> tuple[TensorRow, ...]:
        return tuple(
            TensorRow(
                one, text(f"({shape},)"), text(flags), text(when), flags not in _NEVER_REQUIRED
            )
            for one, shape, flags, when in part(name, 4)
        )

    keys = []
    for key, form, required, when in part("keys", 4):
        how, kind, *count = form.split(" ", 2) if form.startswith("each") else (form, "")
        keys.append(
            KeyRow(
                key,
                f"{how} {kind}".strip(),
                text(count[0]) if count else None,
                text(required),
                text(when),
            )
        )
    return Rows(
        tuple(keys),
        {name: text(value) for name, value in values.items()},
        tuple((layers, words, text(when)) for layers, words, when in part("refusals", 3)),
        tensors("tensors"),
        tensors("layers"),
        tensors("all_layers"),
    )


def _depends(expression: str, layered: set[str]) -> bool:
    """Whether an expression may be worth something else in another layer."""
    words = re.findall(r"[a-zA-Z_]\w*", re.sub(r"'[^']*'", "", expression))
    return not layered.isdisjoint(words) or "'." in expression


@lru_cache(maxsize=4096)
def _compiled(expression: str) -> CodeType:
    return compile(expression, "engine_reads.json", "eval")
