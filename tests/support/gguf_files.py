"""Writes GGUF files for tests: any metadata and tensor table, no weights on disk.

    path = write_gguf(
        tmp_path / "m.gguf",
        {"general.architecture": "llama", "llama.block_count": 2, "llama.rope.freq_base": 1e4},
        [Tensor("token_embd.weight", (64, 100), Q4_0), Tensor("output_norm.weight", (64,))],
    )

The file gets its full size but stays sparse, so a 70B model costs a few kilobytes and the engine
opens it with `no_alloc`. Python values become the GGUF types that converters use: bool -> BOOL,
int -> UINT32 (INT32 if negative, UINT64 / INT64 if too big), float -> FLOAT32, str -> STRING, a
list or tuple -> ARRAY of its first element's type (an empty one: of INT32). `Typed` names the
type, for everything else. `tiny_llama` is a complete small model; `header_bytes` gives the bytes
for tests that damage them; `write_split` writes the parts of a split model.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from tuner.gguf.header import read_header

# enum gguf_type
UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = (
    range(13)
)
_FORMATS = {
    UINT8: "<B", INT8: "<b", UINT16: "<H", INT16: "<h", UINT32: "<I", INT32: "<i",
    FLOAT32: "<f", BOOL: "<?", UINT64: "<Q", INT64: "<q", FLOAT64: "<d",
}  # fmt: skip

# enum ggml_type -> (elements per block, bytes per block), the ones that tests use
F32, F16, Q4_0, Q4_1, Q8_0, Q4_K, Q6_K, BF16 = 0, 1, 2, 3, 8, 12, 14, 30
_BLOCKS = {
    F32: (1, 4), F16: (1, 2), Q4_0: (32, 18), Q4_1: (32, 20), Q8_0: (32, 34), Q4_K: (256, 144),
    Q6_K: (256, 210), BF16: (1, 2),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Typed:
    """A metadata value with its GGUF type; for an array `type` is ARRAY and `element` its type."""

    value: Any
    type: int
    element: int = INT32


@dataclass(frozen=True, slots=True)
class Tensor:
    """A row of the tensor table. `shape` in ggml's order. `offset` None: where it belongs."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int = F32
    offset: int | None = None

    @property
    def n_bytes(self) -> int:
        block, block_bytes = _BLOCKS[self.ggml_type]
        return prod(self.shape) // block * block_bytes


def header_bytes(
    metadata: Mapping[str, Any],
    tensors: Sequence[Tensor] = (),
    *,
    version: int = 3,
    magic: bytes = b"GGUF",
) -> bytes:
    """The header up to the start of the tensor data, padding included."""
    alignment = _alignment(metadata)
    out = bytearray(magic + struct.pack("<IQQ", version, len(tensors), len(metadata)))
    for key, value in metadata.items():
        out += _string(key) + _value(value)
    position = 0
    for tensor in tensors:
        offset = position if tensor.offset is None else tensor.offset
        out += _string(tensor.name) + struct.pack("<I", len(tensor.shape))
        out += struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape)
        out += struct.pack("<iQ", tensor.ggml_type, offset)
        if tensor.ggml_type in _BLOCKS:
            position += _pad(tensor.n_bytes, alignment)
    if tensors:
        out += bytes(_pad(len(out), alignment) - len(out))
    return bytes(out)


def write_gguf(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Sequence[Tensor] = (),
    *,
    version: int = 3,
    full_size: bool = True,
) -> Path:
    """Writes a sparse GGUF file of the size that its tensors need, and returns `path`.

    With `full_size` False it ends where the tensor data would start.
    """
    head = header_bytes(metadata, tensors, version=version)
    size = len(head)
    if full_size:
        size += sum(_pad(t.n_bytes, _alignment(metadata)) for t in tensors)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
    return path


def write_split(
    folder: Path,
    stem: str,
    metadata: Mapping[str, Any],
    parts: Sequence[Sequence[Tensor]],
) -> list[Path]:
    """Writes `stem-00001-of-0000N.gguf`, ... as llama-gguf-split does: every part has the split
    keys, only the first has the rest of the metadata."""
    total = sum(len(part) for part in parts)
    paths = []
    for number, part in enumerate(parts):
        keys = {
            "split.no": Typed(number, UINT16),
            "split.count": Typed(len(parts), UINT16),
            "split.tensors.count": Typed(total, INT32),
        }
        path = folder / f"{stem}-{number + 1:05d}-of-{len(parts):05d}.gguf"
        paths.append(write_gguf(path, {**(metadata if number == 0 else {}), **keys}, part))
    return paths


