"""Launches with a scripted model process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.support.scripted_worker import scripted_worker
from tuner.engine.client import EngineClient
from tuner.engine.protocol import Message
from tuner.launch import Launcher, Ready
from tuner.launch.running import Running
from tuner.wishes import LaunchRequest, Wishes

ASK = [Message("user", "Hello?")]


def launcher(
    path: Path, tmp_path: Path, wishes: Wishes | None = None, **script: object
) -> Launcher:
    client = EngineClient(tmp_path / "engine.log", command=scripted_worker(**script))
    return Launcher(LaunchRequest(path, wishes or Wishes(), threads=1), client)


def loaded(path: Path, tmp_path: Path) -> Running:
    """What one launch of a model ended as; the model process is gone again."""
    _, running = run(launcher(path, tmp_path).start())
    running.close()
    return running


def run(it: Iterator[object]) -> tuple[list[object], Running]:
    events = list(it)
    assert isinstance(events[-1], Ready)
    return events, events[-1].running
