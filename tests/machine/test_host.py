"""RAM and cores within control groups of either version."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_hardware import DESKTOP, write_files
from tuner.machine.control_groups import oom_kills
from tuner.machine.host import (
    HostState,
    default_reserve,
    f16_step,
    fast_cores,
    host_device,
    measure_bandwidth,
    most_of_a_process,
    other_threads,
    usable_cores,
)
from tuner.units import GIB, MIB

V2 = "sys/fs/cgroup"
UNLIMITED_V1 = "9223372036854771712"


def test_without_limits(tmp_path: Path) -> None:
    host = host_device(DESKTOP, tmp_path)
    assert (host.total, host.free) == (64 * GIB, 48 * GIB)
    assert host.budget == 48 * GIB - 64 * GIB // 10
    assert usable_cores(DESKTOP, tmp_path) == 8
    assert (host.bandwidth, host.bandwidth_source) == (64e9, "assumed")


def test_a_measured_bandwidth_is_used(tmp_path: Path) -> None:
    host = host_device(DESKTOP, tmp_path, bandwidth=55e9)
    assert (host.bandwidth, host.bandwidth_source) == (55e9, "measured")


@pytest.mark.parametrize(
    ("total", "reserve"), [(64 * GIB, 64 * GIB // 10), (8 * GIB, GIB), (GIB, GIB)]
)
def test_reserve(total: int, reserve: int) -> None:
    assert default_reserve(total) == reserve


def test_version_2_limit_of_an_outer_group(tmp_path: Path) -> None:
    """The inner group has no limit of its own; cached file pages do not count as used."""
    root = write_files(
        tmp_path,
        {
            "proc/self/cgroup": "0::/user.slice/app.scope\n",
            f"{V2}/user.slice/memory.max": str(10 * GIB),
            f"{V2}/user.slice/memory.current": str(7 * GIB),
            f"{V2}/user.slice/memory.stat": f"anon {2 * GIB}\nactive_file {GIB}\n"
            f"inactive_file {4 * GIB}\n",
            f"{V2}/user.slice/app.scope/memory.max": "max\n",
            f"{V2}/user.slice/app.scope/memory.current": str(GIB),
            f"{V2}/user.slice/cpu.max": "max 100000\n",
            f"{V2}/user.slice/app.scope/cpu.max": "250000 100000\n",
        },
    )
    host = host_device(DESKTOP, root)
    assert (host.total, host.free) == (10 * GIB, 8 * GIB)
    assert usable_cores(DESKTOP, root) == 2


def test_version_2_in_a_container(tmp_path: Path) -> None:
    """The group's path is the host's and does not exist inside: the mount's root counts."""
    root = write_files(
        tmp_path,
        {
            "proc/self/cgroup": "0::/system.slice/docker-abc.scope\n",
            f"{V2}/memory.max": str(4 * GIB),
            f"{V2}/memory.current": str(GIB),
            f"{V2}/cpu.max": "50000 100000\n",
        },
    )
    host = host_device(DESKTOP, root)
    assert (host.total, host.free) == (4 * GIB, 3 * GIB)
    assert usable_cores(DESKTOP, root) == 1, "half a CPU still runs one thread"


def test_version_1(tmp_path: Path) -> None:
    memory = f"{V2}/memory/docker/abc"
    root = write_files(
        tmp_path,
        {
            "proc/self/cgroup": "7:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n",
            f"{memory}/memory.limit_in_bytes": str(6 * GIB),
            f"{memory}/memory.usage_in_bytes": str(5 * GIB),
            f"{memory}/memory.stat": f"inactive_file 1\ntotal_inactive_file {2 * GIB}\n",
            f"{V2}/memory/memory.limit_in_bytes": UNLIMITED_V1,
            f"{V2}/memory/memory.usage_in_bytes": str(30 * GIB),
            f"{V2}/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "400000",
            f"{V2}/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000",
            f"{V2}/cpu,cpuacct/cpu.cfs_quota_us": "-1",
            f"{V2}/cpu,cpuacct/cpu.cfs_period_us": "100000",
        },
    )
    host = host_device(DESKTOP, root)
    assert (host.total, host.free) == (6 * GIB, 3 * GIB)
    assert usable_cores(DESKTOP, root) == 4


