"""Two stacks of layers that run in turn, several times over: src/models/hrm-text.cpp.

A slow stack runs once after every few runs of a fast one. Each run has caches of its own, one for
each layer, so that the layers that the file counts are these slots and its blocks are fewer: the
fast stack's come first, then the slow one's. A slot's cache may be on another device than its
weights.
"""

from __future__ import annotations

from collections.abc import Callable

from tuner.memory.compute.graph import F32, Node
from tuner.memory.compute.replica.builder import GraphBuilder, Tensors
from tuner.model.hparams import HParams


def block_of(hp: HParams, slot: int) -> int:
    """The block of weights that a slot runs."""
    depth, _, fast = hp.cycles
    run, il = divmod(slot, depth)
    return il + depth if run % (fast + 1) == fast else il


def cycled(b: GraphBuilder, x: Node, layer: Callable[[int, Node], Node]) -> Node:
    """All runs of both stacks (`llama_model_hrm_text::graph`). `layer` builds the layer of a
    slot. [n_embd, n_tokens] -> the same."""
    g, hp = b.g, b.hp
    devices = [device for _, device, _ in b.layers]
    depth, slow, fast = hp.cycles
    slots = iter(range(hp.n_layer))

    def stack(y: Node) -> Node:
        """All layers of one stack over y, then a norm."""
        for _ in range(depth):
            slot = next(slots)
            g.device = devices[block_of(hp, slot)]
            b.cache_device = devices[slot]
            y = layer(slot, y)
        return g.over(y, op="RMS_NORM")

    low: Node | None = None
    for _ in range(slow):
        for _ in range(fast):
            g.device = devices[0]
            if low is None:  # what the file has to begin with
                low = stack(g.over(x, op="ADD", weight=F32 * x.shape[0]))
            else:
                low = stack(g.add(x, low))
        assert low is not None
        x = stack(g.add(x, low))
    return x


def head(b: GraphBuilder, output: Tensors, x: Node) -> Node:
    """The rows that become logits; the last stack has normed them. [n_embd, n_tokens]
    -> [n_embd, n_outputs]."""
    return b.output_rows(x)
