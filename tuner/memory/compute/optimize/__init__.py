"""What backends do to a split of the graph before memory is found for it (`graph_optimize`).

    nodes = OPTIMIZERS["Vulkan"](Split(nodes, uses, after, kept))

Each returns the nodes in the backend's order and notes in `kept` what must outlast what. Memory
lies where it lies because of both; which backend has which optimiser, its row in
`tuner/machine/backends.py` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tuner.memory.compute.graph import Node
from tuner.memory.compute.optimize import cuda, metal, vulkan
from tuner.memory.compute.optimize.any_order import REACH, held
from tuner.memory.compute.optimize.split import Kept, Split

Optimizer = Callable[[Split], list[Node]]
OPTIMIZERS: Mapping[str, Optimizer] = {
    "CUDA": cuda.optimized,
    "Metal": metal.optimized,
    "Vulkan": vulkan.optimized,
}

__all__ = ["OPTIMIZERS", "REACH", "Kept", "Optimizer", "Split", "held"]
