"""Which node runs on which device, and what is copied from one to another beforehand.

Follows `ggml_backend_sched_split_graph` (ggml/src/ggml-backend.cpp).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from tuner.memory.compute.graph import HOST, LEFT_TO_HOST, Graph, Node
from tuner.memory.compute.optimize import OPTIMIZERS, REACH, Kept, Split, held
from tuner.memory.compute.optimize.split import is_view


@dataclass(slots=True)
class Run:
    """Nodes of one device that run together (a "split"), behind what is copied for them."""

    device: int
    copied: list[Node]
    nodes: list[Node]


def scheduled(
    graph: Graph, copies: int, optimizers: Sequence[str] = ()
) -> tuple[list[Node], list[Node]]:
    """The nodes in the order in which they run, each on its device, with copies of what another
    device made put before the run of nodes that needs them; and the tensors that `copies` under
    pipeline parallelism keep for ever. `optimizers`: what each device does to its runs
    (`Backend.optimizer`); it notes where what it does is not sure. Uses the graph up."""
    uses = Counter(src for node in graph.nodes for src in node.srcs) if any(optimizers) else None
    runs, made = split(graph)
    kept: Kept = {}
    if uses is not None:
        for run, next_run in zip_longest(runs, runs[1:]):
            if name := optimizers[run.device]:
                after = next_run.nodes[0] if next_run else None
                run.nodes = _optimized(graph, Split(run.nodes, uses, after, kept), name)
    out: list[Node] = []
    for run in runs:
        out += run.copied
        out += _with_readers(run.nodes, kept) if kept else run.nodes
    inputs = [leaf for leaf in graph.leaves if leaf.device == HOST]
    return out, [*made, *inputs] if copies > 1 else []


def _optimized(graph: Graph, part: Split, optimizer: str) -> list[Node]:
    """The nodes in the backend's order; or, where that cannot be told, since it is not known what
    it orders, and what any order could take is asked for, as they are. What is to be kept is
    noted."""
    nodes = part.nodes
    ordered = OPTIMIZERS[optimizer](part)
    if optimizer not in REACH or all(node.op for node in nodes):
        return ordered
    graph.unsure = True
    if not graph.for_any_order:
        return ordered
    held(part, REACH[optimizer])
    return nodes


def _with_readers(nodes: list[Node], kept: Kept) -> list[Node]:
    """The nodes, and behind each one that others are kept for, something that reads these."""
    out = []
    for node in nodes:
        out.append(node)
        if node in kept:
            out.append(Node((0,), 0, tuple(kept[node]), external=True))
    return out


def split(graph: Graph) -> tuple[list[Run], list[Node]]:
    """The runs of nodes as they come, and all copies. Uses the graph up."""
    assign(graph)
    run = Run(-1, [], [])
    runs = [run]
    made: dict[tuple[Node, int], Node] = {}
    for node in graph.nodes:
        if is_view(node):  # which stays where it looks
            assert node.root is not None
            node.device = node.root.device
            run.nodes.append(node)
            continue
        at = node.device
        foreign = borrowed = False
        for src in node.srcs:
            if src.device < 0:  # a leaf that is no input lies with its reader
                src.device = at
            elif src.device != at:
                foreign = True
                borrowed = borrowed or src.borrowed
        if run.device < 0:
            run.device = at
        # a borrowed weight begins one if the last has copies, so that these are free again
        elif at != run.device or (borrowed and run.copied):
            run = Run(at, [], [])
            runs.append(run)
        if foreign:
            srcs = list(node.srcs)
            for i, src in enumerate(srcs):
                if src.device == at:
                    continue
                copy = made.get((src, at))
                if copy is None:
                    copy = Node(src.shape, src.element, contiguous=src.contiguous, device=at)
                    copy.size = src.size
                    made[src, at] = copy
                    reader = Node((0,), 0, (src,), external=True)
                    run.copied += (reader, copy)
                srcs[i] = copy
            node.srcs = tuple(srcs)
        run.nodes.append(node)
    return runs, list(made.values())


def assign(graph: Graph) -> None:
    """Gives every node a device: neighbours of a GPU's nodes join it, then the rest (pass 2); what
    no GPU can compute is the host's (pass 3)."""
    real = [n for n in graph.nodes if not is_view(n)]
    for order, host_too in ((1, False), (-1, False), (1, True), (-1, True)):
        current = -1
        for node in real[::order]:
            if node.device >= 0:
                current = node.device if host_too or node.device != HOST else -1
            elif current >= 0 and node.device != LEFT_TO_HOST:
                node.device = current
    for node in real:
        if node.device == LEFT_TO_HOST:
            node.device = HOST
