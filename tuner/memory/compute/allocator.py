"""The memory that ggml's allocator needs for a graph, per device.

The order in which memory is taken and given back follows from the graph alone; only where it
lies depends on the sizes. So a graph is traced once, to one tape of takes and gives per device,
and a tape is replayed for whatever the sizes are.

`trace` follows `ggml_gallocr_alloc_graph_impl` (ggml/src/ggml-alloc.c) over the nodes as the
scheduler has put them (`scheduler.py`): a node takes over its parent's memory where it can, and
memory returns when its last reader has run. `replay` is `ggml_dyn_tallocr`: the best fitting hole,
else the end. Weights and caches have memory of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuner.memory.compute.graph import HOST, Block, Graph, Layout, Node
from tuner.memory.compute.scheduler import scheduled

_ENDLESS = 1 << 62


@dataclass(frozen=True, slots=True)
class Tape:
    """What happens in one device's buffer. A step n >= 0 takes a block of `sizes[n]` bytes, a
    step ~n gives back the block that was taken n-th, a step of `shrinking` the end of one."""

    steps: tuple[int, ...]
    sizes: tuple[int, ...]


_SHRINKS = 1 << 40
_SIZES = 1 << 20  # no tape has so many


def shrinking(block: int, size: int) -> int:
    """The step that leaves of the block that was taken n-th as many bytes as `sizes` has there."""
    return ~(_SHRINKS + block * _SIZES + size)


def shrunk(step: int) -> tuple[int, int] | None:
    """The block and the size of such a step; None of any other."""
    return divmod(~step - _SHRINKS, _SIZES) if ~step >= _SHRINKS else None


def peaks(
    graph: Graph, alignments: Sequence[int], copies: int = 1, optimizers: Sequence[str] = ()
) -> list[int]:
    """Bytes of compute buffer per device, device 0 being the host. Uses the graph up."""
    tapes, _ = trace(graph, len(alignments), copies, optimizers)
    return [replay(t.steps, t.sizes, a) for t, a in zip(tapes, alignments, strict=True)]


def replay(steps: Sequence[int], sizes: Sequence[int], alignment: int) -> int:
    """The bytes that a buffer must have for these takes and gives.

    Step for step as ggml does it, since empty tensors leave odd blocks behind: given back amid
    taken memory, one becomes a free block of no size, which keeps its neighbours from merging;
    given back amid free memory, it lies in another block, so that no order can be relied on.
    """
    mask = alignment - 1
    sizes = [(size + mask) & ~mask for size in sizes]
    starts, ends = [0], [_ENDLESS]  # the free blocks
    taken: list[tuple[int, int]] = []
    peak = 0
    for step in steps:
        if step >= 0:
            size = sizes[step]
            n = best = len(starts) - 1  # the last is the last resort
            if n:
                best_size = _ENDLESS
                for i, start in enumerate(starts[:n]):
                    if size <= ends[i] - start <= best_size:
                        best, best_size = i, ends[i] - start
            start = starts[best]
            end = start + size
            taken.append((start, end))
            # a call of max() takes longer, and here most of a search's time goes
            if end > peak:  # noqa: PLR1730
                peak = end
            if end == ends[best]:
                del starts[best], ends[best]
            else:
                starts[best] = end
            continue
        block = ~step
        if block < _SHRINKS:
            start, end = taken[block]
        else:
            block, size = divmod(block - _SHRINKS, _SIZES)
            start, end = taken[block]
            taken[block] = start, start + sizes[size]
            start += sizes[size]
            if start == end:
                continue
        n = len(starts)
        before = ends.index(start) if start in ends else n
        behind = starts.index(end) if end in starts else n
        if before == behind == n:
            i = 0
            while i < n and starts[i] < start:
                i += 1
            starts.insert(i, start)
            ends.insert(i, end)
        elif before <= behind:
            ends[before] = end
            if before + 1 < n and starts[before + 1] == end:
                ends[before] = ends.pop(before + 1)
                del starts[before + 1]
        else:
            starts[behind] = start
            if behind and ends[behind - 1] == start:
                ends[behind - 1] = ends.pop(behind)
                del starts[behind]
    return peak


class _TapeWriter:
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

    def shrink(self, block: int, size: int) -> None:
        self._steps.append(shrinking(block, self._sizes.setdefault(size, len(self._sizes))))

    def tape(self) -> Tape:
        return Tape(tuple(self._steps), tuple(self._sizes))


def trace(
    graph: Graph, n_devices: int, copies: int = 1, optimizers: Sequence[str] = ()
) -> tuple[list[Tape], set[tuple[Layout, Layout]]]:
    """The tape of each device, the host's first, and the pairs of layouts that kept a node from
    taking over its parent's memory by being different. Uses the graph up.

    `copies` is 4 under pipeline parallelism: every input of a device is kept that often and
    never given back. `optimizers`: as of `scheduled`.
    """
    writers = [_TapeWriter() for _ in range(n_devices)]
    nodes, pinned = scheduled(graph, copies, optimizers)
    layouts_that_differ: set[tuple[Layout, Layout]] = set()

    def take(node: Node) -> Block:
        size = node.size + node.extra if node.device != HOST else node.size
        return node.device, writers[node.device].take(size)

    for node in pinned:
        for _ in range(copies):
            take(node)  # for ever
    kept = set(pinned)
    for leaf in graph.leaves:
        if leaf not in kept:
            leaf.block = take(leaf)
    for node in nodes:
        if node.root is not None:
            node.root.views += 1
        for src in node.srcs:
            src.readers += 1

    def parent_of(node: Node) -> Node | None:
        """Whose memory it can have: a parent's that nobody else reads and that is laid out like
        the node. A view holds nothing, so nothing is taken over through one."""
        for parent in node.srcs:
            if parent.readers == 1 and not parent.views and parent.block:
                if parent.layout == node.layout:
                    return parent
                if parent.layout and node.layout:
                    layouts_that_differ.add((parent.layout, node.layout))
        return None

    for node in nodes:
        if node.root is None and not node.external and not (kept and node in kept):
            parent = parent_of(node) if node.inplace else None
            if parent is None:
                node.block = take(node)
            else:
                node.block, parent.block = parent.block, None
                if parent.extra and parent.device != HOST and node.block:
                    writers[parent.device].shrink(node.block[1], node.size)
        for src in node.srcs:
            src.readers -= 1
            if src.readers or src.views:
                continue
            owner = src
            if src.root is not None:
                owner = src.root
                owner.views -= 1
                if owner.views or owner.readers:
                    continue
            if held := owner.block:
                owner.block = None
                writers[held[0]].give(held[1])
    return [writer.tape() for writer in writers], layouts_that_differ
