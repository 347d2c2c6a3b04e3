"""A compute graph as sizes alone, and the memory that ggml's allocator needs for it.

`Graph` builds nodes as ggml does: lazily, put in order by `expand` (`ggml_visit_parents`,
ggml/src/ggml.c). `peaks` then replays `ggml_gallocr_alloc_graph_impl` (ggml/src/ggml-alloc.c)
over them, with the scheduler's copies between devices (`ggml_backend_sched_split_graph`,
ggml/src/ggml-backend.cpp): a node takes over its parent's memory where it can, else the best
fitting hole, and memory returns when its last reader has run. Weights and caches have memory
of their own and are not nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

_ENDLESS = 1 << 62
F32, F16, I32, I64 = 4, 2, 4, 8
HOST = 0  # device numbers: the host, then the GPUs from 1


class Node:
    """One tensor of a graph. `root` is the tensor that a view looks into.

    `device` is where it runs: fixed where a weight or a cache says so, else -1 until the
    scheduler has decided. `external` memory (a weight, a cache) is not the graph's.
    """

    __slots__ = ("device", "external", "inplace", "layout", "root", "shape", "size", "srcs")

    def __init__(
        self,
        shape: tuple[int, ...],
        element: int = F32,
        srcs: tuple[Node, ...] = (),
        *,
        inplace: bool = False,
        root: Node | None = None,
        contiguous: bool = True,
        external: bool = False,
        device: int = -1,
    ):
        self.shape = shape
        self.size = prod(shape) * element
        self.srcs = srcs
        self.inplace = inplace
        self.root = root
        self.external = external
        self.layout = (shape, element) if contiguous else None
        self.device = device


class Graph:
    """Collects nodes in the order in which the engine runs them."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.leaves: list[Node] = []
        self._seen: set[Node] = set()
        self.device = 0  # where the weights of nodes made now are
        self.offload = -1  # the device that borrows host weights for large batches, if any

    def input(self, *shape: int, element: int = F32) -> Node:
        """A tensor that the engine fills before each run; it lives on the host."""
        return Node(shape, element, device=HOST)

    def outside(self, size: int, device: int) -> Node:
        """A weight or cache of `size` bytes; it costs memory only where it must be copied."""
        return Node((size,), 1, external=True, device=device)

    def new(self, *shape: int, of: tuple[Node, ...], element: int = F32) -> Node:
        """The result of an operation that needs memory of its own."""
        return Node(shape, element, of)

    def mm(self, rows: int, x: Node, weight: int = 0, device: int | None = None) -> Node:
        """A weight of `rows` rows times x. `weight`: its bytes, which the GPU that borrows it
        must hold for the moment (op_offload)."""
        return self.weighted((rows, *x.shape[1:]), (x,), weight, device)

    def weighted(
        self, shape: tuple[int, ...], srcs: tuple[Node, ...], weight: int, device: int | None = None
    ) -> Node:
        """A matrix product with a weight on `device` (the current one unless stated)."""
        at = self.device if device is None else device
        if at == HOST and self.offload > 0 and weight:
            return Node(shape, F32, (*srcs, self.outside(weight, HOST)), device=self.offload)
        return Node(shape, F32, srcs, device=at)

    def over(self, x: Node, *others: Node, weighted: bool = False) -> Node:
        """The result of an operation that may overwrite x (or another operand like it)."""
        device = self.device if weighted else -1
        return Node(x.shape, F32, (x, *others), inplace=True, device=device)

    def view(self, x: Node, *shape: int, contiguous: bool = True, stride: int = 0) -> Node:
        """x or a part of it under another shape. `stride`: elements from one row of a part to the
        next; a copy for another device takes what lies between the rows along."""
        node = Node(shape, F32, (x,), root=x.root or x, contiguous=contiguous and bool(x.layout))
        if stride:
            node.size = F32 * ((shape[-1] - 1) * stride + shape[0])
        return node

    def store(self, *srcs: Node) -> Node:
        """Writes into a cache or a state of the current device."""
        return Node((0,), 0, srcs, external=True, device=self.device)

    def expand(self, *targets: Node) -> None:
        """Puts everything that the targets need, then the targets, at the end of the graph."""
        stack = [(t, iter(t.srcs)) for t in reversed(targets) if t not in self._seen]
        while stack:
            node, rest = stack[-1]
            src = next((s for s in rest if s not in self._seen), None)
            if src is not None:
                stack.append((src, iter(src.srcs)))
                continue
            stack.pop()
            if node in self._seen:
                continue
            self._seen.add(node)
            if node.srcs:
                self.nodes.append(node)
            elif not node.external:
                self.leaves.append(node)

    def assign(self) -> None:
        """Gives every node a device: neighbours of a GPU's nodes join it, then the rest
        (`ggml_backend_sched_split_graph`, pass 2)."""
        real = [n for n in self.nodes if n.root is None]
        for order, host_too in ((1, False), (-1, False), (1, True), (-1, True)):
            current = -1
            for node in real[::order]:
                if node.device >= 0:
                    current = node.device if host_too or node.device != HOST else -1
                elif current >= 0:
                    node.device = current