def tiny_llama(
    path: Path,
    metadata: Mapping[str, Any] | None = None,
    *,
    n_layer: int = 2,
    n_embd: int = 256,
    n_head: int = 4,
    n_head_kv: int = 2,
    n_ff: int = 512,
    n_vocab: int = 512,
    ggml_type: int = Q4_0,
    without: Iterable[str] = (),
) -> Path:
    """A complete llama model (sparse, without a vocabulary) that the engine can dry-run.
    `metadata` adds or replaces keys; keys named in `without` are left out."""
    keys: dict[str, Any] = {
        "general.architecture": "llama",
        "general.name": "tiny",
        "llama.block_count": n_layer,
        "llama.context_length": 4096,
        "llama.embedding_length": n_embd,
        "llama.feed_forward_length": n_ff,
        "llama.attention.head_count": n_head,
        "llama.attention.head_count_kv": n_head_kv,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.vocab_size": n_vocab,
        "tokenizer.ggml.model": "no_vocab",
        **(metadata or {}),
    }
    kv = n_embd // n_head * n_head_kv
    tensors = [
        Tensor("token_embd.weight", (n_embd, n_vocab), ggml_type),
        Tensor("output_norm.weight", (n_embd,)),
        Tensor("output.weight", (n_embd, n_vocab), ggml_type),
    ]
    for layer in range(n_layer):
        tensors += [
            Tensor(f"blk.{layer}.{name}.weight", shape, ggml_type if len(shape) > 1 else F32)
            for name, shape in (
                ("attn_norm", (n_embd,)),
                ("attn_q", (n_embd, n_embd)),
                ("attn_k", (n_embd, kv)),
                ("attn_v", (n_embd, kv)),
                ("attn_output", (n_embd, n_embd)),
                ("ffn_norm", (n_embd,)),
                ("ffn_gate", (n_embd, n_ff)),
                ("ffn_up", (n_embd, n_ff)),
                ("ffn_down", (n_ff, n_embd)),
            )
        ]
    return write_gguf(path, {k: v for k, v in keys.items() if k not in set(without)}, tensors)


def tiny_split(folder: Path, stem: str = "tiny", parts: int = 2) -> list[Path]:
    """The parts of `tiny_llama` as a split model."""
    whole = tiny_llama(folder / "whole.gguf")
    header = read_header(whole)
    whole.unlink()
    tensors = [Tensor(t.name, t.shape, t.ggml_type) for t in header.tensors]
    step = -(-len(tensors) // parts)
    pieces = [tensors[i : i + step] for i in range(0, len(tensors), step)]
    return write_split(folder, stem, header.metadata, pieces)


def _pad(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment


def _alignment(metadata: Mapping[str, Any]) -> int:
    value = metadata.get("general.alignment", 32)
    return value if isinstance(value, int) and 0 < value <= 4096 else 32


def _string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    if not isinstance(value, Typed):
        value = Typed(value, _type_of(value), _type_of(value[0]) if _is_array(value) else INT32)
    body = struct.pack("<I", value.type)
    if value.type != ARRAY:
        return body + _scalar(value.value, value.type)
    body += struct.pack("<IQ", value.element, len(value.value))
    return body + b"".join(_scalar(item, value.element) for item in value.value)


def _is_array(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0


def _type_of(value: Any) -> int:
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, int):
        if value < 0:
            return INT32 if value >= -(1 << 31) else INT64
        return UINT32 if value < 1 << 32 else UINT64
    if isinstance(value, float):
        return FLOAT32
    if isinstance(value, str | bytes):
        return STRING
    if isinstance(value, list | tuple):
        return ARRAY
    raise TypeError(f"no GGUF type for {type(value).__name__}")


def _scalar(value: Any, kind: int) -> bytes:
    return _string(value) if kind == STRING else struct.pack(_FORMATS[kind], value)


NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # enum llama_token_type


def vocabulary(
    special: Sequence[str] = (), *, model: str = "gpt2", texts: Sequence[str] = ()
) -> dict[str, Any]:
    """The tokenizer's keys of a small vocabulary: `special` as control tokens, then every
    printable ASCII character and newline, then `texts`. No special token is stated."""
    characters = [chr(c) for c in range(33, 127)]
    space, newline = ("\u0120", "\u010a") if model == "gpt2" else ("\u2581", "<0x0A>")
    tokens = [*special, *characters, space, newline, *texts]
    kinds = [CONTROL] * len(special) + [NORMAL] * (len(tokens) - len(special))
    if model == "llama":
        kinds[0], kinds[tokens.index("<0x0A>")] = UNKNOWN, BYTE
    return {
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": model,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": Typed(kinds, ARRAY, INT32),
        **({"tokenizer.ggml.pre": "default", "tokenizer.ggml.merges": ["a b"]}
           if model == "gpt2" else
           {"tokenizer.ggml.scores": Typed([-1.0] * len(tokens), ARRAY, FLOAT32),
            "tokenizer.ggml.add_space_prefix": False}),
    }  # fmt: skip
