"""What backends do to a graph before memory is found for it, on graphs small enough to follow."""

from __future__ import annotations

from collections import Counter

import pytest

from tuner.gguf.header import TensorInfo
from tuner.memory.compute.allocator import peaks, replay, shrinking
from tuner.memory.compute.graph import Graph, Node
from tuner.memory.compute.ops import Op
from tuner.memory.compute.optimize import OPTIMIZERS, Kept, Split

_TOKENS = 32


def _optimized(backend: str, g: Graph, after: Node | None = None) -> tuple[list[Node], Kept]:
    kept: Kept = {}
    uses = Counter(src for node in g.nodes for src in node.srcs)
    return OPTIMIZERS[backend](Split(list(g.nodes), uses, after, kept)), kept


def _graph() -> tuple[Graph, Node]:
    g = Graph()
    g.device = 1
    x = g.over(g.input(64, _TOKENS), op="RMS_NORM")
    return g, x


def _ops(nodes: list[Node]) -> str:
    return " ".join(node.op for node in nodes)


@pytest.mark.parametrize("backend", ["Metal", "Vulkan"])
def test_independent_products_are_put_next_to_each_other(backend: str) -> None:
    """Three products of one input with rotations between them: the products come first."""
    g, x = _graph()
    pos = g.input(_TOKENS)
    for _ in range(3):
        g.expand(g.over(g.mm(64, x), pos, op="ROPE"))
    assert _ops(g.nodes) == "RMS_NORM MUL_MAT ROPE MUL_MAT ROPE MUL_MAT ROPE"
    nodes, kept = _optimized(backend, g)
    assert _ops(nodes) == "RMS_NORM MUL_MAT MUL_MAT MUL_MAT ROPE ROPE ROPE"
    assert not kept
    assert _optimized("CUDA", g)[0] == g.nodes


def test_vulkan_stores_a_rotated_key_right_behind_its_rotation() -> None:
    """One kernel does both, so that nothing comes between."""
    g, x = _graph()
    cache = g.external(0, 1)
    pos, rows = g.input(_TOKENS), g.input(_TOKENS)
    key = g.over(g.reshape(g.mm(64, x), 64, _TOKENS), pos, op="ROPE")
    g.expand(key, g.mm(64, x))
    g.expand(g.stored(g.view(key, 64, _TOKENS), rows, cache))
    assert _ops(g.nodes).endswith("ROPE MUL_MAT VIEW SET_ROWS")
    assert _ops(_optimized("Vulkan", g)[0]).endswith("ROPE VIEW SET_ROWS")


@pytest.mark.parametrize(
    ("op", "order"),
    [
        ("CONT", "RMS_NORM MUL_MAT MUL_MAT ROPE CONT"),
        ("FLASH_ATTN_EXT", "RMS_NORM MUL_MAT ROPE MUL_MAT FLASH_ATTN_EXT"),
    ],
)
def test_metal_looks_no_further_than_attention(op: Op, order: str) -> None:
    """A product that waits for nothing runs before what waits, unless attention is between."""
    g, x = _graph()
    turned = g.over(g.mm(64, x), g.input(_TOKENS), op="ROPE")
    g.expand(g.new(64, _TOKENS, of=(turned,), op=op), g.mm(64, x))
    assert _ops(_optimized("Metal", g)[0]) == order


def _lies(name: str, offset: int, n_bytes: int) -> TensorInfo:
    return TensorInfo(name, (64, 64), 0, offset, n_bytes)


@pytest.mark.parametrize(
    ("read", "moved"), [((0, 64), False), ((0, 32), True), ((128, 64), True), ((64, 64), False)]
)
def test_metal_moves_no_reader_across_a_look_at_the_weight_right_behind(
    read: tuple[int, int], moved: bool
) -> None:
    """A product that waits for nothing runs at once with the norm, unless the weight that it reads
    is one, or ends where one begins, that a node before it looks at under another shape."""
    g, x = _graph()
    look = g.reshape(g.reads(_lies("looked at", 64, 64), g.external(64, 1)), 64)
    g.expand(g.mul(g.over(x, op="SILU"), look))
    free = g.reads(_lies("read", *read), g.mm(32, g.input(64, _TOKENS)))
    g.expand(free)
    nodes, _ = _optimized("Metal", g)
    assert nodes.index(look) == 1
    assert (nodes.index(free) == 2) == moved


def _experts(n_expert: int, used: int) -> tuple[Graph, list[Node]]:
    """A router's choice among experts, and their weighted sum."""
    g, x = _graph()
    probs = g.over(g.mm(n_expert, x), op="SOFT_MAX")
    order = g.new(n_expert, _TOKENS, of=(probs,), op="ARGSORT")
    top = g.view(order, used, _TOKENS, contiguous=False)
    shares = g.new(
        1, used, _TOKENS, of=(g.reshape(probs, 1, n_expert, _TOKENS), top), op="GET_ROWS"
    )
    g.expand(shares)
    results = g.product((64, used, _TOKENS), (g.reshape(x, 64, 1, _TOKENS), top), 1, routed=True)
    weighted = g.mul(results, shares)
    parts = [g.view(weighted, 64, _TOKENS, contiguous=False, stride=64 * used) for _ in range(used)]
    g.expand(*parts)
    total = parts[0]
    for part in parts[1:]:
        total = g.add(total, part)
        g.expand(total)
    return g, [results, shares, total]


@pytest.mark.parametrize("backend", ["CUDA", "Metal"])
def test_what_is_summed_up_is_kept_until_the_sum_is_there(backend: str) -> None:
    g, (results, shares, total) = _experts(8, 4)
    _, kept = _optimized(backend, g)
    assert {results, shares} <= set(kept[total])


@pytest.mark.parametrize(
    ("n_expert", "used", "chosen", "summed"),
    [(8, 4, True, True), (12, 4, False, True), (64, 16, True, False), (288, 1, True, False)],
)
def test_cuda_has_kernels_for_some_numbers_of_experts(
    n_expert: int, used: int, chosen: bool, summed: bool
) -> None:
    """A choice among a power of two, or 288; a sum of 2 to 15."""
    g, (_, shares, total) = _experts(n_expert, used)
    _, kept = _optimized("CUDA", g)
    until = {shares: [k for k in kept if shares in kept[k]]}
    assert any(k is not total for k in until[shares]) == chosen
    assert (total in kept) == summed


def test_what_is_kept_is_not_given_back() -> None:
    """On a GPU without the rule the sum may take over what the results have left."""
    g, _ = _experts(8, 4)
    _, without = peaks(g, [32, 32])
    g, _ = _experts(8, 4)
    _, within = peaks(g, [32, 32], 1, ["", "CUDA"])
    assert within > without


def test_the_end_of_a_block_is_given_back() -> None:
    """What an operation takes beside its result is free once the result is taken over."""
    sizes = [96, 32, 64]
    assert replay([0, 2], sizes, 32) == 160
    assert replay([0, shrinking(0, 1), 2], sizes, 32) == 96
    assert replay([0, shrinking(0, 0), 2], sizes, 32) == 160
