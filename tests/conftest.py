"""Nothing that a test does reaches the user's own folders, and no known architecture is guessed
at; a model and a machine for many tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.gguf_files import tiny_llama
from tests.support.giants import gpu, machine
from tuner.machine import measure as devices
from tuner.machine.machine import Machine
from tuner.memory.compute.graph import Graph
from tuner.memory.compute.replica.model_graph import ModelGraph

# Hundreds of processes start here; what one has compiled, no other compiles again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_xdist_auto_num_workers() -> int:
    """One more than cores: many tests wait for processes that are to hang."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else 2


@pytest.hookimpl(trylast=True)  # by then it is marked what is a law
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where coverage is measured (.ci/run), it is by the plain cases of the rooms that have a
    floor: each line that is traced takes twice its time, and laws run through the same ones again
    and again."""
    rooms = [Path(__file__).parent / name for name in ("planning", "gguf", "report")]
    for item in items:
        plain = not item.get_closest_marker("hypothesis")
        if not plain or not any(item.path.is_relative_to(room) for room in rooms):
            item.add_marker("no_cover")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "DATA", "LOG"):
        monkeypatch.setenv(f"KVCHAT_{name}_DIR", str(tmp_path / name.lower()))


@pytest.fixture(autouse=True)
def _nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No plan depends on how busy the machine is that runs the tests."""
    monkeypatch.setattr(devices, "host_bandwidth", lambda: None)
    monkeypatch.setattr(devices, "other_threads", lambda: 0)


@pytest.fixture(autouse=True)
def _builders_that_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a user a generous guess stands in for a graph that cannot be built. Of an architecture
    that is known that is a fault of the builder, which must not pass unseen."""
    build = ModelGraph.build

    def known(self: ModelGraph, *args: Any) -> Graph:
        try:
            return build(self, *args)
        except Exception as why:
            if self.model.known:
                pytest.fail(f"the graph of {self.model.architecture}: {why!r}")
            raise

    monkeypatch.setattr(ModelGraph, "build", known)


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """The path of a model of a few kilobytes."""
    return tiny_llama(tmp_path / "tiny.gguf")


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """This machine, as measured, has one GPU of 8 GiB."""
    where = machine(gpu(8))
    monkeypatch.setattr(devices, "measure", lambda **_: where)
    return where
