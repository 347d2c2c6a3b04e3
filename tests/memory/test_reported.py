"""The engine's buffers in the tuner's terms."""

from __future__ import annotations

from dataclasses import replace

from tests.support.giants import LLAMA_8B, giant, gpu, machine, unified
from tuner.memory.footprint import Buffer
from tuner.memory.reported import device_index, reported_footprint
from tuner.planning.planner import make_plan
from tuner.wishes import Wishes


def test_engine_names_of_devices() -> None:
    """Each buffer is counted where it lies."""
    cuda = machine(gpu(8), gpu(8, 1)).gpus
    assert [device_index(n, cuda) for n in ("CUDA0", "CUDA1")] == [0, 1]
    for name in ("CPU", "CPU_Mapped", "CUDA_Host", "CPU_REPACK", "AMX"):
        assert device_index(name, cuda) == -1
    mac = unified(10, 12).gpus
    assert [device_index(n, mac) for n in ("MTL0", "MTL0_Mapped", "MTL0_Private")] == [0, 0, 0]
    assert device_index("CPU_Mapped", mac) == -1
    rpc = (replace(gpu(8, backend="RPC"), engine_name="RPC0[127.0.0.1:50052]"),)
    assert device_index("RPC0[127.0.0.1:50052]", rpc) == 0


def test_buffers_add_up_per_device() -> None:
    """Several buffers of a kind on one device are one figure; kinds not reported stay."""
    plan = make_plan(giant(LLAMA_8B), machine(gpu(8)), Wishes())
    buffers = [
        Buffer("CUDA0", "weights", 100), Buffer("CUDA0", "weights", 11),
        Buffer("CPU_Mapped", "weights", 7),
    ]  # fmt: skip
    got = reported_footprint(buffers, plan.machine, plan.chosen.footprint, "measured")
    assert [u.weights for u in got.uses] == [111, 7]
    assert got.uses[0].compute == plan.chosen.footprint.uses[0].compute
