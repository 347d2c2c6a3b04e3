"""The machine as data: devices, free memory, who else uses it. `measure.py` measures one;
tests and `--vram` write one down instead."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Process:
    """Another process that holds memory of a GPU."""

    pid: int
    name: str
    device: str  # Device.id
    used: int  # bytes


@dataclass(frozen=True, slots=True)
class Device:
    """A place where layers can live. Sizes in bytes, bandwidth in bytes/s, compute in FLOP/s."""

    id: str  # "GPU0", "GPU1", ..., "host"; the engine's order
    kind: str  # "gpu" | "host" | "rpc"
    backend: str  # "CUDA" | "Metal" | "Vulkan" | "ROCm" | "SYCL" | "RPC" | "CPU"
    name: str
    total: int
    free: int  # free now, before our own driver context
    reserve: int  # bytes to leave free
    overhead: int = 0  # driver context and the like that a load costs beside its buffers
    overhead_source: str = "assumed"  # "measured" after a load on this machine
    bandwidth: float = 0.0
    bandwidth_source: str = "assumed"
    flops: float = 0.0  # usable dense f16 FLOP/s for prompt processing
    compute_capability: tuple[int, int] | None = None  # CUDA only
    pcie_bandwidth: float = 0.0  # host to device, bytes/s
    engine_name: str = ""  # the engine's own name for it ("CUDA0"), where known
    unified: bool = False  # shares the host's memory (Metal, integrated GPUs)
    source: str = "measured"  # "measured" | "stated" (--vram) | "assumed"
    uuid: str = ""  # names this very card across runs, where it has such a name

    @property
    def budget(self) -> int:
        """Bytes that a plan may use here, overhead included."""
        return max(0, self.free - self.reserve)


@dataclass(frozen=True, slots=True)
class Machine:
    """All devices, GPUs first in the engine's order, the host last."""

    gpus: tuple[Device, ...]
    host: Device
    processes: tuple[Process, ...] = ()
    physical_cores: int = 1
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # how it was measured, where that says something
    left_out: tuple[Device, ...] = ()  # GPUs with too little room to be of use
    engine_version: str | None = None  # of the installed llama-cpp-python; None: none, or unknown

    @property
    def devices(self) -> tuple[Device, ...]:
        return (*self.gpus, self.host)