class _Heap:
    """One device's buffer: `ggml_dyn_tallocr` with a single chunk."""

    def __init__(self, alignment: int):
        self._mask = alignment - 1
        self._free: list[list[int]] = [[0, _ENDLESS]]  # [offset, size], by offset
        self.peak = 0

    def take(self, size: int) -> tuple[int, int]:
        size = (size + self._mask) & ~self._mask
        blocks = self._free
        best, best_size = len(blocks) - 1, _ENDLESS
        for i in range(len(blocks) - 1):
            found = blocks[i][1]
            if size <= found <= best_size:
                best, best_size = i, found
        block = blocks[best]
        offset = block[0]
        block[0] += size
        block[1] -= size
        if not block[1]:
            del blocks[best]
        self.peak = max(self.peak, offset + size)
        return offset, size

    def give(self, offset: int, size: int) -> None:
        blocks = self._free
        end = offset + size
        i = 0
        while blocks[i][0] < offset:
            i += 1
        before = blocks[i - 1] if i else None
        after = blocks[i]
        if before is not None and before[0] + before[1] == offset:
            before[1] += size
            if before[0] + before[1] == after[0]:
                before[1] += after[1]
                del blocks[i]
        elif end == after[0]:
            after[0] = offset
            after[1] += size
        elif size:
            blocks.insert(i, [offset, size])


def peaks(graph: Graph, alignments: Sequence[int], copies: int = 1) -> list[int]:
    """Bytes of compute buffer per device, device 0 being the host. Uses the graph up.

    `copies` is 4 under pipeline parallelism: every input of a device is kept that often and
    never given back.
    """
    heaps = [_Heap(a) for a in alignments]
    graph.assign()
    nodes, pinned = _split(graph, copies)
    held: dict[Node, tuple[int, int, int]] = {}  # what gives memory back: device, offset, size
    for node in pinned:
        for _ in range(copies):
            heaps[node.device].take(node.size)
    kept = set(pinned)
    for leaf in graph.leaves:
        if leaf not in kept:
            held[leaf] = (leaf.device, *heaps[leaf.device].take(leaf.size))

    children: dict[Node, int] = {}
    views: dict[Node, int] = {}
    for node in nodes:
        if node.root is not None:
            views[node.root] = views.get(node.root, 0) + 1
        for src in node.srcs:
            children[src] = children.get(src, 0) + 1

    for node in nodes:
        if node.root is None and not node.external and node not in kept:
            place = _reuse(node, children, views, held) if node.inplace else None
            held[node] = place or (node.device, *heaps[node.device].take(node.size))
        for src in node.srcs:
            children[src] -= 1
            if children[src] or views.get(src):
                continue
            owner = src
            if src.root is not None:
                owner = src.root
                views[owner] -= 1
                if views[owner] or children.get(owner):
                    continue
            free = held.pop(owner, None)
            if free is not None:
                heaps[free[0]].give(free[1], free[2])
    return [heap.peak for heap in heaps]


def _reuse(
    node: Node,
    children: dict[Node, int],
    views: dict[Node, int],
    held: dict[Node, tuple[int, int, int]],
) -> tuple[int, int, int] | None:
    """The memory of a parent that nobody else reads and that has the node's layout."""
    for parent in node.srcs:
        if parent.layout != node.layout or children[parent] != 1 or views.get(parent):
            continue
        place = held.get(parent)  # a view holds nothing, so nothing is taken over through one
        if place is not None:
            return held.pop(parent)
    return None


def _split(graph: Graph, copies: int) -> tuple[list[Node], list[Node]]:
    """The nodes with copies of what another device made put before the run of nodes (the
    "split") that needs them; and the tensors that pipeline copies keep for ever."""
    out: list[Node] = []
    made: dict[tuple[Node, int], Node] = {}
    device = -1
    start = 0
    for node in graph.nodes:
        if node.root is not None:  # a view stays where it looks
            node.device = node.root.device
            out.append(node)
            continue
        for src in node.srcs:
            if src.device < 0:  # a leaf that is no input lies with its reader
                src.device = node.device
        if node.device != device:
            device = node.device
            start = len(out)
        if any(src.device != device for src in node.srcs):
            if any(src.external and not src.srcs and src.device != device for src in node.srcs):
                start = len(out)  # a borrowed weight begins a split, so the last one is free again
            srcs = list(node.srcs)
            for i, src in enumerate(srcs):
                if src.device == device:
                    continue
                copy = made.get((src, device))
                if copy is None:
                    copy = made[src, device] = Node((0,), 0)
                    copy.size, copy.layout, copy.device = src.size, src.layout, device
                    reader = Node((0,), 0, (src,), external=True)
                    out[start:start] = [reader, copy]
                    start += 2
                srcs[i] = copy
            node.srcs = tuple(srcs)
        out.append(node)
    inputs = [leaf for leaf in graph.leaves if leaf.device == HOST]
    return out, [*made.values(), *inputs] if copies > 1 else []
