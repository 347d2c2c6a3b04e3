"""Pools of memory: each byte of a machine is in one of them, whoever may draw from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from bench.oracle import rpc_available
from tests.support.fake_hardware import DESKTOP, FakeCard, FakeNvml, engine_folder, write_files
from tests.support.giants import gpu, machine, unified
from tests.support.standin_gpu import standin_gpu
from tuner.engine.probe import EngineDevice, offloaded_to
from tuner.machine.engine_build import EngineAnswer, devices_of
from tuner.machine.machine import Machine, Pool
from tuner.machine.measure import measure
from tuner.machine.stated import stated
from tuner.units import GIB, MIB

APU = "0000:c5:00.0"


def listed(name: str, kind: int, total: int, free: int, device_id: str = "") -> dict[str, Any]:
    """A device as the probe prints it; `kind` 1 is a GPU, 2 an integrated one."""
    backend = name.rstrip("0123456789")
    return {
        "name": name, "description": f"the {name}", "type": kind, "backend": backend,
        "device_id": device_id, "free": free, "total": total,
    }  # fmt: skip


def measured(
    root: Path, *devices: dict[str, Any], backend: str = "vulkan", **other: Any
) -> Machine:
    """A desktop of 64 GiB RAM with 48 free, whose engine lists these devices."""

    def ask(_: Sequence[str]) -> EngineAnswer:
        chosen = offloaded_to([EngineDevice(**one) for one in devices])
        return EngineAnswer(devices_of([asdict(one) for one in chosen]))

    options: dict[str, Any] = {
        "nvml": FakeNvml(), "host_state": DESKTOP, "root": root, "ask": ask, "platform": "linux",
        "library_folder": engine_folder(root, backend), **other,
    }  # fmt: skip
    return measure({}, **options)


def pools(where: Machine) -> dict[str, tuple[list[str], int, int]]:
    """Devices, total and free of each pool by name."""
    return {
        p.name: ([where.devices[i].id for i in p.devices], p.total, p.free) for p in where.pools
    }


def test_a_card_is_one_pool_and_the_ram_is_one() -> None:
    where = machine(gpu(24), gpu(12, 1), ram=64)
    assert pools(where) == {
        "GPU0": (["GPU0"], 24 * GIB, 24 * GIB),
        "GPU1": (["GPU1"], 12 * GIB, 12 * GIB),
        "RAM": (["host"], 64 * GIB, 64 * GIB),
    }
    assert [(p.name, p.budget) for p in where.limits] == [(d.id, d.budget) for d in where.devices]


def test_a_mac_is_one_pool_with_two_devices(tmp_path: Path) -> None:
    """Metal's figures are the working set that Apple recommends, and are no memory beside RAM."""
    limit = int(10.7 * GIB)
    state = replace(DESKTOP, total=16 * GIB, available=12 * GIB, name="Apple M2")
    where = measured(tmp_path, listed("MTL0", 1, limit, limit), backend="metal", host_state=state)
    assert pools(where) == {"RAM": (["GPU0", "host"], 16 * GIB, 12 * GIB)}
    gpu_limit, host_limit, together = where.limits
    assert gpu_limit.budget == limit - 512 * MIB
    assert host_limit.budget == together.budget == 12 * GIB - int(1.6 * GIB)
    assert where.text(together) == "the RAM that GPU0 and host share"


def test_gb10_has_no_memory_of_its_own(tmp_path: Path) -> None:
    """NVML has no figures for it."""
    nvml = FakeNvml([FakeCard(name="NVIDIA GB10", total=None, capability=(12, 1))])
    where = measured(tmp_path, backend="cuda", nvml=nvml)
    assert pools(where) == {"RAM": (["GPU0", "host"], 64 * GIB, 48 * GIB)}


def test_a_jetson_is_told_by_the_engine(tmp_path: Path) -> None:
    """There NVML does not work; the engine calls the GPU integrated, its free memory is the RAM's
    (`ggml_backend_cuda_device_get_memory`)."""
    nvml = FakeNvml(init_error=Exception("Driver Not Loaded"))
    state = replace(DESKTOP, total=8 * GIB, available=5 * GIB)
    orin = listed("CUDA0", 2, 8 * GIB, 5 * GIB)
    where = measured(tmp_path, orin, backend="cuda", nvml=nvml, host_state=state)
    assert pools(where) == {"RAM": (["GPU0", "host"], 8 * GIB, 5 * GIB)}


def amd(root: Path, carved_out: int, used: int, gtt: int) -> None:
    """What Linux shows of AMD's memory."""
    files = {"vram_total": carved_out, "vram_used": used, "gtt_total": gtt}
    write_files(
        root,
        {f"sys/bus/pci/devices/{APU}/mem_info_{k}": f"{v}\n" for k, v in files.items()},
    )


