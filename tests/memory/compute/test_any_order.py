"""Where a backend's order cannot be told, there is room for every order that it may choose."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.headers import machine, real_model, unpacked
from tuner.memory.compute import scheduler
from tuner.memory.compute.allocator import peaks
from tuner.memory.compute.graph import Graph, Node
from tuner.memory.compute.ops import Op
from tuner.memory.compute.optimize.split import base
from tuner.memory.compute.scheduler import scheduled
from tuner.memory.estimator import Estimator
from tuner.settings import Settings

_REACH = 4
_GPU = 1  # the peaks' place, behind the host's


def _graph(seed: int, n: int) -> Graph:
    """Tensors of one size, so that there are never holes, each made of some earlier ones: anew,
    over one of them, or into its memory. All are read in the end, by a node that nobody knows."""
    r = random.Random(seed)
    g = Graph()
    g.device = _GPU
    made: list[Node] = [g.mm(8, g.input(8, 1))]
    for _ in range(n):
        of = tuple(r.sample(made[-6:], min(len(made), r.choice((1, 1, 2)))))
        kind = r.random()
        if kind < 0.3:
            made.append(Node((8, 1), 4, of, "ADD", root=base(of[0])))
        elif kind < 0.6:
            made.append(g.over(*of, op="SIN"))
        else:
            made.append(g.new(8, 1, of=of, op="CONT"))
    read = {x for node in made for src in node.srcs for x in (src, base(src))}
    g.expand(*made)
    g.expand(Node((0,), 0, tuple(x for x in made if x not in read), external=True))
    return g


def _waits(node: Node, earlier: Node) -> bool:
    """Whether one reads or writes what the earlier one writes, or writes what it reads."""
    written, read = base(earlier), {base(src) for src in earlier.srcs}
    return written in {base(node), *map(base, node.srcs)} or base(node) in read


def _in_another_order(g: Graph, seed: int) -> None:
    """Takes nodes ahead of others that they do not wait for, no further than a backend does."""
    r = random.Random(seed)
    at = {node: i for i, node in enumerate(g.nodes)}
    left, order = list(g.nodes), []
    while left:
        near = [x for x in left if at[x] <= at[left[0]] + _REACH]
        ready = [x for i, x in enumerate(near) if not any(_waits(x, y) for y in near[:i])]
        order.append(r.choice(ready))
        left.remove(order[-1])
    g.nodes[:] = order


@given(seed=st.integers(0, 10_000), n=st.integers(1, 30), orders=st.integers(0, 10_000))
def test_no_order_takes_more(seed: int, n: int, orders: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "REACH", {"Vulkan": _REACH})
        most = _graph(seed, n)
        most.for_any_order = True
        bound = peaks(most, [32, 32], 1, ["", "Vulkan"])[_GPU]
    for turn in range(5):
        other = _graph(seed, n)
        _in_another_order(other, orders + turn)
        assert peaks(other, [32, 32])[_GPU] <= bound


def test_what_depends_on_a_reader_does_not_meet_what_was_read() -> None:
    """A chain takes no more in any order, since there is only one."""
    sizes = []
    for any_order in (False, True):
        g = Graph()
        g.device = _GPU
        x = g.mm(8, g.input(8, 1))
        for _ in range(10):
            x = g.new(8, 1, of=(x,), op="CONT")
        g.expand(g.over(x))
        g.for_any_order = any_order
        sizes.append(peaks(g, [32, 32], 1, ["", "Vulkan"])[_GPU])
    assert sizes == [64, 64]


@pytest.mark.parametrize(("op", "unsure"), [("SCALE", False), ("", True)])
def test_an_order_is_not_sure_where_an_operation_is_unknown(op: Op, unsure: bool) -> None:
    g = Graph()
    g.device = _GPU
    g.expand(g.over(g.mm(64, g.over(g.input(64, 32), op="RMS_NORM")), op=op))
    scheduled(g, 1, ["", "Vulkan"])
    assert g.unsure == unsure


@pytest.mark.parametrize("backend", ["Metal", "Vulkan"])
def test_of_a_model_whose_operations_are_not_known(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said to be assumed, and no less than what the known order takes."""
    model = real_model(sorted(unpacked()[0])[0])
    settings = Settings(4096, n_gpu_layers=999)
    known = Estimator(model, machine(1, backend)).exact(settings)
    assert known.source == "computed"

    def without_op(self: Node, *args: Any, **more: Any) -> None:
        init(self, *args, **more)
        if self.op in ("MUL", "RMS_NORM"):
            self.op = ""

    init = Node.__init__
    monkeypatch.setattr(Node, "__init__", without_op)
    found = Estimator(model, machine(1, backend)).exact(settings)
    assert found.source == "assumed"
    assert all(a.compute >= b.compute for a, b in zip(found.uses, known.uses, strict=True))
