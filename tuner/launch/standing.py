"""How the GPUs stand before a load, after it, and after its first long prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

from tuner.engine.client import EngineClient
from tuner.engine.protocol import DeviceMemory
from tuner.errors import EngineCancelled, EngineError
from tuner.machine.held import Held, by_engine, by_nvml, to_be_asked
from tuner.machine.machine import Machine

Standing = Mapping[str, Held]  # by Device.id

# Tokens in the cache, or half of what it holds, after which a prompt counts as long, if at least
# one micro-batch of it was whole: scratch memory is taken by the first such, the rest as it fills.
LONG_PROMPT = 4096


def is_long(n_used: int, n_ctx: int) -> bool:
    """Whether so many tokens in a cache of `n_ctx` are worth a look at what they took."""
    return n_used >= min(LONG_PROMPT, n_ctx // 2)


def told(machine: Machine, memory: Iterable[DeviceMemory]) -> Standing:
    """How GPUs stood that the engine tells of."""
    return by_engine(machine, {device.name: device.free for device in memory})


def standing(client: EngineClient, machine: Machine) -> Standing:
    """How all stand now; those that nobody tells of are left out. Not to be asked time after time:
    a server that is gone ends the process."""
    names = [gpu.engine_name for gpu in to_be_asked(machine)]
    memory: Iterable[DeviceMemory] | None = None
    if names:
        with suppress(EngineError, EngineCancelled):
            memory = client.device_memory(names)
    return {**by_nvml(machine, client.pid), **told(machine, memory or ())}
