"""The lines by which llama.cpp tells its buffers, in the wordings of all its versions.

    load_tensors:        CUDA0 model buffer size =  4155.99 MiB          llama-model.cpp
    llama_kv_cache:      CUDA0 KV buffer size =  1024.00 MiB             llama-kv-cache.cpp
    llama_memory_recurrent:  CUDA0 RS buffer size =   149.62 MiB         llama-memory-recurrent.cpp
    llama_context:  CUDA_Host  output buffer size =     0.49 MiB         llama-context.cpp
    sched_reserve:      CUDA0 compute buffer size =   140.00 MiB

Older ones call the functions otherwise (llm_load_tensors, llama_new_context_with_model), and leave
out the word "model".
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tuner.memory.footprint import Buffer
from tuner.units import MIB

_LINE = re.compile(
    r"(\w+): +(\S{1,200}) +(model |KV |RS |output |compute )?buffer size = +"
    r"(\d{1,12}(?:\.\d{1,6})?) MiB"
)
_KINDS = {
    "model ": "weights",
    "KV ": "kv_cache",
    "RS ": "recurrent_state",
    "output ": "output",
    "compute ": "compute",
}
# Others speak of compute buffers, too: an image's projector has one of its own.
_COMPUTING = frozenset(
    {
        "sched_reserve",
        "graph_reserve",
        "llama_context",
        "llama_init_from_model",
        "llama_new_context_with_model",
    }
)
_LOADING = frozenset({"load_tensors", "llm_load_tensors"})
REPLACED = frozenset({"compute", "output"})  # reserved anew, they take the place of the old


def buffer_in(line: str) -> Buffer | None:
    """The buffer that a line states, if it does."""
    found = _LINE.search(line)
    if found is None:
        return None
    speaker, device, word, size = found.groups()
    kind = _KINDS[word or "model "]
    if (kind == "compute" and speaker not in _COMPUTING) or (
        kind == "weights" and speaker not in _LOADING
    ):
        return None
    return Buffer(device, kind, round(float(size) * MIB))


def summed(buffers: Iterable[Buffer]) -> tuple[Buffer, ...]:
    """One for each device and kind, in order. Several of one (a window's cache beside the full
    one) are added up; a compute buffer reserved anew replaces the old."""
    sizes: dict[tuple[str, str], int] = {}
    for buffer in buffers:
        key = (buffer.device, buffer.kind)
        before = 0 if buffer.kind in REPLACED else sizes.get(key, 0)
        sizes[key] = before + buffer.size
    return tuple(Buffer(device, kind, size) for (device, kind), size in sizes.items())


def on_host(device: str) -> bool:
    """Whether the engine's name for a buffer's device is one for the host's memory: its own
    ("CPU", "CPU_Mapped", "CPU_REPACK", "AMX"), or pinned for a card ("CUDA_Host")."""
    stem = device.partition("[")[0]
    return stem.endswith("_Host") or stem.partition("_")[0] in ("CPU", "AMX", "BLAS", "Host")


def device_of(buffer: str) -> str:
    """The engine's name for the device that a GPU's buffer lies on: MTL0 of MTL0_Mapped. A server's
    buffers ("RPC0[host:port]") tell the devices of several servers apart by themselves."""
    return buffer if "[" in buffer else buffer.partition("_")[0]
