"""The machine: each kind of hardware, and each way in which it can be hidden or missing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tests.support.fake_hardware import (
    DESKTOP,
    H100,
    RTX_4090,
    FakeCard,
    FakeNvml,
    engine_folder,
    write_files,
)
from tuner.engine_version import REQUIREMENT
from tuner.machine import host, nvidia
from tuner.machine import measure as devices
from tuner.machine.engine_build import EngineAnswer
from tuner.machine.machine import Device, Machine
from tuner.machine.nvidia import Reading
from tuner.machine.overheads import Shown
from tuner.machine.stated import stated
from tuner.machine.usable import Beside, device_key
from tuner.units import GIB, MIB

RTX_3090 = FakeCard()


def must_not_ask(_: Sequence[str]) -> EngineAnswer:
    raise AssertionError("the engine was asked although NVML leaves no question")


@pytest.fixture
def machine(tmp_path: Path) -> Any:
    """measure() on a desktop with a CUDA engine, unless told otherwise."""

    def build(
        cards: Sequence[FakeCard] = (),
        environ: dict[str, str] | None = None,
        backends: Sequence[str] = ("cuda",),
        **other: Any,
    ) -> Machine:
        options: dict[str, Any] = {
            "nvml": FakeNvml(cards),
            "host_state": DESKTOP,
            "root": tmp_path,
            "library_folder": engine_folder(tmp_path, *backends),
            "ask": must_not_ask,
            "platform": "linux",
        }
        return devices.measure(environ or {}, **{**options, **other})

    return build


# ---------------------------------------------------------------- one NVIDIA card


def test_a_card_is_measured(machine: Any) -> None:
    (gpu,) = machine([RTX_3090]).gpus

    assert (gpu.id, gpu.kind, gpu.backend, gpu.engine_name) == ("GPU0", "gpu", "CUDA", "CUDA0")
    assert gpu.name == "NVIDIA GeForce RTX 3090"
    assert (gpu.total, gpu.free) == (24 * GIB, 23 * GIB), "free, not total, is what can be used"
    assert gpu.compute_capability == (8, 6)
    assert gpu.source == "measured"
    assert gpu.reserve == 512 * MIB
    assert gpu.budget == 23 * GIB - 512 * MIB


@pytest.mark.parametrize(
    ("card", "paper"),
    [(RTX_3090, 936e9), (RTX_4090, 1008e9), (H100, 3350e9)],
)
def test_bandwidth_is_the_cards_own(machine: Any, card: FakeCard, paper: float) -> None:
    """Within 1 % of the maker's figure; two cards of one capability differ."""
    (gpu,) = machine([card]).gpus
    assert gpu.bandwidth == pytest.approx(paper, rel=0.01)
    assert gpu.bandwidth_source == "computed"


def test_pcie_and_prompt_speed(machine: Any) -> None:
    (slow,) = machine([replace(RTX_3090, pcie=(3, 8))]).gpus
    (fast,) = machine([RTX_3090]).gpus
    assert slow.pcie_bandwidth == pytest.approx(6.3e9, rel=0.01)
    assert fast.pcie_bandwidth == pytest.approx(25.2e9, rel=0.01)
    assert 10e12 < fast.flops < machine([H100]).gpus[0].flops


def test_a_card_that_answers_little_is_still_used(machine: Any) -> None:
    """Old cards and drivers know neither clocks nor bus; the figures are then those of its data
    sheet, or assumptions."""
    bare = FakeCard(
        name="NVIDIA Something New",
        capability=None,
        memory_clock=None,
        bus_width=None,
        cores=None,
        sm_clock=None,
        pcie=None,
    )
    (gpu,) = machine([bare]).gpus
    assert gpu.free == 23 * GIB
    assert gpu.bandwidth > 0
    assert gpu.flops > 0
    assert gpu.pcie_bandwidth > 0
    assert gpu.bandwidth_source == "assumed"

    known = replace(bare, name="NVIDIA GeForce RTX 3090")
    (gpu,) = machine([known]).gpus
    assert (gpu.bandwidth, gpu.bandwidth_source) == (936.2e9, "data sheet")
    assert (gpu.n_sm, gpu.clock, gpu.compute_capability) == (82, 2.1e9, (8, 6))
    assert gpu.flops == machine([RTX_3090]).gpus[0].flops
    assert gpu.pcie_bandwidth == machine([RTX_3090]).gpus[0].pcie_bandwidth


