"""The compute buffer: the scratch memory of one graph, per device.

The graph is built as sizes alone and ggml's allocator replayed over it (`graph.py`), for a
choice of layers that shows everything the whole model would: enough of each kind and each
border between kinds. Masks and nothing else grow with the context where attention is fused, so
that one replay serves every context; without fusion the replay is repeated per context.
"""

from __future__ import annotations

from tuner.cache import CacheSizes
from tuner.cache_types import CACHE_TYPES
from tuner.graph import HOST, peaks
from tuner.graph_layers import Shape
from tuner.graph_model import ModelGraph
from tuner.machine import Machine
from tuner.model import Model
from tuner.placement import Placement, alignment
from tuner.settings import Settings

_OFFLOADING = frozenset({"CUDA", "ROCm", "MUSA", "Metal", "Vulkan", "SYCL"})
_PIPELINE = frozenset({"CUDA", "ROCm", "MUSA", "RPC"})  # devices with async copies and events
_COPIES = 4  # GGML_SCHED_MAX_COPIES


class ComputeSizes:
    """Bytes of compute buffer for any settings."""

    def __init__(self, model: Model, machine: Machine, cache: CacheSizes):
        self._hp = model.hparams
        self._graph = ModelGraph(model)
        self._cache = cache
        self._alignments = [32, *(alignment(g.backend) for g in machine.gpus)]
        self._backends = [g.backend for g in machine.gpus]
        self._offload = next(
            (i + 1 for i, g in enumerate(machine.gpus) if g.backend in _OFFLOADING), -1
        )
        self._n_gpus = len(machine.gpus)
        self._layers: dict[Placement, tuple[tuple[int, int, bool], ...]] = {}
        self._peaks: dict[object, tuple[int, ...]] = {}

    def sizes(self, settings: Settings, where: Placement, flash: bool) -> tuple[int, ...]:
        """Bytes per GPU, then on the host."""
        hp = self._hp
        n_ctx = -(-settings.n_ctx // 256) * 256
        k, v = CACHE_TYPES[settings.type_k], CACHE_TYPES[settings.type_v]
        shape = Shape(
            u=min(n_ctx, settings.n_ubatch),
            cells=tuple((kind, self._cache.cells(kind, settings)) for kind in self._cache.kinds),
            flash=flash,
            rotate_k=k.quantized and hp.head_k[0] % 64 == 0,
            rotate_v=v.quantized and hp.head_v[0] % 64 == 0,
            k_bytes=k.bits / 8,
            v_bytes=v.bits / 8,
        )
        layers = self._layers.get(where)
        if layers is None:
            layers = self._layers[where] = self._choose(where)
        return self._peak(shape, layers, where.output + 1)

    def _peak(
        self, shape: Shape, layers: tuple[tuple[int, int, bool], ...], output: int
    ) -> tuple[int, ...]:
        key = (shape, layers, output)
        found = self._peaks.get(key)
        if found is None:
            full = output != HOST and all(device != HOST for _, device, _ in layers)
            moved = any(experts for _, _, experts in layers)
            pipeline = (
                self._n_gpus > 1 and full and not moved
                and all(b in _PIPELINE for b in self._backends)
            )  # fmt: skip
            try:
                graph = self._graph.build(shape, layers, output, self._offload)
                per_device = peaks(graph, self._alignments, _COPIES if pipeline else 1)
            except (KeyError, IndexError, ValueError, ZeroDivisionError):
                # a file of an architecture whose layers are like none that we know
                per_device = self._rough(shape)
            found = self._peaks[key] = (*per_device[1:], per_device[0])
        return found

    def _rough(self, shape: Shape) -> list[int]:
        """A generous guess: the masks and the widest rows a layer could need, on every device."""
        hp, u = self._hp, shape.u
        rows = 6 * hp.n_embd + 3 * max(*hp.n_ff, hp.n_ff_exp * hp.n_expert_used, hp.ssm.inner)
        size = 4 * u * rows + 4 * hp.n_vocab
        for _, n_kv in shape.cells:
            size += n_kv * u * (2 if shape.flash else 4 * (1 + max(hp.n_head)))
        return [size] * len(self._alignments)

    def _choose(self, where: Placement) -> tuple[tuple[int, int, bool], ...]:
        """Layers that stand for all: of each run of equal ones on a device a few, and the last."""
        signatures = self._graph.signatures
        n = self._hp.n_layer
        moe = where.n_cpu_moe

        def kind(il: int) -> tuple[int, int, bool]:
            return signatures[il], where.slots[il], il < moe

        chosen: list[int] = []
        seen: dict[object, int] = {}
        for il in range(n):
            pair = (kind(il), kind(il + 1) if il + 1 < n else None)
            seen[pair] = seen.get(pair, 0) + 1
            if seen[pair] <= 2 or il >= n - 2:
                chosen.append(il)
        return tuple((il, where.slots[il] + 1, il < moe) for il in chosen)
