"""What the engine reports of the weights it leaves in RAM, where it maps the file.

Of a mapped file it says the range from the first to the last tensor that the host uses
(`llama_model_loader::get_mapping_range`, src/llama-model-loader.cpp), whatever lies in between;
tensors that the CPU wants in another order are copied (`CPU_REPACK`). This is for holding a
prediction against the engine's own words; what RAM the weights need is in `placement`.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import replace

from tuner.gguf.header import TensorInfo
from tuner.machine.backends import HOST_LAYOUT
from tuner.memory.footprint import Footprint
from tuner.memory.placement import Placement, place, repacks
from tuner.model.model import Model
from tuner.settings import Settings
from tuner.units import padded


def is_mapped(buffer: str) -> bool:
    """Whether a buffer's name is that of a mapped file."""
    return buffer.endswith("_Mapped")


def with_mapped_weights(
    predicted: Footprint, settings: Settings, model: Model, n_gpus: int
) -> Footprint:
    """The prediction with the host's weights counted as the engine counts mapped ones."""
    where = place(model.n_layer_all, n_gpus, settings)
    weights = mapped_weights(model, where, settings.use_extra_bufts and not n_gpus)
    if weights is None:
        return predicted
    host = replace(predicted.host, weights=weights)
    return replace(predicted, uses=(*predicted.uses[:-1], host))


def mapped_weights(model: Model, where: Placement, repacked: bool) -> int | None:
    """Bytes of the host's weight buffers as the engine's log has them. `repacked`: the CPU's own
    order is in use, which takes a machine without GPUs (`make_cpu_buft_list`,
    src/llama-model.cpp). None where that order is not known: other CPUs than x86."""
    if repacked and platform.machine().lower() not in ("x86_64", "amd64"):
        return None
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    copied = 0
    for tensor, is_looked_up in _on_host(model, where):
        if repacked and not is_looked_up and repacks(tensor):
            copied += padded(tensor.n_bytes, HOST_LAYOUT.alignment)
            continue
        part, end = tensor.part, tensor.offset + tensor.n_bytes
        first[part] = min(first.get(part, tensor.offset), tensor.offset)
        last[part] = max(last.get(part, end), end)
    tied = model.tensors.tied
    if repacked and tied is not None and where.output < 0 and repacks(tied):
        copied += padded(tied.n_bytes, HOST_LAYOUT.alignment)
    return sum(last[part] - first[part] for part in first) + copied


def _on_host(model: Model, where: Placement) -> Iterator[tuple[TensorInfo, bool]]:
    """The host's tensors, and whether rows are looked up in them instead of multiplied by."""
    groups = model.tensors
    for tensor in groups.input:
        yield tensor, True
    on_host = range(min(where.on_host, len(groups.layers)))
    for il in on_host:
        for tensor in groups.layers[il].others:
            yield tensor, False
    for il, layer in enumerate(groups.layers):
        if il < max(where.on_host, where.n_cpu_moe):
            for tensor in layer.experts:
                yield tensor, False
    if where.output < 0:
        for tensor in groups.output:
            yield tensor, False
    if any(il in groups.rope_layers for il in on_host):
        for tensor in groups.rope:
            yield tensor, True
