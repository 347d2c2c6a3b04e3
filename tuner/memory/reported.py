"""What the engine says it allocated, in the tuner's own terms: buffers -> footprint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

from tuner.machine.machine import Device, Machine
from tuner.memory.footprint import ENGINE_KINDS, Buffer, DeviceUse, Footprint

# The logits that a decode returns are part of what llama.cpp calls compute.
_KINDS = {**{kind: kind for kind in ENGINE_KINDS}, "output": "compute"}


def reported_footprint(
    buffers: Iterable[Buffer], machine: Machine, base: Footprint, source: str
) -> Footprint:
    """The engine's buffers summed per device of the machine.

    Only kinds of buffers that occur are replaced: what the engine does not report (overhead; in a
    dry run without a breakdown the weights and the cache) stays as in `base`.
    """
    totals: dict[tuple[int, str], int] = {}
    kinds = set()
    for buffer in buffers:
        kind = _KINDS.get(buffer.kind)
        if kind is None:
            continue
        kinds.add(kind)
        key = (device_index(buffer.device, machine.gpus), kind)
        totals[key] = totals.get(key, 0) + buffer.size
    uses: list[DeviceUse] = []
    for i, use in enumerate(base.uses):
        at = i if i < len(machine.gpus) else -1
        measured = {kind: totals.get((at, kind), 0) for kind in kinds}
        uses.append(DeviceUse(**{**asdict(use), **measured}))
    return replace(base, uses=tuple(uses), source=source)


def device_index(name: str, gpus: Sequence[Device]) -> int:
    """Index into `gpus` of the device that the engine calls `name`; -1 for the host.

    Names are a backend and its number ("CUDA1"), for RPC the number among the server's devices
    ("RPC0[host:port]"; they themselves are counted over all servers), for Metal with the kind of
    buffer ("MTL0_Mapped" is a file that its GPU reads); pinned host memory ("CUDA_Host"), mapped
    files ("CPU_Mapped") and repacked weights ("CPU_REPACK", "AMX") lie on the host.
    """
    for i, gpu in enumerate(gpus):
        if gpu.buffer_name == name:
            return i
    stem = _stem(name)
    for i, gpu in enumerate(gpus):
        if gpu.engine_name and _stem(gpu.engine_name) in (stem, stem.partition("_")[0]):
            return i
    backend = stem.rstrip("0123456789")
    same = [i for i, gpu in enumerate(gpus) if gpu.backend.lower() == backend.lower()]
    number = stem[len(backend) :]
    place = int(number) if number else 0
    return same[place] if place < len(same) else -1


def _stem(name: str) -> str:
    return name.partition("[")[0]
