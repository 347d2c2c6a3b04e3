"""Holds the nodes of the hand-built graphs against the engine's, one by one.

    python -m bench.graph_nodes FOLDER --sources vendor/llama.cpp [--gpus 1] [--show 5]

FOLDER holds GGUF files, as for `bench.memory_accuracy`. For each file and a grid of settings the
engine hands its graph to a stand-in GPU (`bench.backend_rules`), split by split; operations, shapes
and operands must be those of the replica (tuner/memory/compute), in the same order. One line per
file that differs says where first.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from platformdirs import user_cache_path

from bench.backend_rules import NAMES, built, pose_as
from bench.memory_accuracy import stand_in, stretched
from tuner.gguf.header import read_header
from tuner.memory.compute.graph import Node
from tuner.memory.compute.optimize.split import base
from tuner.memory.compute.scheduler import scheduled_splits
from tuner.memory.estimator import Estimator
from tuner.memory.placement import placement
from tuner.model.model import describe
from tuner.settings import Settings

_RULES = user_cache_path("kvchat-bench")
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Line:
    """One node: its operation, shape without the last ones, which nodes of the split it reads (by
    their place), and which one it looks or writes into (-1: a tensor beyond the split, None:
    nothing)."""

    op: str
    shape: tuple[int, ...]
    reads: tuple[int, ...]
    into: int | None

    def __str__(self) -> str:
        into = "" if self.into is None else f" in {self.into}"
        return f"{self.op} {list(self.shape)} of {list(self.reads)}{into}"


Split = list[Line]
_NODE = re.compile(
    r"(?P<at>\S+) (?P<op>\S+) \[(?P<ne>[\d ]+)\] \[(?P<nb>[\d ]+)\] (?P<type>\S+) view=(?P<view>\S+) "
)
_SOURCE = re.compile(r" (0x[0-9a-f]+)\(")


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    n = len(shape)
    while n > 1 and shape[n - 1] == 1:
        n -= 1
    return shape[:n]


def of_engine(noted: Path) -> list[Split]:
    """The splits of the largest graph in a file of `pose_as`."""
    graphs: list[list[Split]] = []
    places: dict[str, int] = {}
    for line in noted.read_text(errors="replace").splitlines():
        if line == "graph":
            graphs.append([])
        elif line.startswith("split "):
            graphs[-1].append([])
            places = {}
        elif match := _NODE.match(line):
            split = graphs[-1][-1]
            found = [places.get(p) for p in _SOURCE.findall(line[match.end() - 1 :])]
            view = match["view"]
            into = None if view == "(nil)" else places.get(view, -1)
            ne = tuple(int(n) for n in match["ne"].split())
            reads = tuple(n for n in found if n is not None)
            places[match["at"]] = len(split)
            split.append(Line(match["op"], _trimmed(ne), reads, into))
    return max(graphs, key=lambda g: sum(max(line.shape) for split in g for line in split))


def of_replica(path: Path, settings: Settings, backend: str, n_gpus: int) -> list[Split]:
    """The same as the tuner has them."""
    model = describe(read_header(path))
    sizes = Estimator(model, stand_in(n_gpus, backend)).compute
    splits = []
    for split in sizes.splits(settings, placement(model, settings, n_gpus), flash=settings.flash_attn != "off"):
        places = {node: n for n, node in enumerate(split)}
        splits.append([_line(node, places) for node in split])
    return splits


def _line(node: Node, places: dict[Node, int]) -> Line:
    home = base(node)
    into = None if home is node else places.get(home, -1)
    reads = tuple(places[src] for src in node.srcs if src in places)
    return Line(node.op, _trimmed(node.shape), reads, into)
