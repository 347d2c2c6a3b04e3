"""The compute buffer: the scratch memory of one graph, per device.

Formulas from the graph that llama.cpp builds (src/llama-graph.cpp) and the allocator that
reuses its memory (ggml/src/ggml-alloc.c): the largest set of tensors alive at once.
"""

from __future__ import annotations

from tuner.cache import WINDOW, CacheSizes
from tuner.machine import Machine
from tuner.model import Model
from tuner.placement import Placement
from tuner.settings import Settings


class ComputeSizes:
    """Bytes of compute buffer for any settings."""

    def __init__(self, model: Model, machine: Machine, cache: CacheSizes):
        self._model = model
        self._n_gpus = len(machine.gpus)
        self._cache = cache
        hp = model.hparams
        self._head = max((h * d for h, d in zip(hp.n_head, hp.head_k, strict=True)), default=0)
        self._heads = max(hp.n_head, default=0)
        self._ff = max(hp.n_ff, default=0)
        self._v = max(hp.v_row, default=0)

    def sizes(self, settings: Settings, where: Placement, flash: bool) -> tuple[int, ...]:
        """Bytes per GPU, then on the host."""
        hp = self._model.hparams
        u = min(-(-settings.n_ctx // 256) * 256, settings.n_ubatch)
        e = 4 * u * hp.n_embd
        q = 4 * u * self._head
        f = 4 * u * self._ff
        masks = 0
        kq = 0
        indices = 0
        for kind in self._cache.kinds:
            n_kv = self._cache.cells(kind, settings)
            masks += n_kv * u * (2 if flash else 4)
            kq = max(kq, 4 * self._heads * n_kv * u)
            indices += 8 * u * (1 if flash else 1 + self._v)
            if kind == WINDOW:
                continue
        x = 4 * u * hp.n_ff_exp * max(1, hp.n_expert_used) if hp.n_expert else 0
        y = 4 * u * hp.n_embd * hp.n_expert_used
        ffn = max(3 * f, 3 * x + (y if y > 2 * x else 0)) + 3 * e + q
        layer = masks + indices + ffn
        if not flash:
            layer = max(layer, kq + masks + indices + 3 * e + 2 * q)
        out = 4 * hp.n_vocab + 4 * hp.n_embd + e
        used = [0] * (self._n_gpus + 1)
        host = self._n_gpus
        for device, (first, end) in enumerate(where.spans):
            if end > first:
                used[device] = layer if device == host else layer - e
        output = where.output if where.output >= 0 else host
        used[output] = max(used[output], out)
        used[host] = max(used[host], 2 * e + masks + indices)
        return tuple(used)
