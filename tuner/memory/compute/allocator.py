"""The memory that ggml's allocator needs for a graph, per device.

The order in which memory is taken and given back follows from the graph alone; only where it
lies depends on the sizes. So a graph is traced once, to one tape of takes and gives per device,
and a tape is replayed for whatever the sizes are.

`trace` follows `ggml_gallocr_alloc_graph_impl` (ggml/src/ggml-alloc.c) with the scheduler's
copies between devices (`ggml_backend_sched_split_graph`, ggml/src/ggml-backend.cpp): a node takes
over its parent's memory where it can, and memory returns when its last reader has run. `replay`
is `ggml_dyn_tallocr`: the best fitting hole, else the end. Weights and caches have memory of
their own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from tuner.memory.compute.graph import HOST, Graph, Layout, Node

_ENDLESS = 1 << 62


@dataclass(frozen=True, slots=True)
class Tape:
    """What happens in one device's buffer. A step n >= 0 takes a block of `sizes[n]` bytes, a
    step ~n gives back the block that was taken n-th."""

    steps: tuple[int, ...]
    sizes: tuple[int, ...]


def peaks(graph: Graph, alignments: Sequence[int], copies: int = 1) -> list[int]:
    """Bytes of compute buffer per device, device 0 being the host. Uses the graph up."""
    tapes, _ = trace(graph, len(alignments), copies)
    return [replay(t.steps, t.sizes, a) for t, a in zip(tapes, alignments, strict=True)]


def replay(steps: Sequence[int], sizes: Sequence[int], alignment: int) -> int:
    """The bytes that a buffer must have for these takes and gives."""
    mask = alignment - 1
    sizes = [(size + mask) & ~mask for size in sizes]
    if 0 in sizes:
        return _replay_with_empty(steps, sizes)
    starts, lengths = [0], [_ENDLESS]  # the free blocks, by offset
    taken: list[tuple[int, int]] = []
    peak = 0
    for step in steps:
        if step >= 0:
            size = sizes[step]
            best, best_size = 0, _ENDLESS
            for i, found in enumerate(lengths):
                if size <= found <= best_size:
                    best, best_size = i, found
            offset = starts[best]
            taken.append((offset, size))
            end = offset + size
            peak = max(peak, end)
            if best_size == size:
                del starts[best], lengths[best]
            else:
                starts[best] = end
                lengths[best] = best_size - size
            continue
        offset, size = taken[~step]
        i = bisect_left(starts, offset)
        end = offset + size
        if i and starts[i - 1] + lengths[i - 1] == offset:
            lengths[i - 1] += size
            if end == starts[i]:
                lengths[i - 1] += lengths[i]
                del starts[i], lengths[i]
        elif end == starts[i]:
            starts[i] = offset
            lengths[i] += size
        else:
            starts.insert(i, offset)
            lengths.insert(i, size)
    return peak


def _replay_with_empty(steps: Sequence[int], sizes: Sequence[int]) -> int:
    """The same, step for step as ggml does it, where some tensors are empty: given back amid
    taken memory, one becomes a free block of no size, which keeps its neighbours from merging;
    given back amid free memory, it lies in another block, so that no order can be relied on."""
    starts, lengths = [0], [_ENDLESS]
    taken: list[tuple[int, int]] = []
    peak = 0
    for step in steps:
        if step >= 0:
            size = sizes[step]
            best, best_size = len(starts) - 1, _ENDLESS  # the last is the last resort
            for i, found in enumerate(lengths[:-1]):
                if size <= found <= best_size:
                    best, best_size = i, found
            taken.append((starts[best], size))
            peak = max(peak, starts[best] + size)
            starts[best] += size
            lengths[best] -= size
            if not lengths[best]:
                del starts[best], lengths[best]
            continue
        offset, size = taken[~step]
        for i, start in enumerate(starts):
            if start + lengths[i] == offset:
                lengths[i] += size
                if i + 1 < len(starts) and offset + size == starts[i + 1]:
                    lengths[i] += lengths[i + 1]
                    del starts[i + 1], lengths[i + 1]
                break
            if offset + size == start:
                starts[i] = offset
                lengths[i] += size
                if i and starts[i - 1] + lengths[i - 1] == offset:
                    lengths[i - 1] += lengths[i]
                    del starts[i], lengths[i]
                break
        else:
            i = next((i for i, start in enumerate(starts) if start >= offset), len(starts))
            starts.insert(i, offset)
            lengths.insert(i, size)
    return peak


class _Recorder:
    """One device's tape in the making."""

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._sizes: dict[int, int] = {}
        self._taken = 0

    def take(self, size: int) -> int:
        self._steps.append(self._sizes.setdefault(size, len(self._sizes)))
        self._taken += 1
        return self._taken - 1

    def give(self, block: int) -> None:
        self._steps.append(~block)

    def tape(self) -> Tape:
        return Tape(tuple(self._steps), tuple(self._sizes))


def trace(
    graph: Graph, n_devices: int, copies: int = 1
) -> tuple[list[Tape], set[tuple[Layout, Layout]]]:
    """The tape of each device, the host's first, and the pairs of layouts that kept a node from
    taking over its parent's memory by being different. Uses the graph up.

    `copies` is 4 under pipeline parallelism: every input of a device is kept that often and
    never given back.
    """
    recorders = [_Recorder() for _ in range(n_devices)]
    graph.assign()
    nodes, pinned = _split(graph, copies)
    held: dict[Node, tuple[_Recorder, int]] = {}  # what gives memory back
    unlike: set[tuple[Layout, Layout]] = set()
    for node in pinned:
        for _ in range(copies):
            recorders[node.device].take(node.size)
    kept = set(pinned)
    for leaf in graph.leaves:
        if leaf not in kept:
            held[leaf] = recorders[leaf.device], recorders[leaf.device].take(leaf.size)

    children: dict[Node, int] = {}
    views: dict[Node, int] = {}
    for node in nodes:
        if node.root is not None:
            views[node.root] = views.get(node.root, 0) + 1
        for src in node.srcs:
            children[src] = children.get(src, 0) + 1

    def parent_of(node: Node) -> Node | None:
        """Whose memory it can have: a parent's that nobody else reads and that is laid out like
        the node. A view holds nothing, so nothing is taken over through one."""
        for parent in node.srcs:
            if children[parent] == 1 and not views.get(parent) and parent in held:
                if parent.layout == node.layout:
                    return parent
                if parent.layout and node.layout:
                    unlike.add((parent.layout, node.layout))
        return None

    for node in nodes:
        if node.root is None and not node.external and node not in kept:
            parent = parent_of(node) if node.inplace else None
            if parent is not None:
                held[node] = held.pop(parent)
            else:
                held[node] = recorders[node.device], recorders[node.device].take(node.size)
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
                free[0].give(free[1])
    return [recorder.tape() for recorder in recorders], unlike


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
