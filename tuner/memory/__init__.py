"""The bytes of any settings, per device.

    estimator = Estimator(model, machine)           # once per model and machine
    estimator.footprint(settings)                   # what a search goes by: microseconds
    estimator.exact(settings)                       # what a plan shows: milliseconds
    reported_footprint(buffers, machine, predicted) # what the engine says, in the same terms

`placement` says which layer goes where and what its weights take, `kv_cache` which rows a context
keeps, `compute/` what the graphs need, `mapped_weights` how the engine counts weights that stay
pages of the file. `cache_types` has one row per type of K and V, `footprint` the kinds of memory.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tuner.memory.cache_types import CACHE_TYPES, CacheType
from tuner.memory.footprint import KINDS, Buffer, DeviceUse, Footprint
from tuner.memory.reported import reported_footprint

if TYPE_CHECKING:
    from tuner.memory.estimator import Estimator

__all__ = [
    "CACHE_TYPES",
    "KINDS",
    "Buffer",
    "CacheType",
    "DeviceUse",
    "Estimator",
    "Footprint",
    "reported_footprint",
]


def __getattr__(name: str) -> Any:
    """The model process speaks of footprints but estimates none: it starts in half the time
    without the estimator and its graphs."""
    if name == "Estimator":
        return import_module("tuner.memory.estimator").Estimator
    raise AttributeError(name)
