"""A model of 2 MB that the engine loads and that always says the same tokens.

    path = scripted_model(tmp_path / "m.gguf", (("<think>", "u"), ("Hm.", "n")), template)

Whatever it is asked, it says these tokens one after the other and then its end token. The letter
is a token's type in the vocabulary: n(ormal), c(ontrol) or u(ser-defined). So what a real model
sends can be played without one, down to the kinds of its tokens.

It is a llama of one layer whose embeddings are one-hot and whose output maps each token to the
next. Where a token comes again with another successor, its attention, which weighs all tokens
alike, tells whether a token between the two has been said.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.gguf_files import ARRAY, Tensor, Typed, header_bytes, write_gguf

Said = Sequence[tuple[str, str]]

N_EMBD, N_FF = 512, 32
END = "</s>"
_TYPES = {"n": 1, "c": 3, "u": 4}  # LLAMA_TOKEN_TYPE_*
_SURE = 20.0  # how much likelier a successor is than the rest: the same at any temperature
_STEP = 0.05  # by which the first successor of a token is likelier than the next,
_SEEN = 4.0  # until what lies between was seen; for prompts and answers of 10 to 80 tokens


def scripted_model(
    path: Path,
    says: Said,
    template: str | None,
    *,
    end: str = END,
    beside: Said = (),
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the file and returns its path. `beside`: more tokens of its vocabulary."""
    texts, types = ["<unk>", "<s>", END], [2, 3, 3]
    texts += [f"<0x{byte:02X}>" for byte in range(256)]
    types += [6] * 256
    for text, kind in (*says, (end, "c"), *beside):
        if _piece(text, kind) not in texts:
            texts.append(_piece(text, kind))
            types.append(_TYPES[kind])
    ids = [texts.index(_piece(text, kind)) for text, kind in (*says, (end, "c"))]
    keys = {
        "general.architecture": "llama", "general.name": "scripted", "llama.block_count": 1,
        "llama.context_length": 4096, "llama.embedding_length": N_EMBD,
        "llama.feed_forward_length": N_FF, "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 4, "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": N_EMBD // 4, "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": texts, "tokenizer.ggml.token_type": Typed(types, ARRAY),
        "tokenizer.ggml.scores": [-float(n) for n in range(len(texts))],
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": ids[-1],
        "tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_space_prefix": False,
        **({"tokenizer.chat_template": template} if template else {}), **(metadata or {}),
    }  # fmt: skip
    square, ones = (N_EMBD, N_EMBD), (N_EMBD,)
    tensors = [
        Tensor("token_embd.weight", (N_EMBD, len(texts))),
        Tensor("output_norm.weight", ones),
        Tensor("output.weight", (N_EMBD, len(texts))),
        Tensor("blk.0.attn_norm.weight", ones),
        Tensor("blk.0.ffn_norm.weight", ones),
        *(Tensor(f"blk.0.attn_{part}.weight", square) for part in ("q", "k", "v", "output")),
        Tensor("blk.0.ffn_gate.weight", (N_EMBD, N_FF)),
        Tensor("blk.0.ffn_up.weight", (N_EMBD, N_FF)),
        Tensor("blk.0.ffn_down.weight", (N_FF, N_EMBD)),
    ]
    write_gguf(path, keys, tensors)
    _fill(path, len(header_bytes(keys, tensors)), tensors, _weights(ids, len(texts)))
    return path


def _piece(text: str, kind: str) -> str:
    """As the vocabulary writes it."""
    return text.replace(" ", "\u2581") if kind == "n" else text


def _weights(ids: Sequence[int], n_vocab: int) -> dict[str, dict[int, float]]:
    """The values that are not 0, by tensor and index."""
    embedding = {token * N_EMBD + token: 1.0 for token in range(n_vocab)}
    output, value, out = dict[int, float](), dict[int, float](), dict[int, float]()
    for token in range(n_vocab):  # whatever a prompt ends with
        if token not in ids[:-1]:
            output[ids[0] * N_EMBD + token] = _SURE
    n_seen = 0
    for here in dict.fromkeys(ids[:-1]):
        places = [n for n, token in enumerate(ids[:-1]) if token == here]
        successors = list(dict.fromkeys(ids[n + 1] for n in places))
        for k, then in enumerate(successors):
            output[then * N_EMBD + here] = _SURE * (1 - k * _STEP)
            if k:
                last = next(n for n in places if ids[n + 1] == then)
                first = max(n for n in places if n < last)
                between = next(t for t in ids[first:last] if ids.count(t) == 1)
                seen = n_vocab + n_seen
                assert seen < N_EMBD
                value[n_seen * N_EMBD + between] = N_EMBD**-0.5
                out[seen * N_EMBD + n_seen] = 1.0
                output[then * N_EMBD + seen] = _SURE * _SEEN * k
                n_seen += 1
    ones = dict.fromkeys(range(N_EMBD), 1.0)
    return {
        "token_embd.weight": embedding, "output.weight": output, "output_norm.weight": ones,
        "blk.0.attn_norm.weight": ones, "blk.0.ffn_norm.weight": ones,
        "blk.0.attn_v.weight": value, "blk.0.attn_output.weight": out,
    }  # fmt: skip


def _fill(
    path: Path, start: int, tensors: Sequence[Tensor], weights: Mapping[str, Mapping[int, float]]
) -> None:
    with path.open("r+b") as file:
        for tensor in tensors:
            for index, weight in weights.get(tensor.name, {}).items():
                file.seek(start + 4 * index)
                file.write(struct.pack("<f", weight))
            start += tensor.n_bytes