def test_version_1_without_a_limit(tmp_path: Path) -> None:
    root = write_files(
        tmp_path,
        {
            "proc/self/cgroup": "7:memory:/\n",
            f"{V2}/memory/memory.limit_in_bytes": UNLIMITED_V1,
            f"{V2}/memory/memory.usage_in_bytes": str(60 * GIB),
        },
    )
    assert host_device(DESKTOP, root).free == 48 * GIB


def test_a_full_group_has_nothing_free(tmp_path: Path) -> None:
    root = write_files(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            f"{V2}/memory.max": str(GIB),
            f"{V2}/memory.current": str(2 * GIB),
        },
    )
    assert host_device(DESKTOP, root).free == 0


@pytest.mark.parametrize(
    ("files", "killed"),
    [
        ({f"{V2}/a/memory.events.local": "oom 3\noom_kill 2\n"}, 2),
        ({f"{V2}/a/memory.events": "low 0\noom_kill 1\noom_group_kill 0\n"}, 1),
        ({f"{V2}/memory/a/memory.oom_control": "oom_kill_disable 0\noom_kill 4\n"}, 4),
        ({f"{V2}/memory/a/memory.oom_control": "oom_kill_disable 0\n"}, None),
        ({}, None),
    ],
)
def test_the_kernel_says_what_it_kills_for_memory(
    tmp_path: Path, files: dict[str, str], killed: int | None
) -> None:
    group = "0::/a\n" if not any("oom_control" in name for name in files) else "4:memory:/a\n"
    root = write_files(tmp_path, {"proc/self/cgroup": group, **files})
    assert oom_kills(root) == killed


@pytest.mark.parametrize("text", ["", "nonsense", "0::", ":::", "1:memory"])
def test_unreadable_groups_are_no_limit(tmp_path: Path, text: str) -> None:
    root = write_files(tmp_path, {"proc/self/cgroup": text, f"{V2}/memory.max": "many"})
    assert host_device(DESKTOP, root).free == 48 * GIB


def test_affinity_bounds_the_cores(tmp_path: Path) -> None:
    assert usable_cores(replace(DESKTOP, allowed_cpus=3), tmp_path) == 3


@pytest.mark.parametrize("n_threads", [1, 2, 64])
def test_bandwidth_is_measured_quickly_or_not_at_all(n_threads: int) -> None:
    """Under 0.3 s on a machine that is not busy; here others may be."""
    start = time.perf_counter()
    found = measure_bandwidth(n_threads)
    assert found is None or 1e8 < found < 1e13
    assert time.perf_counter() - start < 5


