"""The host as a device: memory and cores that this process may really use."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tuner.machine.cards import row_of
from tuner.machine.control_groups import cpu_quotas, memory_limits, text_in
from tuner.machine.machine import Device
from tuner.units import GIB, MIB

# On paper: between two channels of DDR4-3200 (51 GB/s) and of DDR5-5600 (90 GB/s).
ASSUMED_BANDWIDTH = 64e9
# FLOP/s that a core with 256-bit vectors gives llama.cpp's quantized matrix products: 55e9 to 90e9
# in what owners of desktops measured.
ASSUMED_FLOPS_PER_CORE = 80e9

# What a model process takes of its limits (`ulimit`) beside a model, and for each thread: libraries
# and vocabulary, stacks. The least with which models of 49k and 262k tokens were loaded, with 2 and
# 8 threads (glibc, x86-64), and a little more.
_MAPPED, _DATA, _BY_THREAD = 430 * MIB, 130 * MIB, 8 * MIB

# How bandwidth is measured: more threads than these hardly bring more, less memory lies in caches.
_MOST_THREADS = 16
_SHARE = 8 * MIB
_LEAST_BYTES = 64 * MIB
_SECONDS = 0.05
# What part of its time a thread must have had its core for, and the clock that can tell: that of
# Windows counts in 1/64 s.
_UNDISTURBED = 0.9
_FINE_CLOCK = 1e-4  # seconds
_TELLS_WORK = time.get_clock_info("thread_time").resolution < _FINE_CLOCK


@dataclass(frozen=True, slots=True)
class HostState:
    """What psutil says, before any limit. Sizes in bytes; tests write one down."""

    total: int
    available: int
    physical_cores: int
    allowed_cpus: int  # logical CPUs of this process's affinity
    name: str = "CPU"
    # Bytes that a process of ours may map, and have for itself (RLIMIT_AS, RLIMIT_DATA); None: any
    may_map: int | None = None
    may_have: int | None = None

    @classmethod
    def now(cls) -> HostState:
        memory = psutil.virtual_memory()
        logical = psutil.cpu_count() or 1
        try:
            allowed = len(os.sched_getaffinity(0))
        except AttributeError:  # macOS, Windows
            allowed = logical
        return cls(
            total=memory.total,
            available=memory.available,
            physical_cores=psutil.cpu_count(logical=False) or logical,
            allowed_cpus=allowed,
            name=cpu_name(),
            may_map=_process_limit("RLIMIT_AS"),
            may_have=_process_limit("RLIMIT_DATA"),
        )


def cpu_name(root: Path = Path("/")) -> str:
    """The processor as its maker calls it, or at least its architecture."""
    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.machine()
    for line in text_in(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "CPU"


def f16_step(root: Path = Path("/")) -> int:
    """Elements of an f16 vector that a step of ggml's loops takes when it was built for this CPU
    (`GGML_F16_STEP`, ggml-cpu/simd-mappings.h); what they leave over goes one by one."""
    for line in text_in(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            flags = value.split()
            return 128 if "avx512_fp16" in flags else 64 if "avx512f" in flags else 32
    return 32


def _sysctl(name: str) -> str:
    """A value of macOS's; "" where it has none of that name."""
    command = ["/usr/sbin/sysctl", "-n", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=2, check=True)
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def default_reserve(total: int) -> int:
    """Bytes of RAM to leave to the system: a tenth, at least 1 GiB."""
    return max(total // 10, GIB)


def host_device(state: HostState, root: Path = Path("/"), bandwidth: float | None = None) -> Device:
    """The host, within the limits of its control group. `root` is where /proc and /sys lie;
    `bandwidth` a measured one, in bytes/s."""
    total, free = within_limits(state.total, state.available, root)
    reserve = default_reserve(total)
    most = most_of_a_process(state, root)
    if most is not None and most < free - reserve:  # what the system keeps is in nobody's way then
        total, free, reserve = most, most, 0
    cores = usable_cores(state, root)
    chip = row_of(state.name, state.total)  # one that has its GPU beside it, on the same RAM
    sheet = chip.bandwidth if chip and chip.unified else None
    known = bandwidth or sheet
    return Device(
        id="host",
        kind="host",
        backend="CPU",
        name=state.name,
        total=total,
        free=free,
        reserve=reserve,
        bandwidth=known or ASSUMED_BANDWIDTH,
        bandwidth_source="measured" if bandwidth else "data sheet" if sheet else "assumed",
        flops=assumed_flops(cores),
        f16_step=f16_step(root),
        engine_name="CPU",
    )


def within_limits(total: int, available: int, root: Path = Path("/")) -> tuple[int, int]:
    """Bytes of RAM in all and free, where the system has these, within the control group."""
    most, free = total, available
    for limit, used in memory_limits(root):
        if limit < total:
            most = min(most, limit)
            free = min(free, max(0, limit - used))
    return most, free


def free_ram() -> int:
    """Bytes of RAM that this process and its children may take now."""
    memory = psutil.virtual_memory()
    return within_limits(memory.total, memory.available)[1]


def most_of_a_process(state: HostState, root: Path = Path("/")) -> int | None:
    """Bytes of RAM that a model may take by the limits of its process, whatever is free; None: it
    has no such limits. Weights count in both, though a mapped file is not the process's own."""
    threads = usable_cores(state, root)
    found = []
    if state.may_map is not None:
        found.append(state.may_map - _MAPPED)
    if state.may_have is not None:
        found.append(state.may_have - _DATA)
    return max(0, min(found) - threads * _BY_THREAD) if found else None


def _process_limit(kind: str) -> int | None:
    try:
        import resource  # noqa: PLC0415 - POSIX
    except ImportError:
        return None
    most, _ = resource.getrlimit(getattr(resource, kind))
    return None if most in (resource.RLIM_INFINITY, -1) else int(most)


def assumed_flops(cores: int) -> float:
    """FLOP/s of so many cores."""
    return ASSUMED_FLOPS_PER_CORE * cores


def usable_cores(state: HostState, root: Path = Path("/")) -> int:
    """Physical cores, bounded by affinity and by the control group's CPU quota; at least 1."""
    cores = min(state.physical_cores, state.allowed_cpus)
    for quota in cpu_quotas(root):
        cores = min(cores, int(quota))
    return max(1, cores)


def other_threads(state: HostState, root: Path = Path("/")) -> int:
    """A number of threads that may decode faster than one per physical core: the fast cores alone
    where there are slow ones, else all that run at once on these cores, else one fewer; 0: there
    is none."""
    cores = usable_cores(state, root)
    fast = fast_cores(root)
    if 0 < fast < cores:
        return fast
    at_once = min([state.allowed_cpus, *map(int, cpu_quotas(root))])
    return at_once if at_once > cores else cores - 1


def fast_cores(root: Path = Path("/")) -> int:
    """Cores of the faster kind on a CPU that has two; 0 where all are alike or nobody says.
    Untested on macOS: none at hand."""
    if sys.platform == "darwin":
        return int(_sysctl("hw.perflevel0.physicalcpu") or 0)
    cpus = root / "sys/devices/system/cpu"
    # What the kernel calls the faster kind of Intel's, as ranges like 0-11,14.
    listed = text_in(root / "sys/devices/cpu_core/cpus").strip()
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", listed):
        return 0
    numbers: set[int] = set()
    for part in listed.split(","):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), min(int(last or first), 4096) + 1))
    return len({text_in(cpus / f"cpu{n}/topology/core_id") or str(n) for n in numbers})