def test_what_nvml_tells_counts_before_the_data_sheet(machine: Any) -> None:
    (gpu,) = machine([replace(RTX_3090, sm_clock=1500, memory_clock=9000, pcie=(3, 8))]).gpus
    assert (gpu.n_sm, gpu.clock) == (82, 1.5e9)
    assert gpu.bandwidth == 9000e6 * 2 * 384 / 8
    assert gpu.bandwidth_source == "computed"
    assert gpu.pcie_bandwidth == pytest.approx(6.3e9, rel=0.01)


def test_a_card_without_memory_of_its_own_shares_the_hosts(machine: Any) -> None:
    (gpu,) = machine([FakeCard(name="NVIDIA GB10", total=None, capability=(12, 1))]).gpus
    assert gpu.unified
    assert (gpu.total, gpu.free) == (DESKTOP.total, DESKTOP.available)


def test_what_shares_the_ram_has_its_bandwidth_and_so_has_the_host(machine: Any) -> None:
    """NVML says nothing of a GB10's memory; its row does, and the CPU reads the same."""
    silent = FakeCard(
        name="NVIDIA GB10", total=None, capability=(12, 1), memory_clock=None, pcie=None
    )
    found = machine([silent])
    (gpu,) = found.gpus
    assert gpu.bandwidth == gpu.pcie_bandwidth == found.host.bandwidth == 273.2e9
    assert gpu.bandwidth_source == found.host.bandwidth_source == "data sheet"
    measured = machine([silent], host_bandwidth=100e9)
    assert (measured.host.bandwidth, measured.host.bandwidth_source) == (100e9, "measured")


def test_reserve_and_measured_overhead(machine: Any) -> None:
    known = Beside(287 * MIB, (Shown(512, 98 * MIB),))
    (assumed,) = machine([RTX_3090], reserve=GIB).gpus
    (measured,) = machine([RTX_3090], beside={f"CUDA:{RTX_3090.uuid}": known}).gpus

    assert assumed.reserve == GIB
    assert (assumed.overhead, assumed.overhead_source) == (350 * MIB, "assumed")
    assert assumed.overhead_most == 410 * MIB
    assert (measured.overhead, measured.overhead_source) == (287 * MIB, "measured")
    assert measured.overhead_most == 287 * MIB
    assert [gpu.growth.of(512, experts=False).usual // MIB for gpu in (assumed, measured)] == (
        [130, 98]
    )
    assert device_key(measured) == RTX_3090.uuid


def test_other_processes_are_named(machine: Any) -> None:
    card = replace(
        RTX_3090,
        compute=[(4001, 3 * GIB), (os.getpid(), GIB), (4003, None)],
        graphics=[(4002, 300 * MIB), (4001, 2 * GIB)],
    )
    names = {
        4001: "/usr/local/bin/ollama",
        4002: r"C:\Program Files\Game\game.exe",
        4003: "/usr/lib/firefox/firefox --type=gpu-process",
    }

    found = machine(nvml=FakeNvml([card], names)).processes

    assert [(p.pid, p.name, p.device, p.used) for p in found] == [
        (4001, "ollama", "GPU0", 3 * GIB),
        (4002, "game.exe", "GPU0", 300 * MIB),
        (4003, "firefox", "GPU0", 0),
    ]


def test_a_process_outside_the_container_has_a_number(machine: Any) -> None:
    card = replace(RTX_3090, compute=[(2**22 + 7, GIB)])
    (process,) = machine([card]).processes
    assert process.name == f"process {2**22 + 7}"


# ---------------------------------------------------------------- NVML missing or broken


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Exception("NVML Shared Library Not Found"), "not installed"),
        (Exception("Driver/library version mismatch"), "mismatch"),
        (OSError("wrong ELF class"), "wrong ELF class"),
    ],
)
def test_no_nvml_is_a_normal_state(machine: Any, error: Exception, reason: str) -> None:
    found = machine(nvml=FakeNvml(init_error=error), backends=["rpc"])
    assert found.gpus == ()
    assert found.warnings == ()
    assert reason in found.notes[0]
    assert found.host.free == DESKTOP.available


def test_a_broken_nvml_beside_a_cuda_engine_asks_the_engine(machine: Any) -> None:
    nvml = FakeNvml(init_error=Exception("Driver Not Loaded"))
    listed = Device("GPU0", "gpu", "CUDA", "Orin", 8 * GIB, 5 * GIB, 0, engine_name="CUDA0")
    found = machine(nvml=nvml, ask=lambda _: EngineAnswer((listed,)))
    assert [gpu.free for gpu in found.gpus] == [5 * GIB]


