"""Holds the nodes of the hand-built graphs against the engine's, one by one.

    python -m bench.graph_nodes FOLDER --sources vendor/llama.cpp [--gpus 1] [--show 5]

FOLDER holds GGUF files, as for `bench.memory_accuracy`. For each file and a grid of settings the
engine hands its graph to a stand-in GPU (`bench.backend_rules`), split by split; operations, shapes
and operands must be those of the replica (tuner/memory/compute), in the same order, and so must be
the order that the backend makes of them. One line per file that differs says where first.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from math import prod
from pathlib import Path

from bench.backend_rules import NAMES, built, place_weights, pose_as
from bench.memory_accuracy import RULES, grid, stand_in, stretched
from bench.oracle import ROOT, off_usual
from tuner.gguf.header import read_header
from tuner.memory.compute.graph import HOST, Node
from tuner.memory.compute.ops import family
from tuner.memory.compute.optimize import OPTIMIZERS
from tuner.memory.compute.optimize import Split as Nodes
from tuner.memory.compute.optimize.split import base
from tuner.memory.compute.scheduler import split
from tuner.memory.estimator import Estimator
from tuner.model.model import describe
from tuner.settings import Settings


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


@dataclass(frozen=True, slots=True)
class Split:
    """Nodes that one GPU is handed, and the order in which it runs them, by their places."""

    lines: list[Line]
    order: list[int]


_NODE = re.compile(r"(?P<at>\S+) (?P<op>\S+) \[(?P<ne>[\d ]+)\] \[[\d ]+\] \S+ view=(?P<view>\S+) ")
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
            graphs[-1].append(Split([], []))
            places = {}
        elif line.startswith("order "):
            graphs[-1][-1].order.extend(places[at] for at in line.split()[1:])
        elif match := _NODE.match(line):
            lines = graphs[-1][-1].lines
            found = [places.get(p) for p in _SOURCE.findall(line[match.end() - 1 :])]
            view = match["view"]
            into = None if view == "(nil)" else places.get(view, -1)
            ne = tuple(int(n) for n in match["ne"].split())
            reads = tuple(n for n in found if n is not None)
            places[match["at"]] = len(lines)
            lines.append(Line(match["op"], _trimmed(ne), reads, into))
    return max(graphs, key=_extent, default=[])


def _extent(graph: list[Split]) -> int:
    """Grows with the tokens that a graph is for."""
    return sum(prod(line.shape) for split in graph for line in split.lines)


def of_replica(path: Path, settings: Settings, backend: str, n_gpus: int) -> list[Split]:
    """The same as the tuner has them."""
    estimator = Estimator(describe(read_header(path)), stand_in(n_gpus, backend), as_dry_run=True)
    where, flash = estimator.placement(settings), estimator.flash(settings)
    graph = estimator.compute.graph_of(settings, where, flash)
    uses = Counter(src for node in graph.nodes for src in node.srcs)
    runs, _ = split(graph)
    splits = []
    for run, after in zip_longest(runs, runs[1:]):
        places = {node: n for n, node in enumerate(run.nodes)}
        if run.device != HOST:
            lines = [_line(node, places) for node in run.nodes]
            behind = after.nodes[0] if after else None
            if name := estimator.compute.optimizers[run.device]:
                run.nodes = OPTIMIZERS[name](Nodes(run.nodes, uses, behind, {}))
            splits.append(Split(lines, [places[node] for node in run.nodes]))
    return splits


def _line(node: Node, places: dict[Node, int]) -> Line:
    home = base(node)
    into = None if home is node else places.get(home, -1)
    reads = tuple(places[src] for src in node.srcs if src in places)
    return Line(node.op, _trimmed(node.shape), reads, into)


def difference(ours: list[Split], true: list[Split], around: int) -> str:
    """Where they differ first, with so many lines before and behind; empty if nowhere."""
    if len(ours) != len(true):
        sizes = [[len(s.lines) for s in splits] for splits in (ours, true)]
        return f"{len(ours)} splits of {sizes[0]}, not {sizes[1]}"
    for n, (a, b) in enumerate(zip(ours, true, strict=True)):
        columns = [[str(line) for line in s.lines] for s in (a, b)]
        for i, (one, other) in enumerate(zip_longest(a.lines, b.lines)):
            if one is None or other is None or not _same(one, other):
                return f"split {n} of {len(ours)}, node {i}\n{_beside(columns, i, around)}"
        for i, (left, right) in enumerate(zip(a.order, b.order, strict=True)):
            if left != right:
                columns = [[f"{at:5} {a.lines[at]}" for at in s.order] for s in (a, b)]
                return f"split {n} of {len(ours)}, run {i}.\n{_beside(columns, i, around)}"
    return ""


def _beside(columns: list[list[str]], i: int, around: int) -> str:
    """Line i of two columns, side by side with those around it."""
    shown = []
    for j in range(max(0, i - around), i + 1 + around):
        left, right = (lines[j] if j < len(lines) else "-" for lines in columns)
        shown.append(f"  {'>' if i == j else ' '}{j:5} {left:70} | {right}")
    return "\n".join(shown)


def _same(ours: Line, true: Line) -> bool:
    if ours.op == family(true.op):  # no more is known of it
        true = replace(true, op=ours.op)
    # a store has the shape of the cache in the engine and none in the replica
    stores = true.op in ("SET_ROWS", "CPY", "SCALE") and true.into == -1
    return ours == (replace(true, shape=ours.shape) if stores else true)


def noted(path: Path, settings: Settings, backend: str, n_gpus: int, rules: Path) -> list[Split]:
    """What the engine hands to the GPUs; in a process of its own. Empty where it refuses."""
    with tempfile.NamedTemporaryFile() as file:
        asked = json.dumps([str(path), asdict(settings), backend, n_gpus, str(rules), file.name])
        subprocess.run(
            [sys.executable, "-m", "bench.graph_nodes", "--note", asked],
            cwd=ROOT,
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return of_engine(Path(file.name))


def _note(asked: str) -> int:
    """Loads a model as a dry run on stand-ins that write down what they get."""
    from tuner.engine import llama  # noqa: PLC0415

    path, settings, backend, n_gpus, rules, file = json.loads(asked)
    settings["tensor_split"] = tuple(settings["tensor_split"])
    log = llama.LogTap(os.open(os.devnull, os.O_WRONLY))
    llama.init()
    pose_as(Path(rules), backend, n_gpus, nodes=Path(file))
    place_weights(Path(rules), Path(path))
    with log.recording():
        model = llama.NativeModel(path, Settings(**settings), log, dry=True)
        llama.Context(model, Settings(**settings), 1, log)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sources", type=Path, required=True, help="llama.cpp's folder")
    parser.add_argument("--backend", choices=NAMES, default="CUDA")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="two settings per file")
    parser.add_argument("--show", type=int, default=3, help="lines around a difference")
    options = parser.parse_args()
    rules = built(options.sources, RULES)
    compared = same = 0
    with tempfile.TemporaryDirectory() as scratch:
        for file in stretched(options.folder, Path(scratch)):
            n_layers = describe(read_header(file)).n_layer_all
            for settings in grid(n_layers, options.gpus, options.quick):
                if settings.n_gpu_layers == 0:
                    continue
                true = noted(file, settings, options.backend, options.gpus, rules)
                if not true:
                    continue
                ours = of_replica(file, settings, options.backend, options.gpus)
                found = difference(ours, true, options.show)
                compared, same = compared + 1, same + (not found)
                if found:
                    print(f"{file.name} {off_usual(settings)}\n{found}", flush=True)
    print(f"{compared} graphs compared, {same} alike node by node")
    return 0


if __name__ == "__main__":
    sys.exit(_note(sys.argv[2]) if sys.argv[1:2] == ["--note"] else main())
