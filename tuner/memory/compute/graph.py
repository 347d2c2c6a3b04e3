"""A compute graph as sizes alone; `allocator.py` says what memory it needs.

`Graph` builds nodes as ggml does: lazily, put in order by `expand` (`ggml_visit_parents`,
ggml/src/ggml.c). Weights and caches have memory of their own and are not nodes.
"""

from __future__ import annotations

from math import prod

F32, F16, I32, I64 = 4, 2, 4, 8
Layout = tuple[tuple[int, ...], int]  # shape, bytes per element
Block = tuple[int, int]  # the device in whose buffer it lies, its number there
HOST = 0  # device numbers: the host, then the GPUs from 1


class Node:
    """One tensor of a graph. `root` is the tensor that a view looks into.

    `device` is where it runs: fixed where a weight or a cache says so, else -1 until the
    scheduler has decided. `external` memory (a weight, a cache) is not the graph's.
    """

    __slots__ = (
        "_size", "block", "contiguous", "device", "element", "external", "inplace", "readers",
        "root", "shape", "srcs", "views",
    )  # fmt: skip

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
        self.element = element
        self.srcs = srcs
        self.inplace = inplace
        self.root = root
        self.external = external
        self.contiguous = contiguous
        self.device = device
        self._size = -1  # most are never asked for
        # the allocator's: nodes that are still to read it, views into it, the block that it holds
        self.readers = self.views = 0
        self.block: Block | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        if self._size < 0:
            self._size = prod(self.shape) * self.element
        return self._size

    @size.setter
    def size(self, size: int) -> None:
        self._size = size

    @property
    def layout(self) -> Layout | None:
        """How it lies in memory; None where there are gaps."""
        return (self.shape, self.element) if self.contiguous else None


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

    def external(self, size: int, device: int) -> Node:
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
            return Node(shape, F32, (*srcs, self.external(weight, HOST)), device=self.offload)
        return Node(shape, F32, srcs, device=at)

    def over(self, x: Node, *others: Node, weighted: bool = False) -> Node:
        """The result of an operation that may overwrite x (or another operand like it)."""
        device = self.device if weighted else -1
        return Node(x.shape, F32, (x, *others), inplace=True, device=device)

    def view(self, x: Node, *shape: int, contiguous: bool = True, stride: int = 0) -> Node:
        """x or a part of it under another shape. `stride`: elements from one row of a part to the
        next; a copy for another device takes what lies between the rows along."""
        node = Node(shape, F32, (x,), root=x.root or x, contiguous=contiguous and x.contiguous)
        if stride:
            node.size = F32 * ((shape[-1] - 1) * stride + shape[0])
        return node

    def store(self, *srcs: Node) -> Node:
        """Writes into a cache or a state of the current device."""
        return Node((0,), 0, srcs, external=True, device=self.device)

    def expand(self, *targets: Node) -> None:
        """Puts everything that the targets need, then the targets, at the end of the graph."""
        seen = self._seen
        for target in targets:
            path = [] if target in seen else [target]
            while path:
                node = path[-1]
                for src in node.srcs:
                    if src not in seen:
                        path.append(src)
                        break
                else:
                    path.pop()
                    seen.add(node)
                    if node.srcs:
                        self.nodes.append(node)
                    elif not node.external:
                        self.leaves.append(node)
