"""Vulkan puts independent nodes next to each other, so that they run at once
(`ggml_vk_graph_optimize`, ggml-vulkan/ggml-vulkan.cpp), but for runs of operations that it has one
kernel for; it keeps what choosing experts reads until that is done.
"""

from __future__ import annotations

from collections import defaultdict

from tuner.memory.compute.graph import Node
from tuner.memory.compute.ops import EMPTY
from tuner.memory.compute.optimize.split import NORMED, Split, base

_AHEAD = 20  # NUM_TO_CHECK
_FUSED_AHEAD = 15
_Pattern = tuple[str, ...]

# ggml-vulkan/ggml-vulkan-types.h, in the order in which they are tried
_NORMED = ("GET_ROWS", *NORMED)
_EXPERTS: tuple[_Pattern, ...] = (
    ("SOFT_MAX", "RESHAPE", "ARGSORT", "VIEW", *_NORMED),
    ("UNARY", "RESHAPE", "ADD", "ARGSORT", "VIEW", *_NORMED),
    ("UNARY", "SQRT", "RESHAPE", "ADD", "ARGSORT", "VIEW", *_NORMED),
    ("SOFT_MAX", "RESHAPE", "ARGSORT", "VIEW", "GET_ROWS"),
    ("ARGSORT", "VIEW", "GET_ROWS", "RESHAPE", "SOFT_MAX", "RESHAPE"),
)
_BLOCKS: _Pattern = ("GET_ROWS", "PERMUTE", "CONT", "CPY", "RESHAPE", "ADD", "TOP_K")
_STREAMS: _Pattern = ("SCALE", "UNARY", "SCALE", "DSV4_HC_POST")
_OTHERS: tuple[_Pattern, ...] = (
    ("MUL", "SIN", "SQR", "MUL", "ADD"),
    _BLOCKS,
    ("RMS_NORM", "MUL", "ADD", "MUL"),
    ("RMS_NORM", "MUL", "ADD"),
    ("RMS_NORM", "MUL", "ROPE", "VIEW", "SET_ROWS"),
    ("RMS_NORM", "VIEW", "SET_ROWS"),
    ("ROPE", "VIEW", "SET_ROWS"),
    _STREAMS,
)
_ALL = (*_EXPERTS, *_OTHERS)
_BY_FIRST = {first: tuple(p for p in _ALL if p[0] == first) for first in {p[0] for p in _ALL}}

# what may run right behind a node that it depends on: with views between them, and without
_LOOSELY = {("RMS_NORM", "MUL"), ("UNARY", "MUL")}
_CLOSELY = {
    ("MUL_MAT", "ADD"), ("MUL_MAT_ID", "ADD_ID"), ("MUL_MAT_ID", "MUL"), ("ADD", "ADD"),
    ("SSM_CONV", "ADD"), ("SSM_CONV", "UNARY"),
}  # fmt: skip
_BY_UNARY_MUL = frozenset({"GELU", "SIGMOID", "SILU", "SOFTPLUS"})  # ggml_vk_unary_mul_op_index


def optimized(split: Split) -> list[Node]:
    """The nodes in the order in which the backend runs them."""
    return _Reordering(split).order()


