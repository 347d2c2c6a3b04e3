"""Metal puts nodes next to each other that may run at once, runs of nodes that one kernel stands
for as one (`ggml_graph_optimize`, ggml-metal/ggml-metal-common.cpp), and keeps what comes into such
runs until they are done (`ggml_metal_fusion_add_alloc_deps`, ggml-metal-fusion.cpp).

What may run at once, memory decides: that of nodes by whole tensors, weights and caches by their
addresses. A node that only looks at one counts as if it wrote there, so that others that read it,
or what lies right beside it, are not moved across. A load maps the file: weights lie in memory as
they do there; caches lie one behind the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from typing import NamedTuple

from tuner.memory.compute.graph import Node
from tuner.memory.compute.ops import EMPTY
from tuner.memory.compute.optimize.split import NORMED, Split, base

_AHEAD = 64  # N_FORWARD
_LONGEST = 16  # GGML_METAL_FUSION_MAX
_MOST_CHOSEN_FROM = 1024  # GGML_METAL_TOPK_MOE_MAX_EXPERTS
_MOST_ADDED = 8  # GGML_METAL_MOE_REDUCE_MAX_EXPERTS

# across which nodes are moved (`h_safe`)
_MOVED_OVER = EMPTY | {
    "MUL_MAT", "MUL_MAT_ID", "ROPE", "NORM", "RMS_NORM", "GROUP_NORM", "L2_NORM", "SUM_ROWS",
    "SSM_CONV", "SSM_SCAN", "CLAMP", "TRI", "DIAG", "MUL", "ADD", "SUB", "DIV", "GLU", "SCALE",
    "UNARY", "GET_ROWS", "SET_ROWS", "SET", "CPY", "CONT", "REPEAT",
}  # fmt: skip


def optimized(split: Split) -> list[Node]:
    """The nodes in the order in which the backend runs them; what is to be kept is noted."""
    _keep_inputs(split)
    groups = _grouped(split)
    return [node for i in _reordered(groups) for node in groups[i].nodes]


# ------------------------------------------------------- runs that one kernel stands for

_At = Sequence[int]  # of nodes that compute something, one after the other


class _Fusion(NamedTuple):
    ops: tuple[str, ...]  # with those that compute nothing
    real: tuple[str, ...]  # and without
    holds: Callable[[Split, _At], bool]


def _is_chain(split: Split, at: _At) -> bool:
    """Whether each node reads the one before it and is like it, and nobody else does."""
    for before, i in pairwise(at):
        node, last = split.nodes[i], split.nodes[before]
        if last not in node.srcs[:2] or node.shape != last.shape:
            return False
    return split.confined(at, at[-1:])


def _reads_first(split: Split, at: _At) -> bool:
    return all(split.nodes[i].srcs[0] is split.nodes[before] for before, i in pairwise(at))


def _is_norm(split: Split, at: _At) -> bool:
    width = split.nodes[at[0]].shape[0]
    # an operand that the graph leaves out is a weight, as wide as what it is for
    others = [src for i in at[1:] for src in split.nodes[i].srcs[1:2]]
    return (
        _is_chain(split, at)
        and _reads_first(split, at)
        and all(src.shape[0] == width for src in others)
    )


def _is_sum(split: Split, at: _At) -> bool:
    if not (_is_chain(split, at) and _reads_first(split, at)):
        return False
    added = [split.nodes[i].srcs[1:2] for i in at]
    return all(_alike(a, b) for a, b in pairwise(added))


def _alike(a: Sequence[Node], b: Sequence[Node]) -> bool:
    """Whether two operands lie in memory alike; none is a weight."""
    if not (a and b):
        return not (a or b)
    one, other = a[0], b[0]
    return (
        one.shape == other.shape
        and one.element == other.element
        and one.contiguous == other.contiguous
        and one.size == other.size
    )


def _is_bent(split: Split, at: _At) -> bool:
    return _is_chain(split, at) and split.nodes[at[1]].op == "SILU"


def _is_stored_state(split: Split, at: _At) -> bool:
    """The new state behind a delta net's results goes into the cache
    (`ggml_metal_fusion_check_gdn_cache`)."""
    read = split.nodes[at[1]].srcs[0]
    return read.op == "VIEW" and read.srcs[0] is split.nodes[at[0]] and read.contiguous


def _is_choice(split: Split, at: _At) -> bool:
    """Experts are chosen by their probabilities (`ggml_metal_fusion_check_topk_moe`)."""
    ops = next(f.ops for f in _CHOICES if len(f.real) == len(at))
    normed = len(ops) >= len(_CHOICE) + len(NORMED)
    first, end = at[0], at[-1]
    if ops[-1] in EMPTY:
        end += 1
    if end - first + 1 != len(ops) or not split.runs(ops, first):
        return False
    probs, reshaped, order, view, rows, *rest = split.nodes[first : end + 1]
    reads = [
        (reshaped, (probs,)), (order, (probs,)), (view, (order,)), (rows, (reshaped, view)),
    ]  # fmt: skip
    last = rows
    if normed:
        flat, total, clamped, divided, last, *rest = rest
        reads += [
            (flat, (rows,)), (total, (flat,)), (clamped, (total,)), (divided, (flat, clamped)),
            (last, (divided,)),
        ]  # fmt: skip
    reads += [(scaled, (last,)) for scaled in rest]
    if len(probs.srcs) > 1 or probs.shape[0] > _MOST_CHOSEN_FROM:
        return False
    if any(node.srcs[: len(srcs)] != srcs for node, srcs in reads):
        return False
    return split.confined(range(first, end + 1), (first + 3, end))


def _is_reduction(split: Split, at: _At) -> bool:
    """The results of experts times their shares are added up
    (`ggml_metal_fusion_match_moe_reduce`)."""
    first, used = at[0], len(at)
    end = first + 2 * used - 1
    if at[-1] != end:
        return False
    product, *rest = split.nodes[first : end + 1]
    parts, sums = rest[:used], rest[used:]
    if any(v.op != "VIEW" or v.srcs[0] is not product for v in parts):
        return False
    results, *others = product.srcs
    if not others:
        return False
    shares = others[0]
    if (
        results.shape[1:2] != (used,)
        or shares.shape != (1, *results.shape[1:])
        or not (results.contiguous and shares.contiguous)
    ):
        return False
    lefts = (parts[0], *sums)
    if any(s.srcs[:2] != (a, b) for s, a, b in zip(sums, lefts, parts[1:], strict=False)):
        return False
    return split.confined(range(first, end + 1), (end,))


def _fusion(holds: Callable[[Split, _At], bool], *ops: str) -> _Fusion:
    return _Fusion(ops, tuple(op for op in ops if op not in EMPTY), holds)


_CHOICE = ("SOFT_MAX", "RESHAPE", "ARGSORT", "VIEW", "GET_ROWS")
_CHOICES = tuple(
    _fusion(_is_choice, *_CHOICE, *more) for more in ((), ("SCALE",), NORMED, (*NORMED, "SCALE"))
)
# `ggml_metal_fusions`, but for what only audio has
_FUSIONS = (
    *(
        _fusion(_is_norm, norm, *more)
        for norm in ("NORM", "RMS_NORM")
        for more in (("MUL",), ("MUL", "ADD"), ("SCALE",))
    ),
    *(_fusion(_is_sum, *["ADD"] * n) for n in range(2, 8)),
    _fusion(_is_stored_state, "GATED_DELTA_NET", "CPY"),
    *_CHOICES,
    *(
        _fusion(_is_reduction, "MUL", *["VIEW"] * n, *["ADD"] * (n - 1))
        for n in range(2, _MOST_ADDED + 1)
    ),
    _fusion(_is_bent, "SSM_CONV", "UNARY"),
)
_BY_FIRST = {
    first: tuple(f for f in _FUSIONS if f.ops[0] == first) for first in {f.ops[0] for f in _FUSIONS}
}


def _keep_inputs(split: Split) -> None:
    """Of the longest run of operations from each node on that looks like one of the fusions,
    whatever comes into it is kept until its last node has run."""
    i = 0
    while i < len(split.nodes):
        found = [f.ops for f in _BY_FIRST.get(split.ops[i], ()) if split.runs(f.ops, i)]
        if found:
            length = max(map(len, found))
            split.keep_inputs(i, length, split.nodes[i + length - 1])
            i += length - 1
        i += 1


def _fused(split: Split, real: _At) -> int:
    """How many of these nodes, one after the other, one kernel stands for; 1 if none."""
    best = 1
    for fusion in _BY_FIRST.get(split.ops[real[0]], ()):
        n = len(fusion.real)
        if best < n <= len(real):
            at = real[:n]
            if tuple(split.ops[i] for i in at) == fusion.real and fusion.holds(split, at):
                best = n
    return best


# ------------------------------------------------------------------------ another order


_Memory = Node | tuple[object, int]  # of a node; of a weight or a cache, where that begins


class _Group(NamedTuple):
    """Nodes that stay together; the memory that they read from outside, and that they write; and
    the same with what lies right behind it."""

    nodes: list[Node]
    op: str
    reads: set[_Memory]
    writes: set[_Memory]
    reads_by: set[_Memory]
    writes_by: set[_Memory]


def _grouped(split: Split) -> list[_Group]:
    # in these it matters who reads what: nodes look at something there
    spans = (node.root.span for node in split.nodes if node.root and node.root.external)
    looked_into = {span[0] for span in spans if span}
    real = [i for i, op in enumerate(split.ops) if op not in EMPTY]
    groups, i, n = [], 0, 0  # n: of the real ones, how many come before i
    while i < len(split.nodes):
        end = i + 1
        if split.ops[i] not in EMPTY:
            fused = _fused_in_a_row(split, real[n : n + _LONGEST])
            end = min(i + _LONGEST, real[n + fused - 1] + 1)
        groups.append(_group(split.nodes[i:end], split.ops[i], looked_into))
        while n < len(real) and real[n] < end:
            n += 1
        i = end
    return groups


def _fused_in_a_row(split: Split, real: _At) -> int:
    """How many of these nodes stay together: fusions right behind one another are taken as one
    (`ggml_metal_fusion_max`)."""
    total = 0
    while total < len(real):
        more = _fused(split, real[total:])
        if more == 1:
            break
        total += more
    return total or 1


def _group(nodes: list[Node], op: str, looked_into: Collection[object]) -> _Group:
    reads, reads_by = _memory({base(src) for n in nodes for src in n.srcs if src not in nodes})
    writes, writes_by = _memory({base(node) for node in nodes})
    for node in nodes:
        span = node.span
        if span and span[0] in looked_into:
            reads.add(span[:2])
            reads_by = reads_by | {span[:2], (span[0], span[2])}
    return _Group(nodes, op, reads, writes, reads_by, writes_by)


def _memory(nodes: set[Node]) -> tuple[set[_Memory], set[_Memory]]:
    """The memory of these; and the same with what begins where a weight or a cache ends, since the
    backend takes such for overlapping."""
    memory: set[_Memory] = set()
    behind = []
    for node in nodes:
        span = node.span if node.external else None
        if span is None:
            memory.add(node)
        else:
            memory.add(span[:2])
            behind.append((span[0], span[2]))
    return memory, memory.union(behind) if behind else memory


class _Ranges:
    """What a set of nodes reads and writes (`ggml_mem_ranges`)."""

    def __init__(self) -> None:
        self._reads: set[_Memory] = set()
        self._writes: set[_Memory] = set()

    def add(self, group: _Group) -> None:
        self._reads |= group.reads
        self._writes |= group.writes

    def allows(self, group: _Group) -> bool:
        return (
            group.reads_by.isdisjoint(self._writes)
            and group.writes_by.isdisjoint(self._writes)
            and group.writes_by.isdisjoint(self._reads)
        )


def _reordered(groups: list[_Group]) -> list[int]:
    """The order of groups (`ggml_metal_graph_optimize_reorder`)."""
    order: list[int] = []
    used = [False] * len(groups)
    running = _Ranges()
    for i, group in enumerate(groups):
        if used[i]:
            continue
        if group.op not in EMPTY and not running.allows(group):
            waiting = _Ranges()
            waiting.add(group)
            for j in range(i + 1, min(i + _AHEAD, len(groups))):
                if used[j]:
                    continue
                other = groups[j]
                if other.op not in _MOVED_OVER:
                    break
                if (other.op in EMPTY or running.allows(other)) and waiting.allows(other):
                    running.add(other)
                    order.append(j)
                    used[j] = True
                else:
                    waiting.add(other)
            running = _Ranges()
        running.add(group)
        order.append(i)
    return order