def test_the_real_pynvml_without_a_driver_is_none() -> None:
    """What the module itself raises is understood, not only what the stand-in raises."""
    pynvml = pytest.importorskip("pynvml")
    cards = nvidia.read_cards(pynvml)
    assert cards.all or cards.reason == nvidia.NOT_INSTALLED or "NVML" in cards.reason


def test_an_nvml_of_another_age_is_survived() -> None:
    """A module that lacks every newer call still gives the card."""

    class Old(FakeNvml):
        nvmlDeviceGetNumGpuCores = None  # type: ignore[assignment]  # noqa: N815
        nvmlDeviceGetMigMode = None  # type: ignore[assignment]  # noqa: N815
        nvmlDeviceGetMemoryBusWidth = None  # type: ignore[assignment]  # noqa: N815

    (card,) = nvidia.read_cards(Old([replace(RTX_3090, name="NVIDIA Something New")])).all
    assert card.total == 24 * GIB
    assert card.bandwidth == 0


# ---------------------------------------------------------------- hidden and ordered cards


def names(found: Machine) -> list[str]:
    return [gpu.name.split()[-1] for gpu in found.gpus]


TWO = [RTX_3090, RTX_4090]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ["4090", "3090"]),
        ({"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, ["4090", "3090"]),
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, ["3090", "4090"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, []),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, []),
        ({"CUDA_VISIBLE_DEVICES": "0"}, ["4090"]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["3090"]),
        ({"CUDA_VISIBLE_DEVICES": " 1 , 0 "}, ["3090", "4090"]),
        ({"CUDA_VISIBLE_DEVICES": "1,0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, ["4090", "3090"]),
        ({"CUDA_VISIBLE_DEVICES": "1,-1,0"}, ["3090"]),
        ({"CUDA_VISIBLE_DEVICES": "1,7,0"}, ["3090"]),
        ({"CUDA_VISIBLE_DEVICES": "0,0"}, ["4090"]),
        ({"CUDA_VISIBLE_DEVICES": RTX_3090.uuid}, ["3090"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-4090"}, ["4090"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-"}, []),
        ({"CUDA_VISIBLE_DEVICES": "GPU-3090,GPU-ffff,GPU-4090"}, ["3090"]),
    ],
)
def test_cuda_sees_what_its_variables_say(
    machine: Any, environ: dict[str, str], expected: list[str]
) -> None:
    found = machine(TWO, environ)
    assert names(found) == expected
    assert [gpu.id for gpu in found.gpus] == [f"GPU{n}" for n in range(len(expected))]
    assert [gpu.engine_name for gpu in found.gpus] == [f"CUDA{n}" for n in range(len(expected))]
    assert found.warnings == (), "a hidden card is hidden on purpose"


def test_equal_cards_stay_in_bus_order(machine: Any) -> None:
    twin = replace(RTX_3090, uuid="GPU-b", bus_id="00000000:02:00.0")
    found = machine([twin, RTX_3090])
    assert [gpu.uuid for gpu in found.gpus] == [RTX_3090.uuid, "GPU-b"]


def test_processes_of_hidden_cards_are_not_shown(machine: Any) -> None:
    busy = replace(RTX_4090, compute=[(1, GIB)])
    assert machine([RTX_3090, busy], {"CUDA_VISIBLE_DEVICES": "1"}).processes == ()


# ---------------------------------------------------------------- MIG

PARTS = [
    FakeCard(name="NVIDIA H100 MIG 3g.40gb", uuid="MIG-aaaa", total=40 * GIB, used=0),
    FakeCard(name="NVIDIA H100 MIG 2g.20gb", uuid="MIG-bbbb", total=20 * GIB, used=0),
]


def test_of_mig_instances_cuda_uses_the_first(machine: Any) -> None:
    (gpu,) = machine([replace(H100, mig=PARTS)]).gpus
    assert (gpu.name, gpu.total, gpu.uuid) == ("NVIDIA H100 MIG 3g.40gb", 40 * GIB, "MIG-aaaa")
    assert H100.total is not None
    assert gpu.bandwidth == pytest.approx(3350e9 * 40 * GIB / H100.total, rel=0.01)
    assert gpu.compute_capability == (9, 0)


def test_a_named_mig_instance(machine: Any) -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "MIG-bbbb"}
    (gpu,) = machine([replace(H100, mig=PARTS)], environ).gpus
    assert gpu.total == 20 * GIB


