"""Full-size models for tests, and machines to plan for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.support.headers import real_model, unpacked
from tuner.machine.machine import Device, Machine
from tuner.model.model import Model
from tuner.units import GIB, MIB

LLAMA_8B = "Llama-3.1-8B-Q4_K_M.gguf"
AYA_35B = "aya-23-35B-Q4_K_M.gguf"
QWEN_30B_A3B = "Qwen3-30B-A3B-Q4_K_M.gguf"
GEMMA_27B = "gemma-3-27b-Q4_K_M.gguf"


def giant_path(name: str) -> Path:
    """The sparse file of one of the models above: its true header, the weights left out."""
    return unpacked()[0][name]


def giant(name: str) -> Model:
    """The model of one of the files above."""
    return real_model(name)


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


def unified(
    limit: float, free: float, *, total: float = 0, backend: str = "Metal", carved_out: float = 0
) -> Machine:
    """A machine whose GPU draws from the RAM, of which `free` GiB are left: it may have `limit`
    GiB, `carved_out` of them set apart by the firmware."""
    apart = int(carved_out * GIB)
    chip = replace(
        gpu(limit, backend=backend, bandwidth=100e9),
        engine_name="MTL0" if backend == "Metal" else f"{backend}0",
        unified=True,
        overhead=128 * MIB,
        carved_out=apart,
        carved_out_free=apart,
    )
    where = machine(chip, ram=total or free)
    return replace(where, host=replace(where.host, free=int(free * GIB)))
