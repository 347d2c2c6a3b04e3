"""The machine as data: devices, the memory they draw from, who else uses it. `measure.py` measures
one; tests and `--gpu` write one down instead.

Memory is counted in pools. A card has its own, the host has the RAM; a GPU without memory of its
own (Apple, integrated, GB10, Jetson) draws from the RAM too. A plan keeps two kinds of limits: what
each device may have, and what all devices of a pool may have together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tuner.machine.overheads import NO_GROWTH, Growth
from tuner.machine.switches import USUAL, Switches

RAM = "RAM"  # the name of the pool that the host draws from
ASSUMED_PCIE = 20e9  # bytes/s from host to device where a device does not say


@dataclass(frozen=True, slots=True)
class Process:
    """Another process that holds memory of a GPU."""

    pid: int
    name: str
    device: str  # Device.id
    used: int  # bytes


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a device is beside what is computed of it, as loads on this machine have taught."""

    decode: float = 1.0  # reading weights and cache
    prompt: float = 1.0
    attention: float = 1.0  # of the host's cores that unpack a cache (`planning/host_kernels.py`)
    barriers: float = 1.0  # of the host's threads that wait for each other


@dataclass(frozen=True, slots=True)
class Device:
    """A place where layers can live. Sizes in bytes, bandwidth in bytes/s, compute in FLOP/s."""

    id: str  # "GPU0", "GPU1", ..., "host"; the engine's order
    kind: str  # "gpu" | "host" | "rpc"
    backend: str  # a name in backends.BACKENDS, or one of which nothing is known
    name: str
    total: int
    free: int  # free now, before our own driver context
    reserve: int  # bytes to leave free
    overhead: int = 0  # driver context and the like that a load costs beside its buffers
    overhead_most: int = 0  # what that may come to
    overhead_source: str = "assumed"  # "measured" after a load on this machine
    growth: Growth = NO_GROWTH  # more of it, with the first long prompt
    bandwidth: float = 0.0
    bandwidth_source: str = "assumed"  # "computed" | "measured" | "data sheet" | "stated"
    flops: float = 0.0  # dense f16 FLOP/s: a GPU's peak, what the host's cores reach
    n_sm: int = 0  # multiprocessors; 0: not known, or not a CUDA card
    clock: float = 0.0  # Hz, the highest that they run at
    compute_capability: tuple[int, int] | None = None  # CUDA only
    pcie_bandwidth: float = 0.0  # to the device, of a server the network; 0: `ASSUMED_PCIE`
    round_trip: float = 0.0  # seconds until a server over a network has answered
    # of the host: elements of an f16 row that a step of the engine's loops takes (`host.f16_step`)
    f16_step: int = 32
    engine_name: str = ""  # the engine's own name for it ("CUDA0"), where known
    # and for its buffers, where that is another: a server counts its own devices ("RPC0[host:1]")
    buffer_name: str = ""
    device_id: str = ""  # its PCI address, where the engine says it: the same under every backend
    # has no memory of its own: Metal, integrated GPUs, a server that gives out the host's RAM
    unified: bool = False
    # Of `total` and `free` of a unified GPU: what the firmware took from the RAM for it alone
    # before the system saw any (AMD's carve-out), and which `host` therefore does not count.
    carved_out: int = 0
    carved_out_free: int = 0
    source: str = "measured"  # "measured" | "stated" (--gpu, --vram) | "assumed"
    uuid: str = ""  # names this very card across runs, where it has such a name
    pace: Pace = Pace()

    @property
    def budget(self) -> int:
        """Bytes that a plan may use here, overhead included."""
        return max(0, self.free - self.reserve)

    @property
    def draws_from_ram(self) -> bool:
        """Whether what is allocated here is missing in RAM."""
        return self.kind == "host" or (self.unified and self.total > self.carved_out)

    @property
    def pool(self) -> str:
        """The name of the pool that it draws from."""
        return RAM if self.draws_from_ram else self.id


@dataclass(frozen=True, slots=True)
class Pool:
    """Memory that some devices may use together. Sizes in bytes."""

    name: str  # the id of its one device, or RAM
    devices: tuple[int, ...]  # places in `Machine.devices`
    total: int
    free: int
    reserve: int

    @property
    def budget(self) -> int:
        """Bytes that a plan may use of it, on all these devices together."""
        return max(0, self.free - self.reserve)


@dataclass(frozen=True, slots=True)
class Machine:
    """All devices, GPUs first in the engine's order, the host last."""

    gpus: tuple[Device, ...]
    host: Device
    processes: tuple[Process, ...] = ()
    physical_cores: int = 1
    n_threads: int = 0  # that the engine computes with; 0: one per physical core
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # how it was measured, where that says something
    assumed: tuple[str, ...] = ()  # what was neither measured nor stated, in a few words each
    unusable: tuple[Device, ...] = ()  # GPUs with too little room to be of use
    # Whether the engine has a device for some of the CPU's products (BLAS): then several GPUs are
    # no pipeline (`llama_context`, src/llama-context.cpp).
    accelerated: bool = False
    switches: Switches = USUAL
    engine_version: str | None = None  # of the installed llama-cpp-python; None: none, or unknown

    @property
    def devices(self) -> tuple[Device, ...]:
        return (*self.gpus, self.host)

    @property
    def threads(self) -> int:
        """Threads that the engine computes with."""
        return self.n_threads or max(1, self.physical_cores)

    @property
    def pools(self) -> tuple[Pool, ...]:
        """One per card with memory of its own, then the RAM, which keeps the largest reserve of
        those who draw from it."""
        own = tuple(
            Pool(d.pool, (i,), d.total, d.free, d.reserve)
            for i, d in enumerate(self.devices)
            if not d.draws_from_ram
        )
        users = [d for d in self.devices if d.draws_from_ram]
        ram = Pool(
            RAM,
            tuple(i for i, d in enumerate(self.devices) if d.draws_from_ram),
            self.host.total + sum(d.carved_out for d in users),
            self.host.free + sum(d.carved_out_free for d in users),
            max(d.reserve for d in users),
        )
        return (*own, ram)

    def bounded(self, device_id: str, most: int) -> Machine:
        """The machine with a reserve on one device that leaves no more than `most` bytes to a plan
        there."""
        *gpus, host = (
            replace(d, reserve=max(d.reserve, d.free - most)) if d.id == device_id else d
            for d in self.devices
        )
        return replace(self, gpus=tuple(gpus), host=host)

    @property
    def limits(self) -> tuple[Pool, ...]:
        """All that a plan must keep: what each device may have, be it a pool of its own or as much
        of the RAM as its driver gives it, in the devices' order; then the pool of several."""
        alone = (Pool(d.id, (i,), d.total, d.free, d.reserve) for i, d in enumerate(self.devices))
        return (*alone, *(pool for pool in self.pools if len(pool.devices) > 1))

    def text(self, pool: Pool) -> str:
        """The pool as a sentence names it: "GPU0", "the RAM that GPU0 and host share"."""
        if len(pool.devices) == 1:
            return pool.name
        *others, last = (self.devices[i].id for i in pool.devices)
        return f"the {pool.name} that {', '.join(others)} and {last} share"
