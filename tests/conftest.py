"""Nothing that a test does reaches the user's own folders, and no known architecture is guessed
at; a model and a machine for many tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import is_hypothesis_test

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


# The rooms on which all figures rest.
_ROOMS_WITH_A_FLOOR = ("tests/gguf/", "tests/planning/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what coverage is measured by (.ci/run): the plain cases of some rooms. What is traced
    takes three times as long, and laws run through the same lines again and again.

    Modules are in an order without meaning: in that of their folders all workers would compute for
    minutes, and then all wait for processes.
    """
    for item in items:
        law = is_hypothesis_test(getattr(item, "obj", None))
        if item.nodeid.startswith(_ROOMS_WITH_A_FLOOR) and not law:
            item.add_marker("floor")
    items.sort(key=lambda item: crc32(item.nodeid.partition("::")[0].encode()))


@pytest.fixture(autouse=True)
def _own_folders(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Made where somebody writes there: most tests are pure, and a folder takes half their time."""
    if "tmp_path" in request.fixturenames:
        folder: Path = request.getfixturevalue("tmp_path")
    else:
        folder = tmp_path_factory.getbasetemp() / f"unasked-{next(_folders)}"
    for name in ("CONFIG", "DATA", "LOG"):
        monkeypatch.setenv(f"KVCHAT_{name}_DIR", str(folder / name.lower()))


_folders = count()


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_timed() -> Iterator[None]:
    """No plan depends on how busy the machine is that runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "host_bandwidth", lambda: None)
        patch.setattr(devices, "other_threads", lambda: 0)
        yield


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
