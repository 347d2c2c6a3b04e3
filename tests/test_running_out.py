"""Memory that runs out, with the real engine under limits that are real."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.launches import run
from tuner.demo import demo_model_path
from tuner.engine.client import EngineClient
from tuner.engine.worker_process import WORKER_COMMAND
from tuner.launch import Launcher, Retry
from tuner.machine.host import HostState, most_of_a_process
from tuner.profiles.profiles import Profiles
from tuner.units import MIB
from tuner.wishes import LaunchRequest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")

LIMITED = """
import os, resource, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
os.execv(sys.argv[2], sys.argv[2:])
"""


def under(limit: int, command: tuple[str, ...]) -> tuple[str, ...]:
    """The command in a process with so many bytes of address space."""
    return (sys.executable, "-c", LIMITED, str(limit), *command)


def beside() -> int:
    """What is counted of them for a process without a model."""
    most = 1 << 40
    return most - (most_of_a_process(replace(HostState.now(), may_map=most)) or 0)


def test_a_limit_that_is_told_is_planned_for() -> None:
    """The model, which would have 293 MiB, is loaded at once into 220."""
    options = ["-p", "Hi", "--max-tokens", "4", "--no-profile"]
    command = (sys.executable, "-m", "tui.start", str(demo_model_path()), *options)
    done = subprocess.run(
        under(beside() + 220 * MIB, command),
        # as threads happen to meet, malloc sets 64 MiB of addresses aside for one of them
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Out of memory" not in done.stderr


def test_a_limit_that_nobody_tells_is_learned(tmp_path: Path) -> None:
    """The worker alone is limited: the ladder is walked down to what fits, and the next launch
    begins there."""
    limit = beside() + 150 * MIB

    def launched(name: str) -> tuple[list[object], int]:
        client = EngineClient(tmp_path / f"{name}.log", command=under(limit, WORKER_COMMAND))
        events, running = run(Launcher(LaunchRequest(demo_model_path()), client).start())
        running.close()
        told = [event for event in events if isinstance(event, Retry)]
        return [*told], running.plan.chosen.footprint.host.total

    retries, worked = launched("first")
    assert retries
    (learned,) = Profiles().machine_facts().shortfalls.values()
    assert learned.worked == worked < learned.failed
    again, size = launched("second")
    assert again == []
    assert 0.9 * worked <= size <= worked
