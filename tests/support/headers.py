"""Real headers with the sizes that the engine would allocate, and models made up for tests.

`tests/data/engine_sizes.tar.xz` holds the headers of 142 models (a small one for nearly each
architecture that the engine loads, as llama.cpp's own tests make them up, and full-size ones), each
as NAME@FULLSIZE, and `sizes.json`: settings with llama.cpp's own weights, cache and compute bytes
for each device, the host last. `python -m bench.record_sizes` makes it, by dry runs on RPC
stand-ins with one row of logits, no full window caches and no extra buffer types.
"""

from __future__ import annotations

import json
import os
import tarfile
from functools import cache, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.support.gguf_files import F32, Q4_0, Tensor, write_gguf
from tuner.gguf.header import read_header
from tuner.machine.machine import Device, Machine
from tuner.memory.compute.tapes import Replays
from tuner.memory.estimator import Estimator
from tuner.model.model import Model, describe

_SCRATCH = TemporaryDirectory(prefix="kvchat-headers-")  # gone when the tests end
ARCHIVE = Path(__file__).parents[1] / "data" / "engine_sizes.tar.xz"


@lru_cache(maxsize=1)
def unpacked() -> tuple[dict[str, Path], list[dict[str, Any]]]:
    """The headers as sparse files by name, and the engine's sizes."""
    folder = Path(_SCRATCH.name)
    files: dict[str, Path] = {}
    sizes: list[dict[str, Any]] = []
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            stream = archive.extractfile(member)
            assert stream is not None
            data = stream.read()
            if member.name == "sizes.json":
                sizes = json.loads(data)
                continue
            name, full_size = member.name.rsplit("@", 1)
            files[name] = folder / name
            files[name].write_bytes(data)
            os.truncate(files[name], int(full_size))
    return files, sizes


@cache
def real_model(name: str) -> Model:
    """One of the archive's models."""
    return describe(read_header(unpacked()[0][name]))


def machine(n_gpus: int = 1, backend: str = "RPC", **gpu: Any) -> Machine:
    """A machine with memory without end, so that only the arithmetic shows."""
    kind = "rpc" if backend == "RPC" else "gpu"
    gpus = tuple(
        Device(f"GPU{i}", kind, backend, "gpu", 1 << 50, 1 << 50, 0, **gpu) for i in range(n_gpus)
    )
    return Machine(gpus, Device("host", "host", "CPU", "host", 1 << 50, 1 << 50, 0))


def made_up(
    path: Path,
    architecture: str = "llama",
    keys: dict[str, Any] | None = None,
    extra: tuple[Tensor, ...] = (),
    *,
    n_layer: int = 4,
    n_embd: int = 256,
    n_head: int = 4,
    n_head_kv: int = 2,
    head: int | None = None,
    n_ff: int = 512,
    n_vocab: int = 1024,
    tied: bool = False,
    norms: tuple[str, ...] = (),
    dense: bool = True,
) -> Model:
    """Writes a sparse file of one attention and one gated feed-forward part per layer, with keys
    of the architecture's own (without its prefix), and describes it. `dense` False: without the
    feed-forward weights, for `extra` experts."""
    size = head or n_embd // n_head
    stated = {
        "block_count": n_layer, "context_length": 8192, "embedding_length": n_embd,
        "feed_forward_length": n_ff, "attention.head_count": n_head,
        "attention.head_count_kv": n_head_kv, "attention.layer_norm_rms_epsilon": 1e-5,
        "vocab_size": n_vocab, **({"attention.key_length": head, "attention.value_length": head}
                                  if head else {}), **(keys or {}),
    }  # fmt: skip
    metadata = {
        "general.architecture": architecture,
        "tokenizer.ggml.model": "no_vocab",
        **{f"{architecture}.{k}": v for k, v in stated.items()},
    }
    tensors = [Tensor("token_embd.weight", (n_embd, n_vocab), Q4_0)]
    tensors += [Tensor("output_norm.weight", (n_embd,), F32)]
    if not tied:
        tensors.append(Tensor("output.weight", (n_embd, n_vocab), Q4_0))
    for il in range(n_layer):
        shapes: dict[str, tuple[int, ...]] = {
            "attn_norm": (n_embd,), "attn_q": (n_embd, n_head * size),
            "attn_k": (n_embd, n_head_kv * size), "attn_v": (n_embd, n_head_kv * size),
            "attn_output": (n_head * size, n_embd), "ffn_norm": (n_embd,),
            "ffn_gate": (n_embd, n_ff), "ffn_up": (n_embd, n_ff), "ffn_down": (n_ff, n_embd),
        }  # fmt: skip
        for norm in norms:
            shapes[norm] = (size,) if norm in ("attn_q_norm", "attn_k_norm") else (n_embd,)
        tensors += [
            Tensor(f"blk.{il}.{n}.weight", s, Q4_0 if len(s) > 1 else F32)
            for n, s in shapes.items()
            if dense or n not in ("ffn_gate", "ffn_up", "ffn_down")
        ]
    return describe(read_header(write_gguf(path, metadata, [*tensors, *extra])))


def replay_every_shape(estimator: Estimator) -> None:
    """From now on a graph of plain numbers for every shape: slow, and what graphs that many
    settings share must agree with."""
    compute = estimator.compute
    compute.replays = Replays(
        compute.graph,
        compute.alignments,
        compute.offload,
        opens=False,
        optimizers=compute.optimizers,
    )
