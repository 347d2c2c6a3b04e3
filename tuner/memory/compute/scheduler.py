"""Which node runs on which device, and what is copied from one to another beforehand.

Follows `ggml_backend_sched_split_graph` (ggml/src/ggml-backend.cpp).
"""

from __future__ import annotations

from tuner.memory.compute.graph import HOST, LEFT_TO_HOST, Graph, Node


def scheduled(graph: Graph, copies: int) -> tuple[list[Node], list[Node]]:
    """The nodes in the order in which they run, each on its device, with copies of what another
    device made put before the run of nodes (the "split") that needs them; and the tensors that
    `copies` under pipeline parallelism keep for ever. Uses the graph up."""
    assign(graph)
    out: list[Node] = []
    copied: list[Node] = []  # what is copied for the split that is being put together,
    split: list[Node] = []  # and its nodes
    made: dict[tuple[Node, int], Node] = {}
    device = -1
    for node in graph.nodes:
        if node.root is not None:  # a view stays where it looks
            node.device = node.root.device
            split.append(node)
            continue
        at = node.device
        foreign = borrowed = False
        for src in node.srcs:
            if src.device < 0:  # a leaf that is no input lies with its reader
                src.device = at
            elif src.device != at:
                foreign = True
                borrowed = borrowed or src.borrowed
        # a borrowed weight begins one if the last has copies, so that these are free again
        if at != device or (borrowed and copied):
            device = at
            out += copied + split
            copied, split = [], []
        if foreign:
            srcs = list(node.srcs)
            for i, src in enumerate(srcs):
                if src.device == device:
                    continue
                copy = made.get((src, device))
                if copy is None:
                    copy = Node(src.shape, src.element, contiguous=src.contiguous, device=device)
                    copy.size = src.size
                    made[src, device] = copy
                    reader = Node((0,), 0, (src,), external=True)
                    copied += (reader, copy)
                srcs[i] = copy
            node.srcs = tuple(srcs)
        split.append(node)
    out += copied + split
    inputs = [leaf for leaf in graph.leaves if leaf.device == HOST]
    return out, [*made.values(), *inputs] if copies > 1 else []


def assign(graph: Graph) -> None:
    """Gives every node a device: neighbours of a GPU's nodes join it, then the rest (pass 2); what
    no GPU can compute is the host's (pass 3)."""
    real = [n for n in graph.nodes if n.root is None]
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