def test_mig_without_instances_is_no_gpu(machine: Any) -> None:
    assert machine([replace(H100, mig=[])]).gpus == ()


# ---------------------------------------------------------------- the engine's build


def test_a_cpu_engine_leaves_the_gpu_with_the_command_that_helps(machine: Any) -> None:
    found = machine([RTX_3090], backends=["rpc"])
    assert found.gpus == ()
    (warning,) = found.warnings
    assert "NVIDIA GeForce RTX 3090" in warning
    assert (
        f'CMAKE_ARGS="-DGGML_CUDA=on" pip install --force-reinstall --no-cache-dir "{REQUIREMENT}"'
    ) in warning


def test_the_command_on_windows_is_powershells(machine: Any) -> None:
    (warning,) = machine([RTX_3090], backends=[], platform="win32").warnings
    assert '$env:CMAKE_ARGS="-DGGML_CUDA=on"; pip install' in warning


def test_an_amd_card_beside_a_cpu_engine(machine: Any, tmp_path: Path) -> None:
    card = "sys/class/drm/card1/device"
    files = {f"{card}/vendor": "0x1002\n", f"{card}/mem_info_vram_total": str(16 * GIB)}
    write_files(tmp_path, files)
    (warning,) = machine(backends=[]).warnings
    assert "-DGGML_VULKAN=on" in warning


def test_an_engine_of_unknown_build_is_trusted(machine: Any, tmp_path: Path) -> None:
    """One library with everything inside: its files do not tell, so there is no warning."""
    folder = tmp_path / "one"
    write_files(folder, {"libllama.so": ""})
    found = machine([RTX_3090], library_folder=folder)
    assert len(found.gpus) == 1
    assert found.warnings == ()


def test_a_vulkan_engine_is_asked_and_completed_by_nvml(machine: Any) -> None:
    listed = Device(
        "GPU0", "gpu", "Vulkan", RTX_3090.name, 24 * GIB, 22 * GIB, 0, engine_name="Vulkan0"
    )
    (gpu,) = machine([RTX_3090], backends=["vulkan"], ask=lambda _: EngineAnswer((listed,))).gpus
    assert (gpu.backend, gpu.free) == ("Vulkan", 22 * GIB)
    assert gpu.bandwidth == pytest.approx(936e9, rel=0.01)
    assert gpu.uuid == RTX_3090.uuid
    assert gpu.compute_capability is None
    assert gpu.reserve == 512 * MIB


def test_two_equal_cards_of_the_engines_list_keep_their_own_names(machine: Any) -> None:
    twin = replace(RTX_3090, uuid="GPU-b", bus_id="00000000:02:00.0", used=5 * GIB)
    listed = tuple(
        Device(f"GPU{n}", "gpu", "CUDA", RTX_3090.name, 24 * GIB, 22 * GIB, 0) for n in range(2)
    )
    server = Device("GPU2", "rpc", "RPC", "host:1", GIB, GIB, 0)
    found = machine(
        [RTX_3090, twin], rpc_servers=["host:1"], ask=lambda _: EngineAnswer((*listed, server))
    )
    assert [gpu.uuid for gpu in found.gpus] == [RTX_3090.uuid, "GPU-b", ""]
    assert [gpu.free for gpu in found.gpus] == [23 * GIB, 19 * GIB, GIB]


def test_metal_shares_the_hosts_memory(machine: Any) -> None:
    listed = Device(
        "GPU0", "gpu", "Metal", "Apple M2 Max", 48 * GIB, 47 * GIB, 0,
        engine_name="MTL0", unified=True,
    )  # fmt: skip
    (gpu,) = machine(backends=["metal"], ask=lambda _: EngineAnswer((listed,))).gpus
    assert gpu.unified
    assert gpu.total == 48 * GIB
    assert gpu.bandwidth == 400e9


