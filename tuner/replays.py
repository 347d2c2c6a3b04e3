"""Peaks of a model's graphs, each graph traced once for all batches, contexts and cache types."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.allocator import replay, trace
from tuner.graph import HOST, Layout
from tuner.graph_layers import Shape
from tuner.graph_model import ModelGraph
from tuner.graph_sizes import Terms, alike, opened, products, terms, value

Layers = tuple[tuple[int, int, bool], ...]  # (layer, device, experts on the host)


class _OpenTape:
    """One device's tape with sizes left open, and the peaks found so far. Many graphs share it:
    a GPU's does not change with how the layers before it are spread."""

    def __init__(self, steps: Sequence[int], sizes: Sequence[Terms], alignment: int):
        self._steps, self._sizes, self._alignment = steps, sizes, alignment
        self._places = sorted({place for size in sizes for place, _ in size})
        self._peaks: dict[tuple[float, ...], int] = {}

    def peak(self, by_place: Sequence[float]) -> int:
        key = tuple([by_place[place] for place in self._places])
        found = self._peaks.get(key)
        if found is None:
            sizes = [value(size, by_place) for size in self._sizes]
            found = self._peaks[key] = replay(self._steps, sizes, self._alignment)
        return found


class _OpenGraph:
    """The tapes of one graph; `unlike` are layouts that must not become alike."""

    def __init__(self, tapes: list[_OpenTape], unlike: set[tuple[Layout, Layout]]):
        self._tapes = tapes
        self._unlike = [(a, b) for a, b in unlike if a[1] == b[1] and len(a[0]) == len(b[0])]

    def peaks(self, by_place: Sequence[float]) -> tuple[int, ...] | None:
        """Bytes per device, the host first; None where a coincidence of sizes lets a tensor take
        over memory that it otherwise cannot, so that the tapes are others."""
        if any(alike(a, b, by_place) for a, b in self._unlike):
            return None
        return tuple([tape.peak(by_place) for tape in self._tapes])


class Replays:
    """Bytes of compute buffer per device, the host first, for layers on their devices."""

    def __init__(self, graph: ModelGraph, alignments: Sequence[int], offload: int, *, opens: bool):
        """`opens`: whether sizes may be left open, which they may not where a graph depends on
        the context (sparse attention)."""
        self._graph, self._alignments, self._offload = graph, alignments, offload
        self._open: dict[tuple[Shape, Layers, int, int], _OpenGraph | None] = {}
        self._tapes: dict[tuple[tuple[int, ...], tuple[Terms, ...], int], _OpenTape] = {}
        self._tried: set[tuple[int, bool, bool, bool]] = set()
        self._opens = opens

    def peaks(self, shape: Shape, layers: Layers, output: int, copies: int) -> tuple[int, ...]:
        """The peaks of the graph of these layers. Raises what the graph's builder raises where a
        model's layers are like none that it knows."""
        if self._opens:
            by_place = products(shape)
            open_graph = self._opened(shape, layers, output, copies)
            found = open_graph.peaks(by_place) if open_graph else None
            if found is not None and self._holds(found, shape, layers, output, copies):
                return found
        return self._replayed(shape, layers, output, copies)

    def _opened(self, shape: Shape, layers: Layers, output: int, copies: int) -> _OpenGraph | None:
        key = (opened(shape), layers, output, copies)
        if key not in self._open:
            try:
                self._open[key] = self._traced(*key)
            except (LookupError, ArithmeticError, TypeError, ValueError):
                self._open[key] = None  # what a builder does with sizes is not what was assumed
        return self._open[key]

    def _traced(self, shape: Shape, layers: Layers, output: int, copies: int) -> _OpenGraph:
        graph = self._graph.build(shape, layers, output, self._offload)
        traced, unlike = trace(graph, len(self._alignments), copies)
        tapes = []
        for tape, alignment in zip(traced, self._alignments, strict=True):
            key = (tape.steps, tuple(terms(size) for size in tape.sizes), alignment)
            if key not in self._tapes:
                self._tapes[key] = _OpenTape(*key)
            tapes.append(self._tapes[key])
        return _OpenGraph(tapes, unlike)

    def _holds(
        self, found: tuple[int, ...], shape: Shape, layers: Layers, output: int, copies: int
    ) -> bool:
        """Whether sizes left open may be trusted: they are compared with a graph of plain numbers
        when a kind of layer is met first, since a builder may decide by a size."""
        kinds = {
            (il, experts, device == HOST, shape.flash) for il, device, experts in layers
        } - self._tried
        if kinds:
            self._tried |= kinds
            self._opens = found == self._replayed(shape, layers, output, copies)
        return self._opens

    def _replayed(self, shape: Shape, layers: Layers, output: int, copies: int) -> tuple[int, ...]:
        graph = self._graph.build(shape, layers, output, self._offload)
        tapes, _ = trace(graph, len(self._alignments), copies)
        return tuple(
            replay(t.steps, t.sizes, a) for t, a in zip(tapes, self._alignments, strict=True)
        )
