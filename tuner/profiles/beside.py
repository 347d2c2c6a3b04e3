"""What loads took of each GPU beside the engine's buffers, as this machine remembers it.

A load's figure is the memory that it took less its buffers. Where the driver tells what the process
itself has, that is exact; elsewhere another program may have taken or freed some meanwhile. So a
figure that cannot be is dropped, and of the last few the middle one counts, of two the lower.

What the first long prompt takes depends on the model and its micro-batches. For a model that has
shown it, that counts; for one that has not, the most that models as large have taken; what smaller
ones took is the least that is assumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median_low
from typing import Annotated

from tuner.json_values import Bytes, within
from tuner.machine.machine import Device
from tuner.machine.overheads import Shown
from tuner.machine.usable import Beside
from tuner.memory.footprint import DeviceUse
from tuner.model.model import Model
from tuner.settings import MAX_UBATCH
from tuner.units import MIB

MEMORY = 5  # loads whose figures are kept
MOST_MODELS = 8  # per device, with their micro-batches; the one heard of longest ago is forgotten
MOST_SHARE = 4  # more than a quarter of a device is no driver's
_ROUNDED = MIB  # by which buffers in the log may be off together

Size = Annotated[int, within(0, 1 << 36)]  # bytes


@dataclass(frozen=True, slots=True)
class Grown:
    """What the first long prompt with one model took of a device."""

    model: str  # its fingerprint
    model_bytes: Bytes  # of its file
    experts: bool
    n_ubatch: Annotated[int, within(1, MAX_UBATCH)]
    sizes: tuple[Size, ...]  # of the last loads, the latest last

    @property
    def size(self) -> int:
        """Bytes that count."""
        return median_low(self.sizes)

    def same(self, other: Grown) -> bool:
        """Whether both are of the same model with the same micro-batches."""
        return (self.model, self.n_ubatch) == (other.model, other.n_ubatch)


Overheads = Mapping[str, tuple[Size, ...]]  # by `beside_key`
Growths = Mapping[str, tuple[Grown, ...]]


def believable(gpu: Device, size: int | None) -> int | None:
    """Bytes that a load can have taken of a GPU beside its buffers, or None."""
    if size is None or not -_ROUNDED <= size < gpu.total // MOST_SHARE:
        return None
    return max(0, size)


def overhead_seen(gpu: Device, use: DeviceUse, taken: int | None) -> int | None:
    """Bytes that a load which took so much in all had beside its buffers, or None. A figure that
    has not moved at all is none: some drivers tell the size of a device for what is free."""
    return believable(gpu, taken - (use.total - use.beside)) if taken else None


def overheads_with(known: Overheads, new: Mapping[str, int]) -> Overheads:
    """All that is known of what loads take at once."""
    more = {key: (*known.get(key, ()), size)[-MEMORY:] for key, size in new.items()}
    return {**known, **more}


def grown_by(model: Model, n_ubatch: int, size: int) -> Grown:
    """What one load showed."""
    experts = bool(model.moe_layers)
    return Grown(model.fingerprint, model.size_bytes, experts, n_ubatch, (size,))


def growths_with(known: Growths, new: Mapping[str, Grown]) -> Growths:
    """All that is known of what first long prompts take."""
    found = dict(known)
    for key, grown in new.items():
        before = found.get(key, ())
        sizes = [size for other in before if other.same(grown) for size in other.sizes]
        others = [other for other in before if not other.same(grown)]
        heard = replace(grown, sizes=(*sizes, *grown.sizes)[-MEMORY:])
        found[key] = (*others, heard)[-MOST_MODELS:]
    return found


def beside_with(overheads: Overheads, growths: Growths, model: Model) -> dict[str, Beside]:
    """What a load of a model is to be planned with, by `beside_key`."""
    return {
        key: _beside(overheads.get(key, ()), growths.get(key, ()), model)
        for key in {*overheads, *growths}
    }


def _beside(overheads: Sequence[int], growths: Sequence[Grown], model: Model) -> Beside:
    alike = [grown for grown in growths if grown.experts == bool(model.moe_layers) and grown.sizes]
    own = [grown for grown in alike if grown.model == model.fingerprint]
    others = [grown for grown in alike if grown.model != model.fingerprint]
    as_large = [grown for grown in others if grown.model_bytes >= model.size_bytes]
    smaller = [grown.size for grown in others if grown.model_bytes < model.size_bytes]
    return Beside(
        median_low(overheads) if overheads else None,
        tuple(_ascending(own, as_large)),
        max(smaller, default=0),
    )


def _ascending(own: Sequence[Grown], others: Sequence[Grown]) -> Iterable[Shown]:
    """By micro-batches, a larger one never with less."""
    most = 0
    for n_ubatch in sorted({grown.n_ubatch for grown in (*own, *others)}):
        told = [grown for grown in own if grown.n_ubatch >= n_ubatch]
        if told:
            size = min(told, key=lambda grown: grown.n_ubatch).size
        else:
            size = max(grown.size for grown in others if grown.n_ubatch >= n_ubatch)
        most = max(most, size)
        yield Shown(n_ubatch, most)