def measure_bandwidth(n_threads: int, share: int = _SHARE) -> float | None:
    """Bytes/s that so many threads together read from memory, as decoding does; one alone mostly
    gets less. None where it cannot be told now: there is no memory to try it with, or others were
    using the cores.

    Takes 0.1 to 0.2 s and `2 * share` bytes per thread, which must be more than its core's caches
    hold.
    """
    n_threads = max(1, min(n_threads, _MOST_THREADS))
    share = max(share, _LEAST_BYTES // n_threads)
    meet = threading.Barrier(n_threads)
    compared = _memcmp()

    def touched() -> tuple[Any, Any]:
        # Memory that nobody has written to yet is one page of zeros.
        pair = (ctypes.c_char * share)(), (ctypes.c_char * share)()
        for buffer in pair:
            ctypes.memset(buffer, 1, share)
        return pair

    def read(pair: tuple[Any, Any]) -> tuple[float, float, float]:
        meet.wait()
        start, worked = time.perf_counter(), time.thread_time()
        compared(*pair, share)  # lets go of the interpreter's lock, and finds no difference
        worked = time.thread_time() - worked
        return start, time.perf_counter(), worked

    best: float | None = None
    try:
        with ThreadPoolExecutor(n_threads) as pool:
            pairs = [f.result() for f in [pool.submit(touched) for _ in range(n_threads)]]
            until = time.perf_counter() + _SECONDS
            while time.perf_counter() < until:
                times = list(pool.map(read, pairs))
                seconds = max(end for _, end, _ in times) - min(start for start, _, _ in times)
                busy = any(worked < _UNDISTURBED * (end - start) for start, end, worked in times)
                if not (busy and _TELLS_WORK) and (best is None or seconds < best):
                    best = seconds
    except (MemoryError, RuntimeError):  # no memory, no more threads
        meet.abort()
        return None
    return best and 2 * share * n_threads / best


def _memcmp() -> Callable[[Any, Any, int], int]:
    """The C library's, which reads as fast as it can."""
    library = ctypes.CDLL("msvcrt" if os.name == "nt" else None)
    compared: Callable[[Any, Any, int], int] = library.memcmp
    library.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    return compared