class _Reordering:
    """`used`, `first_unused` and `current_set` as in the source."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.nodes, self.ops = split.nodes, split.ops
        self.at = {node: i for i, node in enumerate(self.nodes)}
        self.used = [False] * len(self.nodes)
        self.empty = [op in EMPTY for op in self.ops]
        self.first = 0
        self.done: list[int] = []
        self.current: list[int] = []
        self.needs = self._needs()
        self.patterns = [
            [p for p in _BY_FIRST.get(op, ()) if split.runs(p, i)] for i, op in enumerate(self.ops)
        ]
        self.in_blocks = {
            i + n: i
            for i, found in enumerate(self.patterns)
            if _BLOCKS in found
            for n in range(len(_BLOCKS))
        }

    def _needs(self) -> list[list[int]]:
        """For each node, which of those shortly before it must run first (`is_src_of`)."""
        alike: dict[Node, list[int]] = defaultdict(list)  # by the memory that they are in
        readers: dict[Node, list[int]] = defaultdict(list)  # by the memory that they read
        found = []
        for j, node in enumerate(self.nodes):
            home = base(node)
            needed = {self.at.get(src, j) for src in node.srcs}
            needed.update(alike[home])
            if not self.empty[j]:
                for src in node.srcs:
                    needed.update(c for c in alike[base(src)] if not self.empty[c])
                needed.update(readers[home])
                for src in node.srcs:
                    readers[base(src)].append(j)
            alike[home].append(j)
            found.append(sorted(c for c in needed if j - _AHEAD < c < j))
        return found

    def order(self) -> list[Node]:
        while self.first < len(self.nodes):
            self.current = []
            if not self._kept_as_it_is():
                self._take_real()
                self._take_views()
                self._finish(self.current)
        return [self.nodes[i] for i in self.done]

    def _finish(self, taken: list[int]) -> None:
        for i in taken:
            self.used[i] = True
        self.done += taken
        while self.first < len(self.nodes) and self.used[self.first]:
            self.first += 1

    def _matches(self, i: int) -> _Pattern | None:
        """The first pattern that begins here and of which nothing has run."""
        for pattern in self.patterns[i]:
            if not any(self.used[i : i + len(pattern)]):
                return pattern
        return None

    def _kept_as_it_is(self) -> bool:
        """Runs the pattern that begins here, if any."""
        i = self.first
        pattern = self._matches(i)
        if pattern is None:
            return False
        last = i + len(pattern) - 1
        if pattern in _EXPERTS or pattern == _STREAMS:
            scaled = pattern != _STREAMS and self.ops[last + 1 : last + 2] == ["SCALE"]
            self.split.keep_inputs(i, len(pattern), self.nodes[last + scaled])
        self._finish(list(range(i, last + 1)))
        return True

    def _take_real(self) -> None:
        """The next node, and those shortly behind it that need nothing that has not run."""
        self.current.append(self.first)
        for j in range(self.first + 1, min(self.first + _AHEAD, len(self.nodes))):
            if self.used[j] or self.empty[j] or self._in_pattern(j) or not self._ready(j):
                continue
            self.current.append(j)
            self._take_fused(j)

    def _in_pattern(self, j: int) -> bool:
        if self.patterns[j] and self._matches(j) is not None:
            return True
        start = self.in_blocks.get(j)
        return start is not None and not any(self.used[start : start + len(_BLOCKS)])

    def _ready(self, j: int) -> bool:
        for c in self.needs[j]:
            if c < self.first or self.used[c]:
                continue
            if c != self.current[-1]:
                return False
            pair = (self.ops[c], self.ops[j])
            if pair in _LOOSELY and all(self.used[v] or self.empty[v] for v in range(c + 1, j)):
                continue
            if j != c + 1 or pair not in _CLOSELY:
                return False
        return True

    def _take_fused(self, j: int) -> None:
        """What is to run right behind j, in one kernel with it."""
        before = self.ops[j - 1]
        match self.ops[j]:
            case "MUL" if before == "RMS_NORM":
                self._take_stored(self._take_rope(j))
            case "ROPE" | "RMS_NORM":
                self._take_stored(j)
            case "ADD_ID" if before == "MUL_MAT_ID":
                self._take_next(j, "MUL")
            case "ADD" if before == "MUL_MAT":
                self._take_next(j, "ADD")
            case "ADD" if before == "SSM_CONV":
                self._take_unary(j)
            case "UNARY":
                self._take_product(j)

    def _ahead(self, j: int) -> range:
        return range(j + 1, min(j + _FUSED_AHEAD, len(self.nodes)))

    def _take(self, k: int) -> None:
        self.current.append(k)
        self.used[k] = True

    def _take_rope(self, j: int) -> int:
        for k in self._ahead(j):
            srcs = self.nodes[k].srcs
            if (
                self.ops[k] == "ROPE"
                and srcs[0] is self.nodes[j]
                and not any(src.srcs for src in srcs[1:])
            ):
                self._take(k)
                return k
        return j

    def _take_stored(self, rope: int) -> None:
        """The storing of what a norm or a rotation has made."""
        if self.ops[rope] not in ("ROPE", "RMS_NORM"):
            return
        view = -1
        for k in self._ahead(rope):
            if self.used[k]:
                continue
            src = self.nodes[k].srcs[0]
            if view < 0 and self.ops[k] == "VIEW" and src is self.nodes[rope]:
                view = k
            elif view >= 0 and self.ops[k] == "SET_ROWS" and src is self.nodes[view]:
                break
        else:
            return
        if not self.split.confined((rope, view, k), (k,)):
            return
        if any(
            c > rope and not self.used[c] and c != view and not self.empty[c] for c in self.needs[k]
        ):
            return
        self._take(view)
        self._take(k)

    def _has_run(self, node: Node) -> bool:
        """A weight, an input, or a node of a set before this one."""
        i = self.at.get(node)
        return not node.srcs or (i is not None and self.used[i] and i not in self.current)

    def _take_next(self, j: int, op: str) -> None:
        """The sum or product of j and what is there already; a weight, as all operands that the
        graph leaves out."""
        for k in self._ahead(j):
            srcs = self.nodes[k].srcs
            reads = self.ops[k] == op and srcs[0] is self.nodes[j]
            if reads and all(self._has_run(src) for src in srcs[1:2]):
                self._take(k)
                return

    def _take_unary(self, j: int) -> None:
        for k in self._ahead(j):
            if self.ops[k] == "UNARY" and self.nodes[k].srcs[0] is self.nodes[j]:
                self._take(k)
                return

    def _take_product(self, j: int) -> None:
        """The product of what a unary operation has made and what is there already
        (`ggml_vk_can_fuse_unary_mul`)."""
        node = self.nodes[j]
        if node.op not in _BY_UNARY_MUL or not _has_whole_planes(node.srcs[0]):
            return
        for k in self._ahead(j):
            srcs = self.nodes[k].srcs
            if self.ops[k] != "MUL" or node not in srcs[:2]:
                continue
            other = srcs[1:2] if srcs[0] is node else srcs[:1]
            if all(self._has_run(src) and _has_whole_planes(src) for src in other):
                self._take(k)
                return

    def _take_views(self) -> None:
        """Views of what has run, or runs now."""
        if self.ops[self.current[-1]] == "ADD":
            return
        current = set(self.current)
        for j in range(self.first + 1, min(self.first + _AHEAD, len(self.nodes))):
            if self.used[j] or not self.empty[j]:
                continue
            if any(
                c >= self.first and not self.used[c] and c not in current for c in self.needs[j]
            ):
                continue
            self.current.append(j)
            current.add(j)


def _has_whole_planes(node: Node) -> bool:
    """Whether gaps, if any, are between rows alone (`ggml_is_contiguous_1`)."""
    return node.contiguous or node.op == "VIEW"
