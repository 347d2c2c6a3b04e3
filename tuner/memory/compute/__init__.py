"""The compute buffer: one graph as sizes alone, and what ggml's allocator makes of it.

    sizes = ComputeSizes(model, machine, cache)
    sizes.search(settings, where, flash)            # few layers and contexts that stand for all
    sizes.exact(settings, where, flash)             # every layer, this very context

`replica/` builds the graphs (`graph` has their nodes), `scheduler` puts nodes onto devices and
copies between them, `allocator` traces what is taken and given back and replays it, `terms` and
`tapes` do so once for all batches, contexts and cache types, `between` draws lines between few
contexts; `buffers` is the door.
"""

from tuner.memory.compute.between import Peaks
from tuner.memory.compute.buffers import ComputeSizes
from tuner.memory.compute.tapes import Replays

__all__ = ["ComputeSizes", "Peaks", "Replays"]
