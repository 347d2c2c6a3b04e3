"""What the backends' optimisers read of a split, and what they leave behind."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tuner.memory.compute.graph import Node
from tuner.memory.compute.ops import EMPTY, family

# how the shares of chosen experts are made to sum up to one
NORMED = ("RESHAPE", "SUM_ROWS", "CLAMP", "DIV", "RESHAPE")

Kept = dict[Node, dict[Node, None]]  # by the node that they outlast: what may not be freed before


class Split:
    """The nodes of one device that are run together, as the scheduler hands them to a backend."""

    def __init__(self, nodes: list[Node], uses: Mapping[Node, int], after: Node | None, kept: Kept):
        """`uses`: how often each node of the whole graph is an operand (`ggml_node_get_use_count`);
        `after`: the node behind the split; `kept` is added to."""
        self.nodes, self.after = nodes, after
        self.ops = [family(node.op) for node in nodes]
        self._uses, self._kept = uses, kept

    def keep(self, node: Node, until: Node) -> None:
        """The memory of `node` is not given back before `until` has run (`add_alloc_dep`)."""
        self._kept.setdefault(until, {})[node] = None

    def keep_inputs(self, first: int, count: int, until: Node) -> None:
        """Keeps whatever comes to these nodes from outside."""
        seen: set[Node] = set()
        for node in self.nodes[first : first + count]:
            for src in node.srcs:
                if src not in seen:
                    seen.add(src)
                    self.keep(src, until)
            seen.add(node)

    def runs(self, ops: Sequence[str], first: int) -> bool:
        """Whether these operations follow each other from `first` on."""
        return self.ops[first : first + len(ops)] == list(ops)

    def confined(self, at: Sequence[int], outputs: Collection[int]) -> bool:
        """Whether nobody but these nodes reads them, `outputs` aside
        (`ggml_can_fuse_subgraph_ext`)."""
        nodes = [self.nodes[i] for i in at]
        for n, i in enumerate(at):
            if i in outputs:
                continue
            node = nodes[n]
            inside = sum(src is node for other in nodes[n + 1 :] for src in other.srcs)
            if inside != self._uses[node]:
                return False
            if node.root is not None and node.root not in nodes:
                return False
        return True


def is_view(node: Node) -> bool:
    """Whether a node only looks at another (`ggml_is_view_op`); without a name, it stands for what
    has been written there. Others compute something in place."""
    return node.root is not None and (not node.op or node.op in EMPTY)


def base(node: Node) -> Node:
    """The tensor in whose memory a node is (`view_src`)."""
    return node.root or node.into or node