@pytest.mark.parametrize("carved_out", [GIB // 2, 4 * GIB, 96 * GIB])
def test_an_amd_apus_carve_out_is_beside_the_ram_and_its_gtt_inside(
    tmp_path: Path, carved_out: int
) -> None:
    """Vulkan gives the sum of both as the memory of one device."""
    used, gtt = 300 * MIB, 32 * GIB
    amd(tmp_path, carved_out, used, gtt)
    total = carved_out + gtt
    where = measured(tmp_path, listed("Vulkan0", 2, total, total - used, APU))
    assert pools(where) == {
        "RAM": (["GPU0", "host"], 64 * GIB + carved_out, 48 * GIB + carved_out - used)
    }
    assert where.host.budget == 48 * GIB - int(6.4 * GIB), "the host has no carve-out"


def test_an_apu_that_uses_its_carve_out_alone_is_a_card(tmp_path: Path) -> None:
    """HIP, where the firmware set more apart than the kernel would lend."""
    amd(tmp_path, 24 * GIB, GIB, 8 * GIB)
    where = measured(tmp_path, listed("ROCm0", 2, 24 * GIB, 23 * GIB, APU), backend="hip")
    assert pools(where) == {
        "GPU0": (["GPU0"], 24 * GIB, 23 * GIB),
        "RAM": (["host"], 64 * GIB, 48 * GIB),
    }


def test_an_apu_that_uses_the_ram_alone_has_no_carve_out(tmp_path: Path) -> None:
    """HIP, where the firmware set little apart."""
    amd(tmp_path, GIB // 2, 0, 32 * GIB)
    where = measured(tmp_path, listed("ROCm0", 2, 32 * GIB, 30 * GIB, APU), backend="hip")
    assert pools(where) == {"RAM": (["GPU0", "host"], 64 * GIB, 48 * GIB)}


def test_an_apu_of_which_the_system_says_nothing_is_all_ram(tmp_path: Path) -> None:
    where = measured(tmp_path, listed("Vulkan0", 2, 34 * GIB, 33 * GIB, APU))
    assert pools(where) == {"RAM": (["GPU0", "host"], 64 * GIB, 48 * GIB)}


def test_an_integrated_gpu_beside_a_card_is_not_used(tmp_path: Path) -> None:
    intel = listed("Vulkan0", 2, 48 * GIB, 40 * GIB)
    card = listed("Vulkan1", 1, 16 * GIB, 15 * GIB)
    assert pools(measured(tmp_path, intel, card)) == {
        "GPU0": (["GPU0"], 16 * GIB, 15 * GIB),
        "RAM": (["host"], 64 * GIB, 48 * GIB),
    }
    assert pools(measured(tmp_path, intel)) == {"RAM": (["GPU0", "host"], 64 * GIB, 48 * GIB)}


def test_a_server_beside_an_integrated_gpu_has_its_own(tmp_path: Path) -> None:
    server = listed("RPC0", 1, 8 * GIB, 7 * GIB)
    where = measured(tmp_path, listed("Vulkan0", 2, 48 * GIB, 40 * GIB), server)
    assert pools(where) == {
        "GPU0": (["GPU0"], 8 * GIB, 7 * GIB),
        "RAM": (["GPU1", "host"], 64 * GIB, 48 * GIB),
    }


def test_a_server_on_this_machine_gives_out_its_ram(tmp_path: Path) -> None:
    """All of it, says ggml's CPU backend; another machine's is another's, and so is a card's."""
    here = {**listed("RPC0", 1, 64 * GIB, 64 * GIB), "description": "127.0.0.1:50052"}
    where = measured(tmp_path, here, rpc_servers=["127.0.0.1:50052"])
    assert pools(where) == {"RAM": (["GPU0", "host"], 64 * GIB, 48 * GIB)}
    there = {**here, "description": "10.0.0.7:50052"}
    card = {**here, "free": 23 * GIB, "total": 24 * GIB}
    for other in (there, card):
        names = list(pools(measured(tmp_path, other, rpc_servers=["a:1"])))
        assert names == ["GPU0", "RAM"]


@pytest.mark.skipif(not rpc_available(), reason="an engine without RPC")
def test_the_real_server_on_this_machine_is_known_as_such() -> None:
    with standin_gpu() as server:
        where = measure(rpc_servers=[server])
    ram = where.pools[-1]
    assert {where.devices[i].kind for i in ram.devices} == {"rpc", "host"}
    assert ram.free == where.host.free


def test_the_reserve_of_shared_memory_is_the_larger_one(tmp_path: Path) -> None:
    """--reserve is kept free of the GPU, a tenth of the RAM: both are kept where they are one."""
    for reserve, kept in ((None, int(6.4 * GIB)), (0, int(6.4 * GIB)), (9 * GIB, 9 * GIB)):
        chip = listed("Vulkan0", 2, 48 * GIB, 40 * GIB)
        (ram,) = measured(tmp_path, chip, reserve=reserve).pools
        assert ram.reserve == kept


def test_no_room_in_ram_is_no_room_on_its_gpu(tmp_path: Path) -> None:
    full = replace(DESKTOP, total=16 * GIB, available=int(1.7 * GIB))
    chip = listed("MTL0", 1, int(10.7 * GIB), int(10.7 * GIB))
    where = measured(tmp_path, chip, backend="metal", host_state=full)
    assert where.gpus == ()
    assert "left out" in where.warnings[0]


def test_ram_stated_for_a_mac_is_what_its_gpu_draws_from() -> None:
    where = stated(None, 8 * GIB, measured=unified(10.7, 12, total=16))
    assert pools(where) == {"RAM": (["GPU0", "host"], 8 * GIB, 8 * GIB)}


def test_a_pool_keeps_its_reserve() -> None:
    assert Pool("RAM", (0,), 16, 12, 3).budget == 9
    assert Pool("RAM", (0,), 16, 2, 3).budget == 0
