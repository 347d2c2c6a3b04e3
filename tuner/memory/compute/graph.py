"""A compute graph as sizes alone; `allocator.py` says what memory it needs.

`Graph` builds nodes as ggml does: lazily, put in order by `expand` (`ggml_visit_parents`,
ggml/src/ggml.c). Weights and caches have memory of their own and are not nodes.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from tuner.gguf.header import TensorInfo
from tuner.machine.backends import HOST_LAYOUT, BufferLayout, Offload, row_padding
from tuner.machine.switches import OFFLOADED
from tuner.memory.compute.ops import Op

F32, F16, I32, I64 = 4, 2, 4, 8
Layout = tuple[tuple[int, ...], int]  # shape, bytes per element
Block = tuple[int, int]  # the device in whose buffer it lies, its number there
# what a weight or a cache lies in, where it begins there, where it ends: of use beside others only
Span = tuple[tuple[int | str, ...], int, int]
LEFT_TO_HOST = -2  # the device of a node for which no GPU has a kernel, until all others have one
HOST = 0  # device numbers: the host, then the GPUs from 1


class Borrower(NamedTuple):
    """The device that takes weights in RAM to itself for large batches (op_offload)."""

    device: int
    of: Offload  # for which operations
    layout: BufferLayout = HOST_LAYOUT  # of its buffers
    rows: int = OFFLOADED  # of a result, from which on


NOBODY = Borrower(-1, "")


class Node:
    """One tensor of a graph. `root` is the tensor that a view looks into, `into` the cache that a
    store writes into. Weights are no operands of an operation, unless they must be copied for it.

    `device` is where it runs: fixed where a weight or a cache says so, else -1 until the
    scheduler has decided. `external` memory (a weight, a cache) is not the graph's; `borrowed` is
    a weight in RAM for an operation that another device may run.
    """

    __slots__ = (
        "_size", "block", "borrowed", "contiguous", "device", "element", "external", "extra",
        "inplace", "into", "op", "readers", "root", "shape", "span", "srcs", "views",
    )  # fmt: skip

    def __init__(
        self,
        shape: tuple[int, ...],
        element: int = F32,
        srcs: tuple[Node, ...] = (),
        op: Op = "",
        *,
        inplace: bool = False,
        root: Node | None = None,
        into: Node | None = None,
        contiguous: bool = True,
        external: bool = False,
        device: int = -1,
        borrowed: bool = False,
    ):
        self.shape = shape
        self.element = element
        self.srcs = srcs
        self.op = op
        self.inplace = inplace
        self.root = root
        self.into = into
        self.external = external
        self.contiguous = contiguous
        self.device = device
        self.borrowed = borrowed
        self.extra = 0  # bytes that a GPU takes for the operation beside its result
        # where the weight lies that the operation reads or, of what is external, where that lies
        self.span: Span | None = None
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


def _in_ram(size: int) -> Node:
    """A weight of so many bytes that is to be brought to where it is needed."""
    return Node((size,), 1, external=True, device=HOST, borrowed=True)


class Graph:
    """Collects nodes in the order in which the engine runs them."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.leaves: list[Node] = []
        self._seen: set[Node] = set()
        self.device = 0  # where the weights of nodes made now are
        self.offload = NOBODY
        self.unsure = False  # whether a GPU orders nodes of which it is not known what they are
        self.for_any_order = False  # whether there is to be room for any order of such nodes
        # operations of GPUs' layers that the host computes, as the GPU (its number) has no kernel
        self.on_cpu: set[tuple[int, str]] = set()
        self.scope = 0  # the layer whose weights are named
        self._borrowed: dict[tuple[int, str], Node] = {}

    def input(self, *shape: int, element: int = F32) -> Node:
        """A tensor that the engine fills before each run; it lives on the host."""
        return Node(shape, element, device=HOST)

    def external(self, size: int, device: int) -> Node:
        """A weight or cache of `size` bytes; it costs memory only where it must be copied."""
        return Node((size,), 1, external=True, device=device)

    def new(self, *shape: int, of: tuple[Node, ...], op: Op = "", element: int = F32) -> Node:
        """The result of an operation that needs memory of its own."""
        return Node(shape, element, of, op)

    def cont(self, x: Node, *shape: int) -> Node:
        """A copy of x without gaps, under another shape if one is stated."""
        return Node(shape or x.shape, F32, (x,), "CONT")

    def mm(self, rows: int, x: Node, weight: int = 0, *, name: str = "") -> Node:
        """A weight of `rows` rows and of so many bytes times x. `name`: within its layer, where it
        may be used twice."""
        return self.product((rows, *x.shape[1:]), (x,), weight, name=name)

    def product(
        self,
        shape: tuple[int, ...],
        srcs: tuple[Node, ...],
        weight: int,
        *,
        device: int | None = None,
        routed: bool = False,
        name: str = "",
    ) -> Node:
        """A matrix product with a weight of so many bytes on `device` (the current one unless
        stated), `routed` where each token has experts of its own."""
        device, borrowed = self._run_at(
            device, weight, shape[2] if routed else shape[1], shape, name
        )
        op: Op = "MUL_MAT_ID" if routed else "MUL_MAT"
        return Node(shape, F32, (*borrowed, *srcs), op, device=device)

    def weighed(self, shape: tuple[int, ...], *srcs: Node, weight: int, op: Op = "") -> Node:
        """The result of any other operation with a weight, in memory of its own."""
        device, borrowed = self._run_at(None, weight, 0, shape)
        return Node(shape, F32, (*srcs, *borrowed), op, device=device)

    def over(
        self,
        x: Node,
        *others: Node,
        op: Op = "",
        weight: int = 0,
        device: int | None = None,
        name: str = "",
    ) -> Node:
        """The result of an operation that may overwrite x (or another operand like it). `weight`:
        the bytes of a weight among its operands, which are on `device` (the current one unless
        stated)."""
        if not weight:
            return Node(x.shape, F32, (x, *others), op, inplace=True)
        device, borrowed = self._run_at(device, weight, 0, x.shape, name)
        return Node(x.shape, F32, (x, *others, *borrowed), op, inplace=True, device=device)

    def add(self, x: Node, y: Node) -> Node:
        """x plus y, in the shape of x."""
        return Node(x.shape, F32, (x, y), "ADD", inplace=True)

    def mul(self, x: Node, y: Node) -> Node:
        """x times y, element by element, in the shape of x."""
        return Node(x.shape, F32, (x, y), "MUL", inplace=True)

    def reads(self, weight: TensorInfo, node: Node, device: int | None = None) -> Node:
        """The node, of which it is known now which weight it reads or is. `device`: where the
        weight is, if not on the current one; from the host, it is copied."""
        home = self.device if device is None else device
        if home != HOST:
            end = weight.offset + weight.n_bytes
            node.span = (home, self.scope, weight.part), weight.offset, end
        return node

    def held(self, weight: TensorInfo) -> int:
        """Bytes that a copy of this weight takes on the device that borrows it."""
        layout = self.offload.layout
        if layout.row_multiple == 1:
            return weight.n_bytes
        return weight.n_bytes + row_padding(weight.ggml_type, weight.shape[0], layout)

    def beside(self, weight: int) -> tuple[Node, ...]:
        """A weight of so many bytes on the current device that does not say where an operation
        runs; as an operand of one."""
        if self.device != HOST or self.offload.device <= HOST:
            return ()
        return (_in_ram(weight),)

    def _run_at(
        self,
        device: int | None,
        weight: int,
        columns: int,
        shape: tuple[int, ...],
        name: str = "",
    ) -> tuple[int, tuple[Node, ...]]:
        """Where an operation with a weight runs, and the weight as one of its operands where it
        must be brought there (`ggml_backend_sched_backend_id_from_cur`, ggml-backend.cpp).
        `columns`: of a matrix product; 0 for other operations. What is used twice under a `name` is
        brought once."""
        at = self.device if device is None else device
        if at != HOST or self.offload.device <= HOST:
            return at, ()
        match self.offload.of:
            case "all":
                n = columns or prod(shape[1:])
            case "products":
                n = columns
            case "by_second":
                n = shape[1]
            case _:
                n = 0
        if n < self.offload.rows:
            return at, ()
        key = self.scope, name or str(len(self._borrowed))
        if key not in self._borrowed:
            self._borrowed[key] = _in_ram(weight)
        return self.offload.device, (self._borrowed[key],)

    def view(
        self, x: Node, *shape: int, contiguous: bool = True, stride: int = 0, op: Op = "VIEW"
    ) -> Node:
        """x or a part of it under another shape. `stride`: elements from one of the last dimension
        to the next; a copy for another device takes what lies between them along."""
        root, gapless = x.root or x, contiguous and x.contiguous
        node = Node(shape, F32, (x,), op, root=root, contiguous=gapless)
        if stride:
            node.size = F32 * ((shape[-1] - 1) * stride + prod(shape[:-1]))
        return node

    def part(self, x: Node, row: int, *shape: int) -> Node:
        """The same elements of each `row` of x, under a shape; a copy for another device takes
        along what lies between them."""
        node = self.view(x, *shape, contiguous=False)
        node.size = F32 * ((prod(shape[1:]) - 1) * row + shape[0])
        return node

    def reshape(self, x: Node, *shape: int) -> Node:
        """All of x under another shape."""
        return Node(shape, F32, (x,), "RESHAPE", root=x.root or x, contiguous=x.contiguous)

    def permute(self, x: Node, *shape: int) -> Node:
        """x with its dimensions in another order."""
        return self.view(x, *shape, contiguous=False, op="PERMUTE")

    def store(self, *srcs: Node, into: Node | None = None, op: Op = "CPY") -> Node:
        """Writes into a cache or a state of the current device."""
        return Node((0,), 0, srcs, op, into=into, external=True, device=self.device)

    def stored(self, rows: Node, where: Node, into: Node, seen_as: Node | None = None) -> Node:
        """Writes rows into a cache, which may be seen under another shape."""
        srcs = (rows, where) if seen_as is None else (rows, where, seen_as)
        return Node((0,), 0, srcs, "SET_ROWS", into=into, external=True, device=into.device)

    def expand(self, *targets: Node) -> None:
        """Puts everything that the targets need, then the targets, at the end of the graph."""
        seen, nodes = self._seen, self.nodes
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
                        nodes.append(node)
                    elif not node.external:
                        self.leaves.append(node)
