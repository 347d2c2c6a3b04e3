"""What the kernel's control groups allow this process, and what they saw: Linux alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) of this process's groups, innermost first. Cached file pages are not counted
    as used: the kernel gives them back, and a mapped model is made of them."""
    for folder in _groups(root, "memory"):
        if (folder / "memory.max").exists():
            limit, used = number_in(folder / "memory.max"), number_in(folder / "memory.current")
            prefix = ""
        else:
            limit = number_in(folder / "memory.limit_in_bytes")
            used = number_in(folder / "memory.usage_in_bytes")
            prefix = "total_"
        if limit is None:
            continue
        cached = 0
        for line in text_in(folder / "memory.stat").splitlines():
            key, _, value = line.partition(" ")
            if key in (prefix + "inactive_file", prefix + "active_file") and value.isdigit():
                cached += int(value)
        yield limit, max(0, (used or 0) - cached)


def cpu_quotas(root: Path) -> Iterator[float]:
    """How many CPUs' worth of time each of this process's groups may use."""
    for folder in _groups(root, "cpu"):
        quota, _, period = text_in(folder / "cpu.max").strip().partition(" ")
        if not quota:
            quota = text_in(folder / "cpu.cfs_quota_us").strip()
            period = text_in(folder / "cpu.cfs_period_us").strip()
        if quota.isdigit() and period.isdigit() and int(period) > 0:  # else "max" or -1
            yield int(quota) / int(period)


def oom_kills(root: Path = Path("/")) -> int | None:
    """How many processes of this one's own group the kernel has killed for want of memory, the
    group's or the machine's; None: it does not say (before Linux 4.13, or without such groups)."""
    for folder in _groups(root, "memory"):
        for name in ("memory.events.local", "memory.events", "memory.oom_control"):
            for line in text_in(folder / name).splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill" and value.isdigit():
                    return int(value)
    return None


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control groups for one controller: version 2 and 1, from the
    innermost group to the root. In a container the path is often the host's and does not exist
    inside; its limits then stand at the mount's root."""
    mount = root / "sys/fs/cgroup"
    for line in text_in(root / "proc/self/cgroup").splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0" and not controllers:
            tops = [mount, mount / "unified"]
        elif controller in controllers.split(","):
            tops = [mount / controller, mount / controllers]
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        for top in tops:
            for depth in range(len(parts), -1, -1):
                folder = top.joinpath(*parts[:depth])
                if folder.is_dir():
                    yield folder


def text_in(path: Path) -> str:
    """What a file of /proc or /sys holds; "" where it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def number_in(path: Path) -> int | None:
    """The number that a file of /proc or /sys holds, if it is there and holds one."""
    text = text_in(path).strip()
    return int(text) if text.isdigit() else None
