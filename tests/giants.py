"""Full-size models for tests: the true headers of real files, the weights left out.

`tests/data/giants.tar.gz` holds each header as NAME@SIZE; written out and stretched to SIZE bytes
it is a sparse file that the reader, and the engine under `no_alloc`, take for the model.
"""

from __future__ import annotations

import functools
import tarfile
import tempfile
from pathlib import Path

from tuner.gguf_header import read_header
from tuner.machine import GIB, MIB, Device, Machine
from tuner.model import Model, describe

ARCHIVE = Path(__file__).parent / "data" / "giants.tar.gz"
LLAMA_8B = "Llama-3.1-8B-Q4_K_M.gguf"
AYA_35B = "aya-23-35B-Q4_K_M.gguf"
QWEN_30B_A3B = "Qwen3-30B-A3B-Q4_K_M.gguf"
GEMMA_27B = "gemma-3-27b-Q4_K_M.gguf"


@functools.cache
def giant_path(name: str) -> Path:
    """The sparse file of one of the models above."""
    folder = Path(tempfile.mkdtemp(prefix="kvchat-giants-"))
    with tarfile.open(ARCHIVE) as archive:
        for member in archive.getmembers():
            stem, _, size = member.name.removeprefix("./").partition("@")
            if stem == name:
                path = folder / stem
                source = archive.extractfile(member)
                assert source is not None
                with path.open("wb") as file:
                    file.write(source.read())
                    file.truncate(int(size))
                return path
    raise LookupError(name)


@functools.cache
def giant(name: str) -> Model:
    """The model of one of the files above."""
    return describe(read_header(giant_path(name)))


def gpu(gib: float, index: int = 0, *, backend: str = "CUDA", bandwidth: float = 1008e9) -> Device:
    """A GPU with `gib` GiB, all of it free."""
    size = int(gib * GIB)
    return Device(
        id=f"GPU{index}", kind="gpu", backend=backend, name="Test GPU", total=size, free=size,
        reserve=512 * MIB, overhead=400 * MIB, bandwidth=bandwidth, flops=80e12,
        pcie_bandwidth=25e9, engine_name=f"{backend}{index}", source="stated",
    )  # fmt: skip


def machine(*gpus: Device, ram: float = 64) -> Machine:
    """A machine with these GPUs and `ram` GiB of free RAM."""
    size = int(ram * GIB)
    host = Device(
        id="host", kind="host", backend="CPU", name="Test CPU", total=size, free=size,
        reserve=max(GIB, size // 10), bandwidth=60e9, source="stated",
    )  # fmt: skip
    return Machine(tuple(gpus), host, physical_cores=8)