def test_a_card_that_only_the_engine_knows_is_recognised(machine: Any) -> None:
    listed = Device(
        "GPU0", "gpu", "Vulkan", "AMD Radeon RX 7900 XT (RADV NAVI31)", 20 * GIB, 19 * GIB, 0
    )
    (gpu,) = machine(backends=["vulkan"], ask=lambda _: EngineAnswer((listed,))).gpus
    assert (gpu.bandwidth, gpu.bandwidth_source) == (800e9, "data sheet")
    assert gpu.name == listed.name
    unknown = replace(listed, name="AMD Radeon Graphics (RADV GFX1200)")
    (gpu,) = machine(backends=["vulkan"], ask=lambda _: EngineAnswer((unknown,))).gpus
    assert (gpu.bandwidth, gpu.bandwidth_source) == (450e9, "assumed"), "as its size usually has"


def test_what_is_not_known_of_a_machine_is_told(machine: Any) -> None:
    assert machine([RTX_3090], host_bandwidth=50e9).assumed == ()
    assert machine([RTX_3090]).assumed == ("RAM at 64 GB/s",)
    listed = Device("GPU0", "gpu", "Vulkan", "Something New", 16 * GIB, 15 * GIB, 0)
    found = machine(backends=["vulkan"], ask=lambda _: EngineAnswer((listed,)), host_bandwidth=50e9)
    assert found.assumed == ("GPU0 at 450 GB/s, the usual of 16.0 GiB, PCIe at 20 GB/s",)


def test_a_crashed_probe_is_a_warning(machine: Any) -> None:
    problem = EngineAnswer(problem="the engine could not list its devices (status -11)")
    found = machine(backends=["vulkan"], ask=lambda _: problem)
    assert found.gpus == ()
    assert "status -11" in found.warnings[0]


def test_rpc_servers_are_asked_for(machine: Any) -> None:
    asked: list[Sequence[str]] = []

    def ask(servers: Sequence[str]) -> EngineAnswer:
        asked.append(servers)
        return EngineAnswer(
            (
                Device("GPU0", "rpc", "RPC", "127.0.0.1:50052", 8 * GIB, 7 * GIB, 0),
                Device("GPU1", "gpu", "CUDA", RTX_3090.name, 24 * GIB, 23 * GIB, 0),
            )
        )

    far, near = machine([RTX_3090], rpc_servers=["127.0.0.1:50052"], ask=ask).gpus
    assert asked == [["127.0.0.1:50052"]]
    assert (far.kind, far.overhead) == ("rpc", 0)
    assert near.bandwidth == pytest.approx(936e9, rel=0.01)
    assert near.compute_capability == (8, 6)


# ---------------------------------------------------------------- live figures


def test_used_memory_is_read_live(machine: Any) -> None:
    found = machine(TWO, {"CUDA_VISIBLE_DEVICES": "1"})
    later = FakeNvml([replace(RTX_3090, used=9 * GIB), RTX_4090])
    assert devices.gpu_used_bytes(found, later) == {"GPU0": 9 * GIB}
    assert devices.gpu_readings(found, later)["GPU0"] == Reading(9 * GIB, 24 * GIB, 45, 31.5)
    silent = FakeNvml([replace(RTX_3090, temperature=None, power=None)])
    assert devices.gpu_readings(found, silent)["GPU0"] == Reading(GIB, 24 * GIB, None, None)
    gone = FakeNvml([RTX_4090])
    assert devices.gpu_used_bytes(found, gone) == {}
    assert devices.gpu_used_bytes(stated([GIB], GIB)) == {}


def test_mapped_files_of_the_model_s_process_count_as_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system takes them for free, and a model that runs on the CPU is made of them. A process
    that is gone counts for nothing, and more than there is cannot be used."""
    memory = SimpleNamespace(total=16 * GIB, available=12 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(host, "within_limits", lambda total, free: (total, free))
    mapped = {1: 3 * GIB, 2: 30 * GIB}

    def process(pid: int) -> Any:
        if pid not in mapped:
            raise psutil.NoSuchProcess(pid)
        return SimpleNamespace(memory_info=lambda: SimpleNamespace(shared=mapped[pid]))

    monkeypatch.setattr(psutil, "Process", process)
    used = [devices.ram_used(pid)[0] for pid in (None, 1, 2, 3)]
    assert used == [4 * GIB, 7 * GIB, 16 * GIB, 4 * GIB]
    assert devices.ram_used()[1] == 16 * GIB


def test_this_machine_can_be_measured() -> None:
    """Whatever the tests run on: no exception, and memory that makes sense."""
    found = devices.measure(ask=must_not_ask, library_folder=Path("/nonexistent"))
    assert 0 < found.host.free <= found.host.total
    assert found.physical_cores >= 1
