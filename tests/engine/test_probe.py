"""Which of the engine's devices get layers, and in which order: one rule for the parent, which
plans by the probe's answer, and for the worker, which may have to name them to the engine."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from bench.oracle import rpc_available
from tests.support.standin_gpu import standin_gpu
from tuner.engine.probe import EngineDevice, offloaded_to
from tuner.machine.engine_build import ask_engine
from tuner.units import GIB


def listed(name: str, kind: int, backend: str, device_id: str = "") -> EngineDevice:
    return EngineDevice(name, f"the {name}", kind, backend, device_id, 7 * GIB, 8 * GIB)


CPU = listed("CPU", 0, "CPU")
BLAS = listed("BLAS", 3, "BLAS")


def names(*devices: EngineDevice) -> list[str]:
    return [device.name for device in offloaded_to(devices)]


def test_devices_come_in_llama_cpps_order() -> None:
    """RPC first, and the host's own devices are no GPUs (src/llama.cpp)."""
    rpc = listed("RPC0[a:1]", 1, "RPC[a:1]")
    assert names(listed("CUDA0", 1, "CUDA"), CPU, BLAS, rpc) == ["RPC0[a:1]", "CUDA0"]


def test_integrated_gpus_count_where_there_is_no_other() -> None:
    integrated = listed("Vulkan0", 2, "Vulkan")
    other = listed("SYCL0", 2, "SYCL")
    rpc = listed("RPC0", 1, "RPC")
    assert names(integrated, listed("Vulkan1", 1, "Vulkan")) == ["Vulkan1"]
    assert names(integrated, other, CPU) == ["Vulkan0"], "one backend's only"
    assert names(integrated, rpc) == ["RPC0", "Vulkan0"]


def test_a_card_seen_by_two_backends_counts_once() -> None:
    cuda = listed("CUDA0", 1, "CUDA", "0000:01:00.0")
    vulkan = listed("Vulkan0", 1, "Vulkan", "0000:01:00.0")
    assert names(cuda, vulkan) == ["CUDA0"]
    assert names(listed("A", 1, "X"), listed("B", 1, "X")) == ["A", "B"]


def test_a_device_is_told_by_what_it_is_and_not_by_where_it_lies() -> None:
    device = listed("CUDA0", 1, "CUDA")
    assert device == replace(device, handle=1)


@pytest.mark.skipif(not rpc_available(), reason="an engine without RPC")
def test_the_worker_and_the_parent_have_the_same_devices() -> None:
    """Two servers: the parent's list is what a worker would hand to the engine, which is what is
    left when one of them is not to be used."""
    code = (
        "import sys; from tuner.engine import llama; from tuner.engine.probe import devices;"
        "[llama.libraries.register_rpc(s) for s in sys.argv[1:]];"
        "known = {d.handle: d.name for d in devices(llama.libraries._folder)};"
        "print(*(known[h] for h in llama.libraries.offload_devices(())));"
        "print(*(known[h] for h in llama.libraries.offload_devices(('RPC0',))))"
    )
    with standin_gpu() as first, standin_gpu() as second:
        ours = [device.engine_name for device in ask_engine([first, second]).devices]
        done = subprocess.run(
            [sys.executable, "-c", code, first, second],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )
    assert done.returncode == 0, done.stderr
    whole, without = (line.split() for line in done.stdout.splitlines()[-2:])
    assert whole == ours == ["RPC0", "RPC1"]
    assert without == ["RPC1"]
