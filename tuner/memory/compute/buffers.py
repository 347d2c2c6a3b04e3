"""The compute buffer: the scratch memory of one graph, per device.

The graph is built as sizes alone and ggml's allocator replayed over it (`tapes.py`).
`exact` does so with every layer at the very context. A search asks thousands of times, so `sizes`
makes do with a choice of layers, enough of each kind and each border between kinds, and where
masks are all that grows with the context, with a line between few contexts.
"""

from __future__ import annotations

from collections import Counter

from tuner.machine.backends import HOST_LAYOUT, backend
from tuner.machine.machine import Machine
from tuner.memory.cache_types import CACHE_TYPES
from tuner.memory.compute.graph import HOST
from tuner.memory.compute.replica.builder import Shape
from tuner.memory.compute.replica.dsa import LEFT_OUT, is_sparse
from tuner.memory.compute.replica.model_graph import ModelGraph
from tuner.memory.compute.replica.sparse_counts import counts, gathers, metal_counts
from tuner.memory.compute.tapes import Layers, OpenGraph, Replays
from tuner.memory.kv_cache import CacheSizes
from tuner.memory.placement import Placement
from tuner.model.model import Model
from tuner.settings import CONTEXT_PADDING, Settings
from tuner.units import padded

_COPIES = 4  # GGML_SCHED_MAX_COPIES


