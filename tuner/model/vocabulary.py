"""Whether llama.cpp's loader would take a file's vocabulary (`llama_vocab::impl::load`,
src/llama-vocab.cpp), and the few general keys that it reads (src/llama-model-loader.cpp)."""

from __future__ import annotations

from tuner.errors import FileError
from tuner.gguf.header import Header, SkippedArray
from tuner.gguf.keys import mismatch
from tuner.model.engine_reads import incompatible, table
from tuner.safe_text import quoted

_ALWAYS = {
    "general.architecture": "str",
    "general.file_type": "u32",
    "split.count": "u16",
    "tokenizer.ggml.model": "str",
    "tokenizer.ggml.pre": "str",
    "tokenizer.ggml.token_type_count": "u32",
}
_WITH_TOKENS = {
    "add_space_prefix": "bool",
    "remove_extra_whitespaces": "bool",
    "add_bos_token": "bool",
    "add_eos_token": "bool",
    "add_sep_token": "bool",
    "normalizer.lowercase": "bool",
    "normalizer.strip_accents": "bool",
    **{
        f"{name}_token_id": "u32"
        for name in (
            "bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "mask", "fim_pre",
            "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep", "prefix", "suffix", "middle",
        )
    },
}  # fmt: skip
# arrays that have at least as many elements as there are tokens, and the types they may have
_BESIDE_TOKENS = {"scores": ("arr[f32]", "arr[i32]"), "token_type": ("arr[i32]",)}


def require_vocabulary(header: Header) -> None:
    """Raises FileError where the tokenizer is missing, not known or of the wrong types."""
    for name, form in _ALWAYS.items():
        _require(header, name, form)
    model = header.metadata.get("tokenizer.ggml.model")
    if model is None:
        raise _missing(header, "tokenizer.ggml.model")
    kind = table()["tokenizers"].get(model)  # it is a text, or would have been refused above
    if kind == "NONE":
        return
    if kind is None:
        raise incompatible(
            header, f"its tokenizer {quoted(str(model))} is not known to this one", newer=True
        )
    for short, form in _WITH_TOKENS.items():
        _require(header, f"tokenizer.ggml.{short}", form)
    if kind == "BPE":
        _require_merges(header, own_pre=model in table()["with_own_pre"])
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if tokens is None:
        raise _missing(header, "tokenizer.ggml.tokens")
    _require_type(header, "tokenizer.ggml.tokens", ("arr[str]",))
    for short, kinds in _BESIDE_TOKENS.items():
        name = f"tokenizer.ggml.{short}"
        _require_type(header, name, kinds)
        if name in header.metadata and _length(header, name) < _length(
            header, "tokenizer.ggml.tokens"
        ):
            raise incompatible(header, f"its metadata key {name} lists fewer than it has tokens")
    _require_type(header, "tokenizer.ggml.suppress_tokens", ("arr[i32]",))


def _require_merges(header: Header, *, own_pre: bool) -> None:
    pre = header.metadata.get("tokenizer.ggml.pre", "")
    if not own_pre and pre and pre not in table()["pre_tokenizers"]:
        raise incompatible(
            header, f"its pre-tokenizer {quoted(str(pre))} is not known to this one", newer=True
        )
    if "tokenizer.ggml.merges" in header.metadata:
        _require_type(header, "tokenizer.ggml.merges", ("arr[str]",))
    elif own_pre or pre != "kimi-k2":
        raise _missing(header, "tokenizer.ggml.merges")


def _require(header: Header, name: str, form: str) -> None:
    wrong = mismatch(header, name, form)
    if wrong:
        raise incompatible(header, f"its metadata key {name} {wrong}")


def _require_type(header: Header, name: str, kinds: tuple[str, ...]) -> None:
    found = header.value_types.get(name)
    if found is not None and found not in kinds:
        raise incompatible(header, f"its metadata key {name} is {found} and must be {kinds[0]}")


def _missing(header: Header, name: str) -> FileError:
    return incompatible(header, f"its metadata lack the key {name}")


def _length(header: Header, name: str) -> int:
    value = header.metadata[name]
    if isinstance(value, SkippedArray):
        return value.length
    return len(value) if isinstance(value, tuple) else 0
