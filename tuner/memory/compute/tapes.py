"""Peaks of a model's graphs, each graph traced once for all batches, contexts and cache types.

What happens in one device's buffer depends on the layers there and on their neighbours, so that
a graph of these alone gives its tape; placements that differ elsewhere share it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import inf

from tuner.memory.compute.alive import Alive
from tuner.memory.compute.allocator import peaks, replay, trace
from tuner.memory.compute.graph import HOST, Borrower, Graph, Layout
from tuner.memory.compute.replica.builder import Layers, Shape
from tuner.memory.compute.replica.model_graph import ModelGraph
from tuner.memory.compute.terms import Terms, products, symbolic, terms, value

_Key = tuple[Shape, Layers, int, int]  # the symbolic shape, layers, output's device, copies
_Pair = tuple[tuple[Terms, Terms], ...]  # two lengths for each dimension in which layouts differ
_Traced = tuple["_SymbolicTape", set[_Pair]]


_BUILDING = 300  # steps in whose time one layer of a graph is built,
_LARGE = 128  # of no more layers than this; of twice as many, each takes twice as long
_TRACING = 2  # the same for each step of a tape that is traced
_COUNTING = 1  # and of one of which is found what is alive at once


@dataclass(slots=True)
class Work:
    """What was done so far, in steps of replayed tapes: a measure of time (a microsecond or so
    each) that is the same on every run. Beyond `most` no more graphs are built."""

    steps: int = 0
    most: float = inf

    @property
    def done(self) -> bool:
        return self.steps > self.most


@contextmanager
def _uncollected() -> Iterator[None]:
    """Nothing is looked through for cycles meanwhile. A graph has none, but so many objects that
    the search for them takes as long as building it."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class _SymbolicTape:
    """One device's tape with sizes left open, and the peaks found so far."""

    def __init__(self, steps: Sequence[int], sizes: Sequence[Terms], alignment: int, work: Work):
        self._steps, self._sizes, self._alignment = steps, sizes, alignment
        self._work = work
        self._places = sorted({place for size in sizes for place, _ in size})
        self._peaks: dict[tuple[float, ...], int] = {}
        self._alive: Alive | None = None

    def least(self, by_place: Sequence[float]) -> int:
        """No more than `peak`, quickly."""
        key = tuple([by_place[place] for place in self._places])
        if key in self._peaks:
            return self._peaks[key]
        if self._alive is None:
            self._work.steps += _COUNTING * len(self._steps)
            self._alive = Alive(self._steps, self._sizes, self._places)
        return self._alive.least(key)

    def peak(self, by_place: Sequence[float]) -> int:
        key = tuple([by_place[place] for place in self._places])
        found = self._peaks.get(key)
        if found is None:
            sizes = [value(size, by_place) for size in self._sizes]
            self._work.steps += len(self._steps)
            found = self._peaks[key] = replay(self._steps, sizes, self._alignment)
        return found


def _differences(a: Layout, b: Layout) -> _Pair | None:
    """Where two layouts of a symbolic graph differ; None if they do for every value of the sizes
    left open."""
    if a[1] != b[1] or len(a[0]) != len(b[0]):
        return None
    pair = tuple((terms(x), terms(y)) for x, y in zip(a[0], b[0], strict=True) if x != y)
    return None if any(_fixed(x) and _fixed(y) for x, y in pair) else pair


def _fixed(size: Terms) -> bool:
    return all(place == 0 for place, _ in size)


class SymbolicGraph:
    """The tapes of one graph, each traced when its device is asked for first."""

    def __init__(self, trace: Callable[[int], _Traced]):
        """`trace` gives the tape of a device, and the layouts that differ: where they become
        alike, it is another. It may raise where sizes cannot be left open."""
        self._trace = trace
        self._traced: dict[int, _Traced | None] = {}

    def peak(self, shape: Shape, device: int) -> int | None:
        """Bytes on a device. None where its tape does not say: a coincidence of sizes lets a tensor
        take over memory that it otherwise cannot, a size is of a form that nothing in the shape
        stands for, or a builder does more with sizes than was assumed."""
        return self._told(shape, device, _SymbolicTape.peak)

    def least(self, shape: Shape, device: int) -> int:
        """Bytes that `peak` is not below, quickly; 0 where the tape does not say."""
        return self._told(shape, device, _SymbolicTape.least) or 0

    def _told(
        self, shape: Shape, device: int, tell: Callable[[_SymbolicTape, Sequence[float]], int]
    ) -> int | None:
        if device not in self._traced:
            try:
                self._traced[device] = self._trace(device)
            except Exception:  # if layers cannot be built at all, plain numbers raise once more
                self._traced[device] = None
        traced = self._traced[device]
        if traced is None:
            return None
        tape, layouts_that_differ = traced
        by_place = products(shape)
        try:
            for pair in layouts_that_differ:
                if all(value(x, by_place) == value(y, by_place) for x, y in pair):
                    return None
            return tell(tape, by_place)
        except IndexError:
            return None