def _grid(n_ctx: int, exact_below: int, straight: bool) -> tuple[int, int]:
    """The two contexts with a replay that enclose this one. `straight`: the masks are all that
    grows, so few will do; else there is one to each power of two."""
    floor = 1 << (max(exact_below, 2048) - 1).bit_length()
    if n_ctx <= floor:
        return n_ctx, n_ctx
    if straight:
        low = floor
        high = max(2 * floor, 1 << 17)
        while high < n_ctx:
            low, high = high, 8 * high
        return (n_ctx, n_ctx) if n_ctx in (low, high) else (low, high)
    high = 1 << (n_ctx - 1).bit_length()
    return (n_ctx, n_ctx) if high == n_ctx else (high // 2, high)


class _Curve:
    """Compute buffers that differ by context alone, as far as they have been asked for."""

    __slots__ = ("graph", "known", "layers", "straight", "where")

    def __init__(self, where: Placement, layers: Layers, straight: bool):
        self.where = where
        self.layers = layers
        self.straight = straight
        self.graph: OpenGraph | None = None
        self.known: dict[int, tuple[int, ...]] = {}


class ComputeSizes:
    """Bytes of compute buffer for any settings."""

    def __init__(self, model: Model, machine: Machine, cache: CacheSizes):
        self._model = model
        self._hp = model.hparams
        self._graph = ModelGraph(model)
        self._cache = cache
        rows = [backend(g.backend) for g in machine.gpus]
        self._alignments = [HOST_LAYOUT.alignment, *(row.layout.alignment for row in rows)]
        self._offload = next((i for i, row in enumerate(rows, 1) if row.borrows_weights), -1)
        self._scratch = next((row.attention_scratch for row in rows if row.attention_scratch), "")
        self._pipelines = len(rows) > 1 and all(row.pipeline for row in rows)
        self._n_gpus = len(machine.gpus)
        self._recurrent = any(self._hp.recurrent)
        self._shared = self._hp.n_layer_kv < self._hp.n_layer or self._hp.cycles[0] > 0
        self._windowed = self._hp.n_swa > 0
        self._sparse = bool(self._hp.indexer_head)  # scores of every token, for each token
        self.thinnable = self._hp.row.graph.needs_every_layer
        self._layers: dict[tuple[Placement, bool], Layers] = {}
        self._exact: dict[tuple[Placement, str, str, int, bool, bool, int], tuple[int, ...]] = {}
        self._curves: dict[tuple[Placement, str, str, int, bool, bool, bool], _Curve] = {}
        self._replays = Replays(
            self._graph,
            self._alignments,
            self._offload,
            opens=True,
            trims=not (self._hp.residual_block or self._sparse or self._hp.cycles[0]),
        )

    def plainly(self) -> None:
        """From now on a replay for every shape: slow, and what the quick way must agree with."""
        self._curves.clear()
        self._replays = Replays(self._graph, self._alignments, self._offload, opens=False)

    def sizes(
        self, settings: Settings, where: Placement, flash: bool, *, closely: bool = True
    ) -> tuple[int, ...]:
        """Bytes per GPU, then on the host. Not `closely`: where only a graph of all layers is
        exact (`thinnable`), one of a few layers is, in a tenth of the time, a few MiB off, mostly
        below; all other models are not affected."""
        s = settings
        closely = closely or not self.thinnable
        key = (where, s.type_k, s.type_v, s.n_ubatch, flash, s.swa_full, closely)
        curve = self._curves.get(key)
        if curve is None:
            layers = self._layers.get((where, closely))
            if layers is None:
                layers = self._layers[where, closely] = self._choose(
                    where, every=closely and self.thinnable
                )
            straight = flash and not self._bent(settings, where)
            curve = self._curves[key] = _Curve(where, layers, straight)
        n_ctx = padded(s.n_ctx, CONTEXT_PADDING)
        found = curve.known.get(n_ctx)
        if found is None:
            found = curve.known[n_ctx] = self._between(n_ctx, settings, curve, flash)
        return found

    def _bent(self, settings: Settings, where: Placement) -> bool:
        """Whether more than the masks grows with the context."""
        bent = self._recurrent or settings.n_cpu_moe > 0
        bent = bent or (self._windowed and where.slots[0] < 0 <= where.output)
        if self._scratch:
            same = settings.type_k == settings.type_v == "f16"
            bent = bent or self._scratch == "Metal" or not same
        return bent

    def exact(self, settings: Settings, where: Placement, flash: bool) -> tuple[int, ...]:
        """The same by a graph of every layer for this very context: to the byte as far as the
        graph is the engine's, at a hundred times the cost."""
        s = settings
        n_ctx = padded(s.n_ctx, CONTEXT_PADDING)
        key = (where, s.type_k, s.type_v, s.n_ubatch, flash, s.swa_full, n_ctx)
        found = self._exact.get(key)
        if found is None:
            curve = _Curve(where, self._choose(where, every=True), straight=False)
            shape = self._shape(n_ctx, settings, curve.layers, flash)
            found = self._exact[key] = self._peak(shape, curve, plainly=True)
        return found

    def _between(
        self, n_ctx: int, settings: Settings, curve: _Curve, flash: bool
    ) -> tuple[int, ...]:
        """The replay is made for contexts on a grid; in between, the straight line between two of
        them is at least the truth, since the peak is the largest of sums that grow linearly.
        Not so under sparse attention, where the context decides which hole a tensor takes.
        """
        low = high = n_ctx
        if not self._sparse:
            low, high = _grid(n_ctx, settings.n_ubatch + self._hp.n_swa, curve.straight)
        below = self._at(low, settings, curve, flash)
        if low == n_ctx:
            return below
        above = self._at(high, settings, curve, flash)
        share = (n_ctx - low) / (high - low)
        return tuple(
            a if a == b else int(a + (b - a) * share) for a, b in zip(below, above, strict=True)
        )

    def _at(self, n_ctx: int, settings: Settings, curve: _Curve, flash: bool) -> tuple[int, ...]:
        found = curve.known.get(n_ctx)
        if found is None:
            shape = self._shape(n_ctx, settings, curve.layers, flash)
            found = curve.known[n_ctx] = self._peak(shape, curve)
        return found

    def _shape(self, n_ctx: int, settings: Settings, layers: Layers, flash: bool) -> Shape:
        hp = self._hp
        k, v = CACHE_TYPES[settings.type_k], CACHE_TYPES[settings.type_v]
        # Where a GPU borrows the host's weights, or a state on it is read early, attention of the
        # host's layers runs on the GPU too, with a copy of their cache, whose type then counts.
        # A cache that layers share is copied to every other device that has some of them.
        borrowed = self._n_gpus > 0 and (self._offload > 0 or self._recurrent)
        borrowed = borrowed and any(device == HOST for _, device, _ in layers)
        borrowed = borrowed or (self._shared and len({device for _, device, _ in layers}) > 1)
        u = min(n_ctx, settings.n_ubatch)
        metal = self._scratch == "Metal" and flash
        cells = {kind: self._cache.cells_at(kind, n_ctx, settings) for kind in self._cache.kinds}
        return Shape(
            n_tokens=u,
            cells=tuple(cells.items()),
            counts=(*counts(hp, u, cells), *(metal_counts(u, cells) if metal else ())),
            gathers=gathers(hp, u, cells),
            flash=flash,
            overridden=settings.n_cpu_moe > 0,
            rotate_k=k.quantized and hp.head_k[0] % 64 == 0,
            rotate_v=v.quantized and hp.head_v[0] % 64 == 0,
            k_bytes=k.bits / 8 if borrowed else 0.0,
            v_bytes=v.bits / 8 if borrowed else 0.0,
            scratch=self._scratch,
            f16_k=k.name == "f16" or self._scratch != "CUDA",
            f16_v=v.name == "f16" or self._scratch != "CUDA",
            k_cached=k.bits / 8 if hp.row.memory == "compressed" else 0.0,
        )

    def _peak(self, shape: Shape, curve: _Curve, *, plainly: bool = False) -> tuple[int, ...]:
        """Bytes per GPU, then on the host. `plainly`: by the whole graph at once."""
        output = curve.where.output + 1
        full = output != HOST and all(device != HOST for _, device, _ in curve.layers)
        copies = _COPIES if self._pipelines and full and not shape.overridden else 1
        try:
            if curve.graph is None and not plainly:
                curve.graph = self._replays.graph(shape, curve.layers, output, copies)
            found = curve.graph.peaks(shape) if curve.graph else None
            if found is None:
                found = self._replays.replayed(shape, curve.layers, output, copies)
            host, *gpus = found
        except (LookupError, ArithmeticError, TypeError, ValueError):
            # a file of an architecture whose layers are like none that we know
            host, *gpus = self._rough(shape)
        return (*gpus, host)

    def _rough(self, shape: Shape) -> list[int]:
        """A generous guess: the masks and the widest rows a layer could need, on every device."""
        hp, u = self._hp, shape.n_tokens
        rows = 6 * hp.n_embd + 3 * max(*hp.n_ff, hp.n_ff_exp * hp.n_expert_used, hp.ssm.inner)
        size = 4 * u * rows + 4 * hp.n_vocab
        for _, n_kv in shape.cells:
            size += n_kv * u * (2 if shape.flash else 4 * (1 + max(hp.n_head)))
        return [size] * len(self._alignments)

    def _choose(self, where: Placement, *, every: bool) -> Layers:
        """Layers that stand for all: of each run of equal ones on a device a few, and the last.
        Equal layers go by the number of the first of them, so that placements share replays."""
        signatures, firsts = self._graph.signatures, self._graph.firsts
        n = self._hp.n_layer
        moe = where.n_cpu_moe
        kinds = [(signatures[il], where.slots[il], il < moe) for il in range(n)]
        # each layer that reads a cache on another device has its own copy of it
        every = every or (self._shared and len(set(where.slots[:n])) > 1)
        every = every or self._hp.residual_block > 0  # what earlier layers bank, later ones read
        pairs = [(kinds[il], kinds[il + 1] if il + 1 < n else None) for il in range(n)]
        # where layers change sides within, memory may lie otherwise in every second one: a run
        # of an odd number of layers stays odd
        odd = {pair for pair, times in Counter(pairs).items() if moe and times % 2}
        chosen: list[int] = []
        seen: Counter[object] = Counter()
        for il, pair in enumerate(pairs):
            seen[pair] += 1
            if seen[pair] <= 2 + (pair in odd) or il >= n - 2 or every:
                chosen.append(il)
        layers = [
            (firsts[signatures[il]], where.slots[il] + 1, il < moe and self._routed(il))
            for il in chosen
        ]
        if self._hp.indexer_block:  # every layer has its own copies of the inputs, in its place
            stand_ins = dict(zip(chosen, layers, strict=True))
            return tuple(
                stand_ins.get(il, (LEFT_OUT, where.slots[il] + 1, False)) for il in range(n)
            )
        left = [il for il in set(range(n)) - set(chosen) if is_sparse(self._hp, il)]
        layers += [
            (LEFT_OUT, device, False) for device in sorted(where.slots[il] + 1 for il in left)
        ]
        return tuple(layers)

    def _routed(self, il: int) -> bool:
        return bool(self._model.tensors.layers[il].experts)
