"""CUDA, ROCm and MUSA keep what comes into two runs of operations on experts until these are done,
so that one kernel can stand for all of them; the order stays
(`ggml_backend_cuda_graph_optimize`, ggml-cuda/ggml-cuda.cu).
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from tuner.memory.compute.graph import Node
from tuner.memory.compute.optimize.split import NORMED, Split

_EXPERTS = range(2, 16)  # to MOE_WEIGHTED_REDUCTION_MAX_EXPERTS
_ODD_COUNTS = (288, 576)  # of experts with a kernel (`ggml_cuda_should_use_topk_moe`),
_LARGEST = 512  # beside powers of two up to this

_CHOICES = frozenset({"UNARY", "SOFT_MAX", "ARGSORT"})


class _Sum(NamedTuple):
    """A sum of experts' results."""

    kept: tuple[Node, ...]
    length: int  # nodes


def optimized(split: Split) -> list[Node]:
    """The nodes as they are; what is to be kept is noted."""
    i = 0
    while i < len(split.nodes):
        total = _weighted_sum(split, i) if split.ops[i] == "MUL" else None
        if total is not None:
            i += total.length - 1
            for node in total.kept:
                split.keep(node, split.nodes[i])
        length = _choice(split, i) if split.ops[i] in _CHOICES else 0
        if length:
            _keep_all(split, i, length)
            i += length - 1
        i += 1
    return split.nodes


def _keep_all(split: Split, first: int, count: int) -> None:
    """Keeps the nodes and what they read until the one behind them has run."""
    end = first + count
    until = split.nodes[end] if end < len(split.nodes) else split.after
    if until is None:
        return
    for node in split.nodes[first:end]:
        split.keep(node, until)
        for src in node.srcs:
            split.keep(src, until)


def _weighted_sum(split: Split, i: int) -> _Sum | None:
    """The results of experts times their shares, added up
    (`ggml_cuda_match_moe_weighted_reduction`)."""
    first = split.nodes[i]
    factors: tuple[Node, ...] | None = None
    products = 1
    weighted = first
    if split.ops[i + 1 : i + 2] == ["MUL"]:
        second = split.nodes[i + 1]
        outer, inner = _factors(second), _factors(first)
        if outer and inner and outer[0] is first:
            factors = (inner[0], outer[1], inner[1])
            products, weighted = 2, second
    factors = factors or _factors(first)
    if factors is None or not first.contiguous:
        return None
    used = weighted.shape[1]
    if used not in _EXPERTS:
        return None
    length = 2 * used + products - 1
    nodes = split.nodes[i + products : i + length]
    if i + length > len(split.nodes):
        return None
    parts = [node for node in nodes if node.op == "VIEW" and node.srcs[0] is weighted]
    sums = [node for node in nodes if node.op == "ADD"]
    if len(parts) != used or len(sums) != used - 1:
        return None
    lefts = (parts[0], *sums)
    if any(s.srcs[:2] != (a, b) for s, a, b in zip(sums, lefts, parts[1:], strict=False)):
        return None
    end = i + length - 1
    return _Sum(factors, length) if split.confined(range(i, end + 1), (end,)) else None


def _factors(product: Node) -> tuple[Node, Node] | None:
    """The results of experts, and what they are multiplied by: one number for each row."""
    match product.srcs:
        case (a, b):
            pairs = ((a, b), (b, a))
        case _:
            return None
    for full, shares in pairs:
        if (
            full.shape == product.shape
            and full.contiguous
            and shares.contiguous
            and len(shares.shape) > 1
            and shares.shape == (1, *product.shape[1:])
        ):
            return full, shares
    return None


def _choice(split: Split, i: int) -> int:
    """How many nodes choose experts from here on and can be one kernel; 0 where it is none of the
    forms known (`ggml_cuda_topk_moe_fusion`)."""
    nodes, ops = split.nodes, split.ops
    node = nodes[i]
    run = [ops[i]]
    if ops[i] == "UNARY":
        if node.op == "SOFTPLUS" and ops[i + 1 : i + 2] == ["SQRT"]:
            run.append("SQRT")
        elif node.op != "SIGMOID":
            return 0
    elif ops[i] == "ARGSORT":
        return 0  # its shares are made later, and it is left as it is
    probs = i + len(run) - 1
    run += ["RESHAPE"]
    biased = ops[probs + 2 : probs + 3] == ["ADD"] and nodes[probs + 2].srcs[0] is nodes[probs]
    run += ["ADD"] if biased else []
    run += ["ARGSORT", "VIEW", "GET_ROWS"]
    if not split.runs(run, i):
        return 0
    picked = i + len(run) - 2
    reshaped, order, view, rows = (nodes[n] for n in (probs + 1, picked - 1, picked, picked + 1))
    sorted_by = nodes[probs + 2] if biased else nodes[probs]
    if (
        reshaped.srcs[0] is not nodes[probs]
        or order.srcs[0] is not sorted_by
        or view.srcs[0] is not order
        or rows.srcs[:2] != (reshaped, view)
    ):
        return 0
    end = i + len(run)
    if split.runs(NORMED, end) and _is_normed(nodes[end - 1 : end + len(NORMED)]):
        run += NORMED
    end = i + len(run)
    if ops[end : end + 1] == ["SCALE"] and nodes[end].srcs[0] is nodes[end - 1]:
        run.append("SCALE")
    end = i + len(run) - 1
    n_expert = order.shape[0]
    if (n_expert & (n_expert - 1) or n_expert > _LARGEST) and n_expert not in _ODD_COUNTS:
        return 0
    if node.op == "SOFT_MAX" and len(node.srcs) > 1:
        return 0
    return len(run) if split.confined(range(i, end + 1), (picked, end)) else 0


def _is_normed(nodes: list[Node]) -> bool:
    """Whether shares are divided by their sum."""
    chain = all(node.srcs[0] is before for before, node in pairwise(nodes[:4]))
    _, flat, _, clamped, divided, shares = nodes
    return chain and divided.srcs[:2] == (flat, clamped) and shares.srcs[0] is divided
