"""The decision itself: how a model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from operator import attrgetter
from typing import Annotated, Any, Self

from tuner.json_values import Bound, one_of, within
from tuner.units import INT32

CONTEXT_PADDING = 256  # tokens: n_ctx and every cache are rounded up to it (llama-context.cpp)
MAX_CONTEXT = INT32 + 1 - CONTEXT_PADDING  # tokens: a place in it is an int32_t (`llama_pos`)
MAX_UBATCH = 1 << 16  # tokens: no hardware gains by batches beyond 2^13
Tokens = Annotated[int, within(1, MAX_CONTEXT)]
_Batch = Annotated[int, within(1, MAX_UBATCH)]
Layers = Annotated[int, within(0, INT32)]
_Share = Annotated[float, within(0, 1e6)]
_SOME = Bound(lambda shares: not shares or any(shares), "shares of which one is above 0")

ALL_LAYERS = 99  # as people write "all of them" for n_gpu_layers


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the tuner decides about one load. Field names are llama.cpp's own.

    A field added here reaches the search, profiles, the wire and JSON by itself: all of them go
    by the dataclass's own list (`FIELDS`).
    """

    n_ctx: Tokens  # tokens; llama.cpp pads it to a multiple of 256
    type_k: str = "f16"  # a name in cache_types.CACHE_TYPES
    type_v: str = "f16"
    n_gpu_layers: Layers = 0  # 0..n_layer+1; the first one is the output layer
    n_cpu_moe: Layers = 0  # the first N layers keep their expert tensors in RAM
    n_ubatch: _Batch = 512  # tokens per compute graph; n_batch is the larger of it and 512
    # share of the offloaded layers per GPU; empty: one GPU
    tensor_split: Annotated[tuple[_Share, ...], _SOME] = ()
    flash_attn: Annotated[str, one_of("on", "off", "auto")] = "on"
    swa_full: bool = False  # a sliding window keeps only its window
    use_extra_bufts: bool = True  # repacked CPU weights (AMX, REPACK); off after such a crash

    @property
    def n_batch(self) -> int:
        """Tokens handed to one llama_decode call."""
        return max(512, self.n_ubatch)

    @property
    def weights(self) -> tuple[object, ...]:
        """What decides where the weights lie. All else is a context's, which can be made anew
        beside them; but for repacked weights, which a machine can run or not."""
        return self.n_gpu_layers, self.n_cpu_moe, self.tensor_split

    def with_context(self, n_ctx: int) -> Self:
        """The same with another context."""
        return self._with(n_ctx=n_ctx)

    def with_split(self, tensor_split: tuple[float, ...]) -> Self:
        """The same with another split over the GPUs."""
        return self._with(tensor_split=tensor_split)

    def with_offload(self, n_gpu_layers: int, n_cpu_moe: int) -> Self:
        """The same with other layers on the GPUs."""
        return self._with(n_gpu_layers=n_gpu_layers, n_cpu_moe=n_cpu_moe)

    def _with(self, **changed: object) -> Self:
        """`dataclasses.replace` in half its time, most of which a search would otherwise spend
        there."""
        cls = type(self)
        read, places = _layout(cls)  # type: ignore[arg-type]  # mypy: a class is hashable
        values = [*read(self)]
        for name, value in changed.items():
            values[places[name]] = value
        return cls(*values)


@dataclass(frozen=True, slots=True)
class OnGpus(Settings):
    """Settings for some of the machine's GPUs, the others being left alone. Those for all of them,
    or for whichever a plan takes, are plain `Settings`."""

    gpus: tuple[str, ...] = ()  # by `Device.id`, in the machine's order


def on_gpus(settings: Settings, gpus: tuple[str, ...] | None) -> Settings:
    """The same for these GPUs; None: for all."""
    values = {name: getattr(settings, name) for name in FIELDS}
    return Settings(**values) if gpus is None else OnGpus(**values, gpus=gpus)


@cache
def _layout(cls: type[Settings]) -> tuple[Callable[[Settings], tuple[Any, ...]], dict[str, int]]:
    """What reads all fields in order, and the place of each."""
    names = [f.name for f in fields(cls)]
    return attrgetter(*names), {name: i for i, name in enumerate(names)}


FIELDS = tuple(f.name for f in fields(Settings))  # in the order of JSON, reports and profiles