class Replays:
    """Bytes of compute buffer per device, the host first, for layers on their devices."""

    def __init__(
        self,
        graph: ModelGraph,
        alignments: Sequence[int],
        offload: Borrower,
        *,
        opens: bool,
        trims: bool = True,
        optimizers: Sequence[str] = (),
    ):
        """`opens`: whether sizes may be left open; if not, every shape has a graph of its own.
        `trims`: whether layers far from a device may be left out, which they may not where later
        ones read what all earlier ones have banked, or where they run in cycles. `optimizers`: as
        of `scheduler.scheduled`."""
        self._graph, self._alignments, self._offload = graph, alignments, offload
        self._optimizers = optimizers
        self.anew = partial(
            Replays, graph, alignments, offload, opens=opens, trims=trims, optimizers=optimizers
        )
        self._opens, self._trims = opens, opens and trims
        self.work = Work()
        self._graphs: dict[_Key, SymbolicGraph] = {}
        self._traced: dict[_Key, tuple[list[_SymbolicTape], set[_Pair]]] = {}
        self._tapes: dict[tuple[tuple[int, ...], tuple[Terms, ...], int], _SymbolicTape] = {}
        self._tried: set[tuple[int, bool, bool, bool, int]] = set()

    @property
    def trims(self) -> bool:
        """Whether what happens on a device goes by the layers there and their neighbours alone."""
        return self._trims

    def graph(self, shape: Shape, layers: Layers, output: int, copies: int) -> SymbolicGraph | None:
        """The graph of these layers with the numbers of the shape left open; None where that
        cannot be."""
        if not self._opens:
            return None
        key = (symbolic(shape), layers, output, copies)
        found = self._graphs.get(key)
        if found is None:
            found = self._graphs[key] = SymbolicGraph(partial(self._on_device, key))
        return found if self._holds(found, shape, key) else self._graphs.get(key)

    def bounded(
        self, shape: Shape, layers: Layers, output: int, copies: int
    ) -> tuple[tuple[int, ...], Graph]:
        """The peaks of one graph of plain numbers, and the graph, used up. Where a backend may
        order it otherwise (`unsure`), they are what any order takes, but for other holes. Raises
        what the graph's builder raises where a model's layers are like none that it knows."""
        found, graph = self._replayed(shape, layers, output, copies)
        if graph.unsure:
            most, _ = self._replayed(shape, layers, output, copies, for_any_order=True)
            found = tuple(map(max, found, most))
        return found, graph

    def _replayed(
        self, shape: Shape, layers: Layers, output: int, copies: int, *, for_any_order: bool = False
    ) -> tuple[tuple[int, ...], Graph]:
        with _uncollected():
            graph = self.built(shape, layers, output)
            graph.for_any_order = for_any_order
            self.work.steps += 2 * _TRACING * len(graph.nodes)
            return tuple(peaks(graph, self._alignments, copies, self._optimizers)), graph

    def built(self, shape: Shape, layers: Layers, output: int) -> Graph:
        """The graph itself, as it is before it is scheduled."""
        larger = -(-len(layers) // _LARGE)
        self.work.steps += _BUILDING * len(layers) * larger  # if it cannot be built, too
        return self._graph.build(shape, layers, output, self._offload)

    def _on_device(self, key: _Key, device: int) -> _Traced:
        shape, layers, output, copies = key
        near = self._near(layers, device, output) if self._trims else layers
        tapes, layouts_that_differ = self._trace((shape, near, output, copies))
        return tapes[device], layouts_that_differ

    def _near(self, layers: Layers, device: int, output: int) -> Layers:
        """The layers that decide what happens on a device: its own, their neighbours, those
        whose weights it borrows. On the host also the first of each kind elsewhere: their inputs
        are there."""
        own = [
            at == device
            or (experts and device == HOST)
            or ((at == HOST or experts) and device == self._offload.device)
            for _, at, experts in layers
        ]
        near = [
            any(own[max(0, i - 1) : i + 2]) or (i == len(own) - 1 and output == device)
            for i in range(len(own))
        ]
        if device == HOST:
            near = [
                n or layers.index(layer) == i
                for i, (n, layer) in enumerate(zip(near, layers, strict=True))
            ]
        kept = tuple(layer for layer, n in zip(layers, near, strict=True) if n)
        return kept or layers[-1:]

    def _trace(self, key: _Key) -> tuple[list[_SymbolicTape], set[_Pair]]:
        found = self._traced.get(key)
        if found is None:
            shape, layers, output, copies = key
            with _uncollected():
                graph = self.built(shape, layers, output)
                traced, layouts_that_differ = trace(
                    graph, len(self._alignments), copies, self._optimizers
                )
                del graph
            tapes = []
            for tape, alignment in zip(traced, self._alignments, strict=True):
                self.work.steps += _TRACING * len(tape.steps)
                kept = (tape.steps, tuple(terms(size) for size in tape.sizes), alignment)
                if kept not in self._tapes:
                    self._tapes[kept] = _SymbolicTape(*kept, self.work)
                tapes.append(self._tapes[kept])
            pairs = {p for p in (_differences(a, b) for a, b in layouts_that_differ) if p}
            found = self._traced[key] = (tapes, pairs)
        return found

    def _holds(self, graph: SymbolicGraph, shape: Shape, key: _Key) -> bool:
        """Whether open sizes and layers left out may be trusted: they are held against a graph of
        plain numbers and all layers when a kind of layer is met first, since a builder may decide
        by a size, and layers may read what others far away have made."""
        _, layers, output, copies = key
        n_devices = len({device for _, device, _ in layers})
        kinds = {
            (il, experts, device == HOST, shape.flash, n_devices) for il, device, experts in layers
        } - self._tried
        if not kinds:
            return True
        found = tuple([graph.peak(shape, device) for device in range(len(self._alignments))])
        if None in found:
            return True
        self._tried |= kinds
        peaks_of_all, whole = self._replayed(shape, layers, output, copies)
        if found == peaks_of_all and not whole.unsure:
            return True
        # first whole graphs instead of those near a device, then plain numbers, and these at once
        # where there must be room for any order
        self._trims, self._opens = False, self._trims and not whole.unsure
        self._tried.clear()
        self._graphs.clear()
        self.graph(shape, layers, output, copies)
        return False
