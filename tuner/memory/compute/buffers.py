"""The compute buffer: the scratch memory of one graph, per device.

The graph is built as sizes alone and ggml's allocator replayed over it (`tapes.py`), in one of two
fidelities. `exact` takes every layer at the very context. A `search` asks thousands of times, so
it makes do with a choice of layers, enough of each kind and each border between kinds, and with
few contexts (`between.py`).
"""

from __future__ import annotations

from typing import NamedTuple

from tuner.machine.backends import HOST_LAYOUT, backend
from tuner.machine.kernels import none_lacking
from tuner.machine.machine import Machine
from tuner.memory.cache_types import CACHE_TYPES
from tuner.memory.compute.between import (
    EVERY_CONTEXT,
    LEAST_SAMPLED,
    ContextSamples,
    Peak,
    Peaks,
    grows_unevenly,
)
from tuner.memory.compute.graph import F16, F32, HOST, NOBODY, Borrower, Graph
from tuner.memory.compute.replica.builder import Layers, Shape
from tuner.memory.compute.replica.model_graph import ModelGraph
from tuner.memory.compute.replica.sparse_counts import attends_by_copy, counts, metal_counts
from tuner.memory.compute.stand_ins import StandIns
from tuner.memory.compute.tapes import Replays, SymbolicGraph
from tuner.memory.kv_cache import CacheSizes
from tuner.memory.placement import Placement
from tuner.memory.rotation import rotation
from tuner.model.model import Model
from tuner.settings import CONTEXT_PADDING, Settings
from tuner.units import padded

_GUESSING = 100  # steps in whose time a size is guessed
_UNPACKED = 32  # tokens from which on Metal reads a copy (`..._flash_attn_ext_use_kv_f16`)
# types of which `ggml_sycl_flash_attn_ext_onednn_supported` takes none (ggml-sycl/fattn-onednn.cpp)
_UNSTAGED = frozenset({"bf16", "iq4_nl"})
_COPIES = 4  # GGML_SCHED_MAX_COPIES

# what tells compute buffers apart beside the context: placement, types of K and V, n_ubatch,
# fused attention, swa_full
_Key = tuple[Placement, str, str, int, bool, bool]


class _Samples(NamedTuple):
    """The search's answers for settings that differ by context alone."""

    peaks: ContextSamples
    least: ContextSamples  # what is alive at once: never more, and quickly found


