"""Hardware that is not here: a stand-in for the pynvml module, and for /proc and /sys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tuner.machine.host import HostState
from tuner.units import GIB, MIB


@dataclass
class FakeCard:
    """An RTX 3090 with 1 GiB in use, unless told otherwise. None: this driver does not say."""

    name: str = "NVIDIA GeForce RTX 3090"
    uuid: str = "GPU-3090a000-0000-0000-0000-000000000001"
    bus_id: str = "00000000:01:00.0"
    total: int | None = 24 * GIB
    used: int = GIB
    capability: tuple[int, int] | None = (8, 6)
    memory_clock: int | None = 9751  # MHz
    bus_width: int | None = 384  # bits
    cores: int | None = 10496
    sm_clock: int | None = 2100
    pcie: tuple[int, int] | None = (4, 16)
    compute: Sequence[tuple[int, int | None]] = ()  # (pid, bytes)
    graphics: Sequence[tuple[int, int | None]] = ()
    mig: Sequence[FakeCard] | None = None
    temperature: int | None = 45  # °C
    power: int | None = 31_500  # mW


RTX_4090 = FakeCard(
    name="NVIDIA GeForce RTX 4090",
    uuid="GPU-4090b000-0000-0000-0000-000000000002",
    bus_id="00000000:41:00.0",
    capability=(8, 9),
    memory_clock=10501,
    cores=16384,
    sm_clock=2520,
)
H100 = FakeCard(
    name="NVIDIA H100 80GB HBM3",
    uuid="GPU-h100c000-0000-0000-0000-000000000003",
    bus_id="00000000:81:00.0",
    total=81559 * MIB,
    used=0,
    capability=(9, 0),
    memory_clock=2619,
    bus_width=5120,
    cores=16896,
    sm_clock=1980,
    pcie=(5, 16),
)


class NotSupportedError(Exception):
    """What NVML raises for a question that a card or a driver cannot answer."""

    def __str__(self) -> str:
        return "Not Supported"


@dataclass
class FakeNvml:
    """As much of pynvml as is used, over `cards`."""

    cards: Sequence[FakeCard] = ()
    process_names: Mapping[int, str] = field(default_factory=dict)
    init_error: Exception | None = None

    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0

    def nvmlInit(self) -> None:  # noqa: N802
        if self.init_error:
            raise self.init_error

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeCard:  # noqa: N802
        return self.cards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> FakeCard:  # noqa: N802
        parts = [part for card in self.cards for part in (card.mig or ())]
        return next(card for card in [*self.cards, *parts] if card.uuid == uuid)

    def nvmlDeviceGetMemoryInfo(self, card: FakeCard) -> Any:  # noqa: N802
        total = _known(card.total)
        return SimpleNamespace(total=total, used=card.used, free=total - card.used)

    def nvmlDeviceGetTemperature(self, card: FakeCard, sensor: int) -> Any:  # noqa: N802
        assert sensor == self.NVML_TEMPERATURE_GPU
        return _known(card.temperature)

    def nvmlDeviceGetPowerUsage(self, card: FakeCard) -> Any:  # noqa: N802
        return _known(card.power)

    def nvmlDeviceGetCudaComputeCapability(self, card: FakeCard) -> Any:  # noqa: N802
        return _known(card.capability)

    def nvmlDeviceGetPciInfo(self, card: FakeCard) -> Any:  # noqa: N802
        return SimpleNamespace(busId=card.bus_id.encode())

    def nvmlDeviceGetMaxClockInfo(self, card: FakeCard, kind: int) -> Any:  # noqa: N802
        return _known(card.memory_clock if kind == self.NVML_CLOCK_MEM else card.sm_clock)

    def nvmlDeviceGetMemoryBusWidth(self, card: FakeCard) -> Any:  # noqa: N802
        return _known(card.bus_width)

    def nvmlDeviceGetNumGpuCores(self, card: FakeCard) -> Any:  # noqa: N802
        return _known(card.cores)

    def nvmlDeviceGetMaxPcieLinkGeneration(self, card: FakeCard) -> Any:  # noqa: N802
        return _known(card.pcie)[0]

    def nvmlDeviceGetCurrPcieLinkWidth(self, card: FakeCard) -> Any:  # noqa: N802
        return _known(card.pcie)[1]

    def nvmlDeviceGetMaxPcieLinkWidth(self, card: FakeCard) -> Any:  # noqa: N802
        return _known(card.pcie)[1]

    def nvmlDeviceGetUUID(self, card: FakeCard) -> str:  # noqa: N802
        return card.uuid

    def nvmlDeviceGetName(self, card: FakeCard) -> bytes:  # noqa: N802
        return card.name.encode()  # bytes, as older releases give

    def nvmlDeviceGetMigMode(self, card: FakeCard) -> Any:  # noqa: N802
        if card.mig is None:
            raise NotSupportedError
        return (1, 1)

    def nvmlDeviceGetMaxMigDeviceCount(self, card: FakeCard) -> int:  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: FakeCard, index: int) -> Any:  # noqa: N802
        if index >= len(card.mig or ()):
            raise NotSupportedError
        return (card.mig or ())[index]

    def nvmlDeviceGetComputeRunningProcesses(self, card: FakeCard) -> Any:  # noqa: N802
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in card.compute]

    def nvmlDeviceGetGraphicsRunningProcesses(self, card: FakeCard) -> Any:  # noqa: N802
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in card.graphics]

    def nvmlSystemGetProcessName(self, pid: int) -> bytes:  # noqa: N802
        if pid not in self.process_names:
            raise NotSupportedError
        return self.process_names[pid].encode()


def _known(value: Any) -> Any:
    if value is None:
        raise NotSupportedError
    return value


DESKTOP = HostState(
    total=64 * GIB, available=48 * GIB, physical_cores=8, allowed_cpus=16, name="Some CPU"
)


def write_files(root: Path, files: Mapping[str, str]) -> Path:
    """A tree of small files below `root`, as /proc and /sys would show them."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def engine_folder(root: Path, *backends: str) -> Path:
    """An engine's library folder, built with these backends: "cuda", "vulkan", "rpc", ..."""
    folder = root / "engine" / "lib"
    names = ["libllama.so", "libggml.so", "libggml-base.so", "libggml-cpu.so"]
    write_files(folder, dict.fromkeys([*names, *(f"libggml-{b}.so" for b in backends)], ""))
    return folder
