"""The engine's buffers in the tuner's terms."""

from __future__ import annotations

from dataclasses import asdict, replace

from tests.support.giants import LLAMA_8B, giant, gpu, machine, unified
from tuner.engine.probe import EngineDevice
from tuner.machine.engine_build import devices_of
from tuner.memory.footprint import Buffer
from tuner.memory.reported import device_index, reported_footprint
from tuner.planning.planner import make_plan
from tuner.planning.running_out import ran_out_on
from tuner.settings import Settings
from tuner.units import GIB
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


def test_servers_count_their_own_devices() -> None:
    """Two of the first, one of the second: the engine calls them RPC0 to RPC2, and the buffers of
    the third "RPC0[b:2]"."""
    listed = [
        asdict(EngineDevice(f"RPC{i}", at, 1, "RPC", "", GIB, GIB))
        for i, at in enumerate(("a:1", "a:1", "b:2"))
    ]
    found = devices_of(listed)
    names = ["RPC0[a:1]", "RPC1[a:1]", "RPC0[b:2]"]
    assert [device_index(name, found) for name in names] == [0, 1, 2]
    assert device_index("RPC1[a:1]", found[1:]) == 0, "where the first is left out, too"
    where = replace(machine(), gpus=found)
    for place, name in enumerate(names):
        words = f"failed to allocate {name} buffer of size 188743680"
        assert ran_out_on(words, where, Settings(512, n_gpu_layers=9)) == place
    broke = "the RPC server b:2 broke the connection off"
    assert ran_out_on(broke, where, Settings(512, n_gpu_layers=9)) == 2


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