class ComputeSizes:
    """Bytes of compute buffer for any settings."""

    def __init__(
        self,
        model: Model,
        machine: Machine,
        cache: CacheSizes,
        *,
        n_outputs_max: int = 1,
        n_rs_seq: int = 0,
        as_dry_run: bool = False,
    ):
        """`n_outputs_max`: rows of logits, 0 for as many as tokens are computed at once;
        `n_rs_seq`: recurrent states kept beside the last; `as_dry_run`: as the engine has them
        without allocating."""
        self._n_outputs_max, self._n_rs_seq = n_outputs_max, n_rs_seq
        self._model = model
        self._hp = model.hparams
        self.graph = ModelGraph(model)
        self._as_dry_run = as_dry_run
        self._cache = cache
        rows = [backend(g.backend) for g in machine.gpus]
        self.alignments = [HOST_LAYOUT.alignment, *(row.layout.alignment for row in rows)]
        borrowers = (
            Borrower(i, row.borrows_weights, row.layout, machine.switches.offloaded)
            for i, row in enumerate(rows, 1)
            if row.borrows_weights
        )
        self.offload = next(borrowers, NOBODY)
        lacks = tuple(row.lacks for row in rows)
        self._lacks = lacks if any(rule is not none_lacking for rule in lacks) else ()
        off = machine.switches.unarranged
        self.optimizers = ["", *("" if r.optimizer in off else r.optimizer for r in rows)]
        self._scratch = next((row.attention_scratch for row in rows if row.attention_scratch), "")
        events = all(row.pipeline for row in rows) and not machine.accelerated
        self._pipelines = len(rows) > 1 and events
        self._n_gpus = len(machine.gpus)
        self._kernelless = frozenset(
            (k, v)
            for il, (k, v) in enumerate(zip(self._hp.head_k, self._hp.head_v, strict=True))
            if self._hp.group(il)
            and not all(row.has_kernel_for_heads(k, v, self._hp.group(il)) for row in rows)
        )
        self._rotation = rotation(self._hp)
        self._recurrent = any(self._hp.recurrent)
        self._shared = self._hp.n_layer_kv < self._hp.n_layer or self._hp.cycles[0] > 0
        self._sparse = bool(self._hp.indexer_head)  # scores of every token, for each token
        self.needs_every_layer = self._hp.row.graph.needs_every_layer
        self._stand_ins = StandIns(self.graph, reordered=any(self.optimizers))
        self._layers: dict[Placement, Layers] = {}
        self._exact: dict[tuple[_Key, int], Peaks] = {}
        self._samples: dict[_Key, _Samples] = {}
        self._alike: dict[tuple[object, ...], _Samples] = {}
        self._single: dict[tuple[object, ...], ContextSamples] = {}
        self.replays = Replays(
            self.graph,
            self.alignments,
            self.offload,
            opens=True,
            trims=not (self._hp.residual_block or self._sparse or self._hp.cycles[0]),
            optimizers=self.optimizers,
        )

    def forget(self) -> None:
        """Nothing is known any more of any settings, and no work was done."""
        self._layers.clear()
        self._exact.clear()
        self._samples.clear()
        self._alike.clear()
        self._single.clear()
        self.replays = self.replays.anew()

    def search(self, settings: Settings, where: Placement, flash: bool) -> Peaks:
        """What a search goes by: a graph of a few layers that stand for all, at a few contexts.
        Exact or a little more, but for the few models where every layer leaves its own holes
        (`needs_every_layer`): there it may be less, often by some MiB. So it may, seldom, where a
        backend arranges the graph, at a context between two that were replayed; and in one of five
        plans with layers in RAM, whose weights a GPU borrows: mostly by 2 %, by 16 % at worst."""
        n_ctx = padded(settings.n_ctx, CONTEXT_PADDING)
        return self._samples_of(settings, where, flash).peaks.at(n_ctx)

    def least(self, settings: Settings, where: Placement, flash: bool) -> Peaks:
        """No more than `search` has, without a replay."""
        n_ctx = padded(settings.n_ctx, CONTEXT_PADDING)
        return self._samples_of(settings, where, flash).least.at(n_ctx)

    def search_on(self, device: int, settings: Settings, where: Placement, flash: bool) -> int:
        """Bytes on one device alone (the host last), as `search` has them."""
        n_ctx = padded(settings.n_ctx, CONTEXT_PADDING)
        return self._samples_of(settings, where, flash).peaks.on(device, n_ctx).size

    def least_on(self, device: int, settings: Settings, where: Placement, flash: bool) -> int:
        """The same as `least` has them."""
        n_ctx = padded(settings.n_ctx, CONTEXT_PADDING)
        return self._samples_of(settings, where, flash).least.on(device, n_ctx).size

    def least_with_layers(self, n: int, gpu: int, settings: Settings, flash: bool) -> int:
        """Bytes that one of several GPUs has at least where it has `n` layers, whichever."""
        s = settings
        full = s.n_gpu_layers > self._model.n_layer_all
        key = (gpu, full, s.n_cpu_moe > 0, s.type_k, s.type_v, s.n_ubatch, flash, s.swa_full)
        samples = self._single.get(key)
        if samples is None:
            samples = self._single[key] = self._of_one_layer(gpu, settings, flash, on_gpus=full)
        n_ctx = padded(s.n_ctx, CONTEXT_PADDING)
        if n_ctx < LEAST_SAMPLED:  # so small that the borders of a layer are what counts
            return 0
        kinds = self._stand_ins.kinds if self.replays.trims else ()
        sizes = [samples.on(place, n_ctx).size for place in range(len(kinds))]
        # of the kinds that it must have some of, one is the largest; it has one in any case
        sure = [size for size, kind in zip(sizes, kinds, strict=True) if n > kind.longest_without]
        return max([min(sizes, default=0), *sure])

    def _of_one_layer(
        self, gpu: int, settings: Settings, flash: bool, *, on_gpus: bool
    ) -> ContextSamples:
        output = 2 if gpu == 0 else 1  # on another GPU: one on the host might be borrowed

        def least(n_ctx: int, place: int) -> Peak:
            kind, found = self._stand_ins.kinds[place], []
            for moved in (False, True) if kind.routed and settings.n_cpu_moe else (False,):
                # between two others, so that it has the input of a layer, not of a model
                beside = (kind.layer, output, moved)
                one = (beside, (kind.layer, gpu + 1, moved), beside)
                shape = self._shape(n_ctx, settings, one, flash, on_gpus=on_gpus)
                graph = None if self.replays.work.done else self._opened(shape, one, output, 1)
                found.append(graph.least(shape, gpu + 1) if graph else 0)
            return Peak(min(found))

        # lines over shorter ways are nowhere above those of a search
        n_kinds, exact_up_to = len(self._stand_ins.kinds), self._exact_up_to(settings)
        return ContextSamples(least, n_kinds, exact_up_to, linear=False)

    def _exact_up_to(self, settings: Settings) -> int:
        return EVERY_CONTEXT if self._sparse else settings.n_ubatch + self._hp.n_swa

    def _samples_of(self, settings: Settings, where: Placement, flash: bool) -> _Samples:
        s = settings
        key = (where, s.type_k, s.type_v, s.n_ubatch, flash, s.swa_full)
        samples = self._samples.get(key)
        if samples is None:
            layers = self._layers.get(where)
            if layers is None:
                layers = self._layers[where] = self._stand_ins.few(where)
            alike = (layers, where.output, where.on_host > 0, where.n_cpu_moe > 0, *key[1:])
            samples = self._alike.get(alike)
            if samples is None:
                samples = self._alike[alike] = self._sampled(settings, where, layers, flash)
            self._samples[key] = samples
        return samples

    def exact(self, settings: Settings, where: Placement, flash: bool) -> Peaks:
        """A graph of every layer for this very context: to the byte as far as the graph is the
        engine's, at a hundred times the cost. Where it cannot be told in which order a backend
        runs it, what any order takes (`Replays.bounded`)."""
        s = settings
        n_ctx = padded(s.n_ctx, CONTEXT_PADDING)
        key = ((where, s.type_k, s.type_v, s.n_ubatch, flash, s.swa_full), n_ctx)
        found = self._exact.get(key)
        if found is None:
            layers = self._stand_ins.every(where)
            shape = self._shape(n_ctx, settings, layers, flash, on_gpus=where.all_on_gpus)
            found = self._exact[key] = self._plain(shape, layers, where)
        return found

    def graph_of(self, settings: Settings, where: Placement, flash: bool) -> Graph:
        """The graph that `exact` goes by."""
        layers = self._stand_ins.every(where)
        n_ctx = padded(settings.n_ctx, CONTEXT_PADDING)
        shape = self._shape(n_ctx, settings, layers, flash, on_gpus=where.all_on_gpus)
        return self.replays.built(shape, layers, self._ends(shape, where)[0])

    def _sampled(
        self, settings: Settings, where: Placement, layers: Layers, flash: bool
    ) -> _Samples:
        """The search's answers for settings that differ from these by context alone, or put
        other numbers of like layers on the devices."""
        known: SymbolicGraph | None = None
        shapes: dict[int, Shape] = {}
        plain: dict[int, Peaks] = {}

        def shape_at(n_ctx: int) -> Shape:
            if n_ctx not in shapes:
                on_gpus = where.all_on_gpus
                shapes[n_ctx] = self._shape(n_ctx, settings, layers, flash, on_gpus=on_gpus)
            return shapes[n_ctx]

        def graph(shape: Shape) -> SymbolicGraph | None:
            nonlocal known
            if known is None:
                known = self._opened(shape, layers, *self._ends(shape, where))
            return known

        def peak(n_ctx: int, device: int) -> Peak:
            shape = shape_at(n_ctx)
            if self.replays.work.done:
                self.replays.work.steps += _GUESSING
                return Peak(self._generous_guess(shape), guessed=True)
            opened = graph(shape)
            found = opened.peak(shape, (device + 1) % devices) if opened else None
            if found is not None:
                return Peak(found)
            if n_ctx not in plain:
                plain[n_ctx] = self._plain(shape, layers, where)
            return Peak(plain[n_ctx].sizes[device], plain[n_ctx].guessed)

        def least(n_ctx: int, device: int) -> Peak:
            shape = shape_at(n_ctx)
            opened = None if self.replays.work.done else graph(shape)
            return Peak(opened.least(shape, (device + 1) % devices) if opened else 0)

        devices = len(self.alignments)
        linear = flash and not grows_unevenly(self._hp, settings, where, self._scratch)
        exact_up_to = self._exact_up_to(settings)
        return _Samples(
            ContextSamples(peak, devices, exact_up_to, linear=linear),
            ContextSamples(least, devices, exact_up_to, linear=linear),
        )

    def _shape(
        self, n_ctx: int, settings: Settings, layers: Layers, flash: bool, *, on_gpus: bool
    ) -> Shape:
        """`on_gpus`: whether all that the graph stands for is there, which a part of it does not
        tell."""
        hp = self._hp
        k, v = CACHE_TYPES[settings.type_k], CACHE_TYPES[settings.type_v]
        # Where a GPU borrows the host's weights, or a state on it is read early, attention of the
        # host's layers runs on the GPU too, with a copy of their cache, whose type then counts.
        # A cache that layers share is copied to every other device that has some of them.
        borrowed = self._n_gpus > 0 and (self.offload != NOBODY or self._recurrent)
        borrowed = borrowed and any(device == HOST for _, device, _ in layers)
        indexes = self._hp.indexer_head > 0 and bool(self._lacks)
        borrowed = borrowed or bool(self._kernelless) or indexes
        borrowed = borrowed or (self._shared and len({device for _, device, _ in layers}) > 1)
        n_tokens = min(n_ctx, settings.n_ubatch)
        metal = self._scratch == "Metal" and flash
        cells = {kind: self._cache.cells_at(kind, n_ctx, settings) for kind in self._cache.kinds}
        try:
            counted = counts(hp, n_tokens, cells)
            by_copy = attends_by_copy(hp, n_tokens, cells)
        except LookupError:  # no layer has the cache that is counted: the builder misses it too
            counted, by_copy = (), False
        return Shape(
            n_tokens=n_tokens,
            cells=tuple(cells.items()),
            counts=(*counted, *(metal_counts(hp, n_tokens, cells) if metal else ())),
            attends_by_copy=by_copy,
            flash=flash,
            overridden=settings.n_cpu_moe > 0,
            rotate_k=k.quantized and self._rotation.k,
            rotate_v=v.quantized and self._rotation.v,
            k_bytes=k.bits / 8 if borrowed else 0.0,
            v_bytes=v.bits / 8 if borrowed else 0.0,
            scratch=self._scratch,
            k_stride=k.bits / 8 if metal and not (k.quantized and n_tokens >= _UNPACKED) else 0.0,
            staged=self._scratch == "SYCL" and not {k.name, v.name} & _UNSTAGED,
            f16_k=k.name == "f16" or self._scratch == "Metal",
            f16_v=v.name == "f16" or self._scratch == "Metal",
            k_cached=k.bits / 8 if hp.row.memory == "compressed" else 0.0,
            n_outputs=min(n_tokens, self._n_outputs_max or n_tokens),
            n_rs_seq=self._n_rs_seq,
            kernelless=self._kernelless,
            lacks=self._lacks,
            type_k=k.name if indexes else "",
            keeps_norms=on_gpus and not self._as_dry_run,
        )

    def _opened(
        self, shape: Shape, layers: Layers, output: int, copies: int
    ) -> SymbolicGraph | None:
        """The graph of these layers for all shapes like this one, if there can be one. What is
        borrowed by large batches alone goes by numbers that are not open then."""
        few = min([shape.n_tokens, *(n for _, n in shape.counts)]) < self.offload.rows
        if few and self.offload != NOBODY and any(d == HOST or moved for _, d, moved in layers):
            return None
        try:
            return self.replays.graph(shape, layers, output, copies)
        except Exception:
            return None  # nor can there be one of plain numbers: `_plain` says so

    def _plain(self, shape: Shape, layers: Layers, where: Placement) -> Peaks:
        """By a graph of plain numbers."""
        try:
            if self.replays.work.done:
                self.replays.work.steps += _GUESSING
                raise TimeoutError("hundreds of layers, none like another")
            ends = self._ends(shape, where)
            (host, *gpus), graph = self.replays.bounded(shape, layers, *ends)
        except Exception:
            # Layers that are like none that we know. Whatever it is that the graph's builder
            # stumbles over: the user is told that this is assumed, and the dry run decides.
            size = self._generous_guess(shape)
            return Peaks((size,) * len(self.alignments), guessed=True)
        return Peaks((*gpus, host), graph.unsure, tuple(sorted(graph.on_cpu)))

    def _ends(self, shape: Shape, where: Placement) -> tuple[int, int]:
        """The device of the output, and how many copies of its inputs each device keeps."""
        piped = self._pipelines and where.all_on_gpus and not shape.overridden
        return where.output + 1, _COPIES if piped else 1

    def _generous_guess(self, shape: Shape) -> int:
        """The masks and more rows of the widest kinds than a layer should hold at once: bytes, for
        any device."""
        hp, n_tokens = self._hp, shape.n_tokens
        rows = 6 * hp.n_embd + 3 * max(*hp.n_ff, hp.n_ff_exp * hp.n_expert_used, hp.ssm.inner)
        size = F32 * (n_tokens * rows + hp.n_vocab * shape.n_outputs)
        for _, n_kv in shape.cells:
            size += n_kv * n_tokens * (F16 if shape.flash else F32 * (1 + max(hp.n_head)))
        return size
