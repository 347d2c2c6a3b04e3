"""Which layers stand for all in a search's graphs: of equal ones in a row on a device, a few."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from tuner.memory.compute.replica.builder import Layers
from tuner.memory.compute.replica.dsa import LEFT_OUT, is_sparse
from tuner.memory.compute.replica.model_graph import ModelGraph
from tuner.memory.placement import Placement

_FEW = 2  # of each kind of neighbours,
_MORE = 4  # where nodes are in another order, and states leave holes of their own
_Layer = tuple[int, int, bool]


@dataclass(frozen=True, slots=True)
class Kind:
    """Equal layers of a model."""

    layer: int  # the first of them
    routed: bool  # has experts
    longest_without: int  # layers in a row of which none is of this kind


class StandIns:
    """A model's layers at any placement, as graphs are built of them. What goes by the number of
    layers alone is found once, so that a placement costs little."""

    def __init__(self, graph: ModelGraph, *, reordered: bool = False) -> None:
        """`reordered`: whether a device runs nodes in an order of its own."""
        hp, layers = graph.hp, graph.model.tensors.layers
        n = self._n = hp.n_layer
        self._few = few = _MORE if reordered and any(hp.recurrent) else _FEW
        # Equal layers go by the number of the first of them, so that placements share replays.
        self._first = [graph.first_alike[signature] for signature in graph.signatures]
        self._routed = [bool(group.experts) for group in layers[:n]]
        self._sparse = [il for il in range(n) if is_sparse(hp, il)]
        # each layer that reads a cache on another device has its own copy of it
        self._shared = hp.n_layer_kv < n or hp.cycles[0] > 0
        self._banks = hp.residual_block > 0  # what earlier layers bank, later ones read
        self._in_place = hp.indexer_block > 0  # each has its own copies of the inputs, in its place
        neighbours: dict[tuple[int, int], list[int]] = {}
        for il, pair in enumerate(pairwise(self._first)):
            neighbours.setdefault(pair, []).append(il)
        self._alike = [at for at in neighbours.values() if len(at) > few]
        self._rare = [il for at in neighbours.values() if len(at) <= few for il in at]
        self._known: dict[_Layer, _Layer] = {}
        self.kinds = tuple(self._kind(il) for il in dict.fromkeys(self._first))

    def _kind(self, layer: int) -> Kind:
        at = [-1, *(il for il, first in enumerate(self._first) if first == layer), self._n]
        without = max(b - a - 1 for a, b in pairwise(at))
        return Kind(layer, self._routed[layer], without)

    def every(self, where: Placement) -> Layers:
        """All layers: (layer, device, experts on the host)."""
        return self._on_devices(range(self._n), where)

    def few(self, where: Placement) -> Layers:
        """Of each run of equal layers on a device a few, and the last."""
        n, moe = self._n, where.n_cpu_moe
        cuts = sorted({0, n, *(cut for cut in (*where.ends, moe) if cut < n)})
        if self._banks or (self._shared and where.ends[bisect_right(where.ends, 0)] < n):
            return self.every(where)
        chosen = {*self._rare, *(end - 1 for end in cuts[1:]), *range(max(0, n - 2), n)}
        for first, end in pairwise(cuts):
            for at in self._alike:
                i = bisect_left(at, first)
                times = bisect_left(at, end - 1, i) - i
                # where layers change sides within, memory may lie otherwise in every second one:
                # a run of an odd number of layers stays odd
                chosen.update(at[i : i + min(times, self._few + (moe > 0 and times % 2))])
        layers = self._on_devices(sorted(chosen), where)
        if self._in_place:
            stand_ins = dict(zip(sorted(chosen), layers, strict=True))
            return tuple(
                stand_ins.get(il, (LEFT_OUT, bisect_right(where.ends, il), False))
                for il in range(n)
            )
        left = (il for il in self._sparse if il not in chosen)
        devices = sorted(bisect_right(where.ends, il) for il in left)
        return (*layers, *((LEFT_OUT, device, False) for device in devices))

    def _on_devices(self, chosen: Iterable[int], where: Placement) -> Layers:
        ends, moe, known = where.ends, where.n_cpu_moe, self._known
        layers = [
            (self._first[il], bisect_right(ends, il), il < moe and self._routed[il])
            for il in chosen
        ]
        return tuple([known.setdefault(layer, layer) for layer in layers])
