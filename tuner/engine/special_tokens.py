"""The special tokens that a file states, which is not what llama.cpp takes it to state.

Where a file names no token, llama.cpp has built-in numbers (llama-vocab.cpp, llama_vocab::impl::
load). Those of SentencePiece (1, 2, 0) and of PLaMo are the format's own (bos_id, eos_id and unk_id
of sentencepiece_model.proto) and stand for what a file leaves unsaid, provided that the vocabulary
has special tokens there. That of every BPE vocabulary, 11 for both BOS and EOS, means nothing:
it is a comma in many.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

# Names as templates know them, by the key of the file (gguf-py/gguf/constants.py).
KEYS: Mapping[str, str] = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "eot_token": "tokenizer.ggml.eot_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "sep_token": "tokenizer.ggml.seperator_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
    "cls_token": "tokenizer.ggml.cls_token_id",
    "mask_token": "tokenizer.ggml.mask_token_id",
}

# What ends an answer by its text (llama-vocab.cpp, special_eog_ids). Asked only of the token that
# llama.cpp takes for an EOS by its number.
_ENDS = frozenset(
    {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
        "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
        "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
        "<｜end▁of▁sentence｜>", "[e~[",
    }
)  # fmt: skip


class Vocabulary(Protocol):
    """What is asked of the engine's vocabulary."""

    @property
    def n_vocab(self) -> int: ...
    @property
    def defaults(self) -> Mapping[str, int]: ...  # of its format, by the names of KEYS

    def metadata(self, key: str) -> str | None: ...
    def is_special(self, token: int) -> bool: ...


def stated(vocabulary: Vocabulary) -> dict[str, int]:
    """The special tokens of a file by name; a number beyond the vocabulary states nothing."""
    found: dict[str, int] = {}
    for name, key in KEYS.items():
        value = vocabulary.metadata(key)
        default = vocabulary.defaults.get(name, -1)
        if value is not None and value.isdecimal() and int(value) < vocabulary.n_vocab:
            found[name] = int(value)
        elif 0 <= default < vocabulary.n_vocab and vocabulary.is_special(default):
            found[name] = default
    return found


def ends_by_text(text: str) -> bool:
    """Whether llama.cpp ends an answer at a token so written, whatever its number."""
    return text in _ENDS