def test_who_does_not_have_the_cores_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that worked for half of the time shared their core: such a figure would stay."""
    monkeypatch.setattr(time, "thread_time", lambda: time.perf_counter() / 2)
    assert measure_bandwidth(1) is None
    monkeypatch.setattr(time, "thread_time", time.perf_counter)
    assert (measure_bandwidth(1) or 0) > 1e8


def test_without_memory_nothing_is_measured() -> None:
    assert measure_bandwidth(2, share=1 << 60) is None


def test_a_measured_bandwidth_says_so() -> None:
    found = host_device(DESKTOP, bandwidth=77e9)
    assert (found.bandwidth, found.bandwidth_source) == (77e9, "measured")
    assert host_device(DESKTOP).bandwidth_source == "assumed"


@pytest.mark.parametrize(
    ("name", "gib", "expected"),
    [
        ("Apple M2 Max", 96, 400e9),
        ("Apple M3 Max", 36, 300e9),
        ("AMD RYZEN AI MAX+ 395 w/ Radeon 8060S", 128, 256e9),
    ],
)
def test_the_ram_of_a_chip_that_is_known(
    name: str, gib: int, expected: float, tmp_path: Path
) -> None:
    """By the table of cards, where the GPU of the chip reads the same RAM; what was measured
    counts before it."""
    state = HostState(gib * GIB, gib * GIB, 12, 12, name)
    known = host_device(state, tmp_path)
    assert (known.bandwidth, known.bandwidth_source) == (expected, "data sheet")
    measured = host_device(state, tmp_path, 99e9)
    assert (measured.bandwidth, measured.bandwidth_source) == (99e9, "measured")


FAST = "sys/devices/cpu_core/cpus"


def hybrid(root: Path, listed: str, n_cores: int = 6) -> Path:
    """An Intel CPU of which `listed` logical CPUs are fast ones, two to a core."""
    topology = {
        f"sys/devices/system/cpu/cpu{n}/topology/core_id": str(n // 2) for n in range(2 * n_cores)
    }
    return write_files(root, {FAST: f"{listed}\n", **topology})


@pytest.mark.skipif(sys.platform == "darwin", reason="asks macOS")
@pytest.mark.parametrize(
    ("listed", "cores"),
    [
        ("0-11", 6),
        ("0-3,6,7", 3),
        ("5", 1),
        ("", 0),
        ("0-", 0),
        ("none", 0),
        ("0-99999999999", 4091),
    ],
)
def test_fast_cores_are_counted_once_each(listed: str, cores: int, tmp_path: Path) -> None:
    """Not their threads. What is no list of CPUs says nothing, and no list takes long to read."""
    assert fast_cores(hybrid(tmp_path, listed)) == cores


@pytest.mark.skipif(sys.platform == "darwin", reason="asks macOS")
@pytest.mark.parametrize(
    ("state", "listed", "threads"),
    [
        (DESKTOP, "", 16),  # 8 cores with two threads each
        (replace(DESKTOP, allowed_cpus=8), "", 7),
        (replace(DESKTOP, physical_cores=12, allowed_cpus=18), "0-11", 6),  # 6 fast, 6 slow cores
        (replace(DESKTOP, physical_cores=1, allowed_cpus=1), "", 0),
    ],
)
def test_another_number_of_threads(
    state: HostState, listed: str, threads: int, tmp_path: Path
) -> None:
    assert other_threads(state, hybrid(tmp_path, listed)) == threads


def test_a_quota_bounds_the_other_threads_too(tmp_path: Path) -> None:
    """Of 16 logical CPUs a group may use 10."""
    files = {"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "1000000 100000\n"}
    assert other_threads(DESKTOP, write_files(tmp_path, files)) == 10


@pytest.mark.parametrize(
    ("flags", "step"),
    [("fma avx2", 32), ("avx2 avx512f", 64), ("avx2 avx512f avx512_fp16", 128), (None, 32)],
)
def test_how_much_a_step_of_the_engine_takes_is_the_cpu_s(
    flags: str | None, step: int, tmp_path: Path
) -> None:
    (tmp_path / "proc").mkdir()
    if flags:
        (tmp_path / "proc/cpuinfo").write_text(f"model name\t: CPU\nflags\t\t: fpu {flags}\n")
    assert f16_step(tmp_path) == step
    assert host_device(DESKTOP, tmp_path).f16_step == step


@pytest.mark.parametrize("limits", [{"may_map": 8 * GIB}, {"may_have": 8 * GIB}])
def test_the_limits_of_a_process(limits: dict[str, Any], tmp_path: Path) -> None:
    """Address space and data (`ulimit`): what is left of them beside the process itself, where
    that is less than what is free."""
    state = replace(DESKTOP, **limits)
    most = most_of_a_process(state, tmp_path)
    assert most is not None
    assert 6 * GIB < most < 8 * GIB
    host = host_device(state, tmp_path)
    assert (host.total, host.budget) == (most, most)
    poor = replace(state, available=7 * GIB + 100 * MIB)  # the system's reserve comes first
    assert host_device(poor, tmp_path).budget == poor.available - poor.total // 10
    tiny = replace(DESKTOP, may_map=GIB // 8)
    assert host_device(tiny, tmp_path).budget == 0
