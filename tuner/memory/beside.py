"""What a model's load takes of a GPU beside the engine's buffers, and what that may come to."""

from __future__ import annotations

from tuner.machine.machine import Device
from tuner.machine.overheads import Spread
from tuner.model.model import Model


def growth_on(device: Device, model: Model, n_ubatch: int) -> Spread:
    """Bytes that the first long prompt takes there, with micro-batches of so many tokens."""
    return device.growth.of(n_ubatch, experts=bool(model.moe_layers))


def most_beside(device: Device, model: Model, n_ubatch: int) -> int:
    """Bytes that overhead and growth may come to, where that is more than what is planned with."""
    growth = growth_on(device, model, n_ubatch)
    most = max(device.overhead_most, device.overhead)
    return most + growth.most


def unknown_batches(device: Device, model: Model) -> int | None:
    """The tokens of a micro-batch beyond which nobody knows what a long prompt takes there of this
    model; None: none."""
    return device.growth.unknown_from(experts=bool(model.moe_layers))
