"""Models with random weights, of any size: they say nothing that makes sense, but are loaded, read
and computed like any other.

Three shapes whose memory and speed differ most: a dense one, one with experts, one with a sliding
window. A size is spent on width and depth as model families do.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.gguf_files import F32, Q8_0, Tensor, header_bytes, vocabulary
from tuner.units import MIB, padded

_BLOCK, _BLOCK_BYTES = 32, 34  # Q8_0: an f16 scale, then 32 signed bytes
_SCALE = b"\x66\x14"  # about 0.001 as f16: activations stay finite
_ONE = b"\x00\x00\x80\x3f"  # 1.0 as f32: what a norm multiplies with
_PIECE = 4 * MIB
_VOCABULARY = 32_000
_HEAD = 128


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a model is."""

    n_layer: int
    n_embd: int

    @property
    def n_head(self) -> int:
        return max(1, self.n_embd // _HEAD)

    @property
    def head(self) -> int:
        return self.n_embd // self.n_head

    @property
    def n_head_kv(self) -> int:
        return max(1, self.n_head // 4)

    @property
    def n_ff(self) -> int:
        return padded(self.n_embd * 8 // 3, 64)


_SHAPES = tuple(
    Shape(layers, width)
    for layers, width in ((4, 256), (8, 512), (16, 1024), (24, 1536), (28, 2048), (32, 3072),
                          (32, 4096), (40, 5120))
)  # fmt: skip


def dense(shape: Shape) -> tuple[dict[str, Any], list[Tensor]]:
    """Like Llama."""
    return _keys("llama", shape), _tensors(shape, _feed_forward(shape))


def experts(shape: Shape) -> tuple[dict[str, Any], list[Tensor]]:
    """Like Qwen3's with experts: 16 of them, 4 of which are used."""
    keys = _keys("qwen3moe", shape)
    n_ff = padded(shape.n_ff // 4, 64)
    keys |= {
        "qwen3moe.expert_count": 16,
        "qwen3moe.expert_used_count": 4,
        "qwen3moe.expert_feed_forward_length": n_ff,
    }
    up, down = (shape.n_embd, n_ff, 16), (n_ff, shape.n_embd, 16)
    parts = {
        "ffn_gate_inp": (shape.n_embd, 16),
        "ffn_gate_exps": up, "ffn_up_exps": up, "ffn_down_exps": down,
        "attn_q_norm": (shape.head,), "attn_k_norm": (shape.head,),
    }  # fmt: skip
    return keys, _tensors(shape, parts)


def window(shape: Shape) -> tuple[dict[str, Any], list[Tensor]]:
    """Like Gemma 3: of six layers five see no more than 512 tokens; the output is the embedding."""
    keys = _keys("gemma3", shape) | {"gemma3.attention.sliding_window": 512}
    parts = {
        **_feed_forward(shape),
        "post_attention_norm": (shape.n_embd,), "post_ffw_norm": (shape.n_embd,),
        "attn_q_norm": (shape.head,), "attn_k_norm": (shape.head,),
    }  # fmt: skip
    tensors = _tensors(shape, parts)
    return keys, [t for t in tensors if t.name != "output.weight"]


KINDS: Mapping[str, Callable[[Shape], tuple[dict[str, Any], list[Tensor]]]] = {
    "dense": dense, "experts": experts, "window": window,
}  # fmt: skip


def write_model(folder: Path, kind: str, size: int) -> Path:
    """A model of one of the `KINDS`, of about `size` bytes at most (the smallest has a few MiB), in
    `folder`. Raises OSError."""
    made = [KINDS[kind](shape) for shape in _SHAPES]
    fitting = [one for one in made if sum(t.n_bytes for t in one[1]) <= size]
    keys, tensors = fitting[-1] if fitting else made[0]
    path = folder / f"random-{kind}-{sum(t.n_bytes for t in tensors) // MIB}MiB.gguf"
    if not path.exists():
        unfinished = path.with_suffix(".part")
        with unfinished.open("wb") as file:
            file.write(header_bytes(keys, tensors))
            for tensor in tensors:
                for piece in _weights(tensor):
                    file.write(piece)
        unfinished.replace(path)
    return path


def _weights(tensor: Tensor) -> Iterator[bytes]:
    """Random ones; a norm is all ones. As long as its place in the file."""
    if tensor.ggml_type == F32 and len(tensor.shape) == 1:
        unit = _ONE
    elif tensor.ggml_type == F32:
        draw = random.Random(tensor.name)
        unit = b"".join(draw.choice((_ONE, b"\x00" * 4)) for _ in range(1024))
    else:
        draw = random.Random(tensor.name)
        unit = b"".join(_SCALE + draw.randbytes(_BLOCK) for _ in range(1024))
    left = padded(tensor.n_bytes, 32)
    piece = unit * max(1, _PIECE // len(unit))
    while left > 0:
        yield piece[:left]
        left -= len(piece)


def _keys(architecture: str, shape: Shape) -> dict[str, Any]:
    tokens = vocabulary(texts=[f"\u0120word{i}" for i in range(_VOCABULARY - 96)])
    tokens.pop("llama.vocab_size")
    a = architecture
    return {
        "general.architecture": a,
        "general.name": f"random {a}",
        f"{a}.block_count": shape.n_layer,
        f"{a}.context_length": 32_768,
        f"{a}.embedding_length": shape.n_embd,
        f"{a}.feed_forward_length": shape.n_ff,
        f"{a}.attention.head_count": shape.n_head,
        f"{a}.attention.head_count_kv": shape.n_head_kv,
        f"{a}.attention.key_length": shape.head,
        f"{a}.attention.value_length": shape.head,
        f"{a}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{a}.vocab_size": _VOCABULARY,
        **tokens,
    }


def _feed_forward(shape: Shape) -> dict[str, tuple[int, ...]]:
    up, down = (shape.n_embd, shape.n_ff), (shape.n_ff, shape.n_embd)
    return {"ffn_gate": up, "ffn_up": up, "ffn_down": down}


def _tensors(shape: Shape, parts: Mapping[str, Sequence[int]]) -> list[Tensor]:
    """The whole table; `parts`: of each layer beside its attention."""
    width, kv = shape.n_embd, shape.head * shape.n_head_kv
    found = [
        _tensor("token_embd", (width, _VOCABULARY)),
        _tensor("output_norm", (width,)),
        _tensor("output", (width, _VOCABULARY)),
    ]
    layer = {
        "attn_norm": (width,), "attn_q": (width, width), "attn_k": (width, kv),
        "attn_v": (width, kv), "attn_output": (width, width), "ffn_norm": (width,), **parts,
    }  # fmt: skip
    for il in range(shape.n_layer):
        found += [_tensor(f"blk.{il}.{name}", tuple(dims)) for name, dims in layer.items()]
    return found


def _tensor(name: str, dims: tuple[int, ...]) -> Tensor:
    in_blocks = len(dims) > 1 and not name.endswith("ffn_gate_inp")  # the router is never quantized
    return Tensor(f"{name}.weight", dims, Q8_0 if in_blocks else F32)
