"""Models of a few hundred kilobytes with random weights, each with a memory of another kind. What
they say makes no sense, but is always the same."""

from __future__ import annotations

import random
from array import array
from pathlib import Path
from typing import Any

from tests.support.gguf_files import (
    ARRAY,
    INT32,
    Tensor,
    Typed,
    header_bytes,
    vocabulary,
    write_gguf,
)

# A thought is never shown again; what it was begins the answer here.
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}.{% endfor %}assistant opens this:"
N_EMBD, N_FF, N_LAYER, WINDOW = 64, 64, 6, 32


def _row(name: str, *shape: int) -> Tensor:
    return Tensor(f"{name}.weight", shape)


def plain(n_vocab: int) -> tuple[dict[str, Any], list[Tensor]]:
    """A Llama: a cache that can be cut anywhere, and whose heads are rotated where it is
    quantized."""
    keys = {"general.architecture": "llama", "llama.attention.head_count": 1}
    rows = [_row("token_embd", N_EMBD, n_vocab), _row("output_norm", N_EMBD)]
    for b in (f"blk.{n}." for n in range(N_LAYER)):
        rows += [_row(b + "attn_norm", N_EMBD), _row(b + "ffn_norm", N_EMBD)]
        rows += [_row(b + f"attn_{what}", N_EMBD, N_EMBD) for what in ("q", "k", "v", "output")]
        rows += [_row(b + f"ffn_{what}", N_EMBD, N_FF) for what in ("gate", "up", "down")]
    return keys, rows


def windowed(n_vocab: int) -> tuple[dict[str, Any], list[Tensor]]:
    """A Gemma 3, most of whose layers see the last 32 tokens."""
    keys = {"general.architecture": "gemma3", "gemma3.attention.sliding_window": WINDOW,
            "gemma3.attention.key_length": 32, "gemma3.attention.value_length": 32,
            "gemma3.attention.head_count_kv": 1}  # fmt: skip
    rows = [_row("token_embd", N_EMBD, n_vocab), _row("output_norm", N_EMBD)]
    for b in (f"blk.{n}." for n in range(N_LAYER)):
        for norm in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            rows.append(_row(b + norm, N_EMBD))
        rows += [
            _row(b + "attn_q", N_EMBD, 64), _row(b + "attn_k", N_EMBD, 32),
            _row(b + "attn_v", N_EMBD, 32), _row(b + "attn_output", 64, N_EMBD),
            _row(b + "attn_q_norm", 32), _row(b + "attn_k_norm", 32),
            _row(b + "ffn_gate", N_EMBD, N_FF), _row(b + "ffn_up", N_EMBD, N_FF),
            _row(b + "ffn_down", N_FF, N_EMBD),
        ]  # fmt: skip
    return keys, rows


def hybrid(n_vocab: int) -> tuple[dict[str, Any], list[Tensor]]:
    """An LFM2: layers with attention among layers with a state."""
    n_kv = [0, 0, 1, 0, 0, 1]
    keys = {"general.architecture": "lfm2", "lfm2.shortconv.l_cache": 3,
            "lfm2.attention.head_count_kv": Typed(n_kv, ARRAY, INT32)}  # fmt: skip
    rows = [_row("token_embd", N_EMBD, n_vocab), _row("token_embd_norm", N_EMBD)]
    for n, attends in enumerate(n_kv):
        b = f"blk.{n}."
        rows += [
            _row(b + "attn_norm", N_EMBD), _row(b + "ffn_norm", N_EMBD),
            _row(b + "ffn_gate", N_EMBD, N_FF), _row(b + "ffn_up", N_EMBD, N_FF),
            _row(b + "ffn_down", N_FF, N_EMBD),
        ]  # fmt: skip
        if attends:
            rows += [
                _row(b + "attn_q", N_EMBD, N_EMBD), _row(b + "attn_k", N_EMBD, 32),
                _row(b + "attn_v", N_EMBD, 32), _row(b + "attn_output", N_EMBD, N_EMBD),
                _row(b + "attn_q_norm", 32), _row(b + "attn_k_norm", 32),
            ]  # fmt: skip
        else:
            rows += [
                _row(b + "shortconv.conv", 3, N_EMBD), _row(b + "shortconv.in_proj", N_EMBD, 192),
                _row(b + "shortconv.out_proj", N_EMBD, N_EMBD),
            ]  # fmt: skip
    return keys, rows


def recurrent(n_vocab: int) -> tuple[dict[str, Any], list[Tensor]]:
    """A Mamba: a state and nothing else."""
    inner, state, rank, kernel = 2 * N_EMBD, 16, 4, 4
    keys = {"general.architecture": "mamba", "mamba.ssm.conv_kernel": kernel,
            "mamba.ssm.inner_size": inner, "mamba.ssm.state_size": state,
            "mamba.ssm.time_step_rank": rank}  # fmt: skip
    rows = [_row("token_embd", N_EMBD, n_vocab), _row("output_norm", N_EMBD)]
    for b in (f"blk.{n}." for n in range(N_LAYER)):
        rows += [
            _row(b + "attn_norm", N_EMBD), _row(b + "ssm_in", N_EMBD, 2 * inner),
            _row(b + "ssm_conv1d", kernel, inner), Tensor(b + "ssm_conv1d.bias", (inner,)),
            _row(b + "ssm_x", inner, rank + 2 * state), _row(b + "ssm_dt", rank, inner),
            Tensor(b + "ssm_dt.bias", (inner,)), Tensor(b + "ssm_a", (state, inner)),
            Tensor(b + "ssm_d", (inner,)), _row(b + "ssm_out", inner, N_EMBD),
        ]  # fmt: skip
    return keys, rows


def model(path: Path, kind: Any) -> Path:
    """With weights drawn at random, always the same."""
    words = vocabulary()
    n_vocab = words.pop("llama.vocab_size")
    keys, tensors = kind(n_vocab)
    arch = keys["general.architecture"]
    keys = {f"{arch}.attention.head_count": 2} | keys | {
        f"{arch}.block_count": N_LAYER, f"{arch}.context_length": 4096,
        f"{arch}.embedding_length": N_EMBD, f"{arch}.feed_forward_length": N_FF,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{arch}.rope.freq_base": 1e4, f"{arch}.vocab_size": n_vocab,
        "tokenizer.chat_template": TEMPLATE, **words,
    }  # fmt: skip
    write_gguf(path, keys, tensors)
    chance, at = random.Random(3), len(header_bytes(keys, tensors))
    with path.open("r+b") as file:
        for tensor in tensors:
            file.seek(at)
            drawn = [chance.gauss(0, 1) for _ in range(tensor.n_bytes // 4)]
            if tensor.name.endswith("ssm_a"):  # by which a state fades: else it grows for ever
                drawn = [-abs(value) for value in drawn]
            file.write(array("f", drawn).tobytes())
            at += tensor.n_bytes
    return path
