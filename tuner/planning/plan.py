"""What the solver answers: a choice, what else was possible, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tuner.machine.machine import Machine
from tuner.memory.footprint import Footprint
from tuner.model.model import Model
from tuner.settings import ALL_LAYERS, Settings

PREFERENCES = ("balanced", "speed", "context", "quality")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user fixed; None leaves it to the solver. Every wish is kept exactly."""

    n_ctx: int | None = None  # tokens
    max_ctx: bool = False  # all that the model was trained for
    type_k: str | None = None
    type_v: str | None = None
    n_gpu_layers: int | None = None
    n_cpu_moe: int | None = None
    n_ubatch: int | None = None
    tensor_split: tuple[float, ...] | None = None
    flash_attn: str | None = None
    use_extra_bufts: bool = True  # False once this machine died of them
    prefer: str = "balanced"

    def for_model(self, model: Model) -> Wishes:
        """The same wishes with "max" and "all" in numbers."""
        n_ctx = model.n_ctx_train if self.max_ctx else self.n_ctx
        layers = self.n_gpu_layers
        if layers is not None:
            most = model.n_layer_all + 1
            layers = most if layers == ALL_LAYERS else min(layers, most)
        return replace(self, n_ctx=n_ctx, max_ctx=False, n_gpu_layers=layers)

    @property
    def complete(self) -> bool:
        """Nothing is left to decide: the solver is a calculator."""
        return None not in (
            self.n_ctx,
            self.type_k,
            self.type_v,
            self.n_gpu_layers,
        )


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens/s: decode with a little context filled, and prompt processing."""

    decode_tps: float
    prompt_tps: float
    source: str = "computed"  # of the decode speed: "computed" | "measured" on this machine
    prompt_source: str = "computed"


@dataclass(frozen=True, slots=True)
class Quality:
    """What the cache types cost: mean KL divergence in nats per token against an f16 cache."""

    loss: float
    source: str = "assumed"  # "assumed" (prior) | "measured"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to load the model, weighed."""

    settings: Settings
    footprint: Footprint
    speed: Speed
    quality: Quality
    fits: bool
    score: float  # log of the effective tokens/s: see objective.py
    note: str = ""  # why it is in a list: "f16 cache", "CPU only", ...

    def short(self, budgets: Sequence[int]) -> list[int]:
        """Bytes that each device lacks."""
        return [max(0, u.total - b) for u, b in zip(self.footprint.uses, budgets, strict=True)]


@dataclass(frozen=True, slots=True)
class Plan:
    """The solver's whole answer for one model on one machine."""

    model: Model
    machine: Machine
    wishes: Wishes
    chosen: Candidate
    alternatives: tuple[Candidate, ...] = ()
    fallbacks: tuple[Candidate, ...] = ()  # each takes less memory of the GPUs than the one before
    one_more_gib: Candidate | None = None  # the choice if every GPU had 1 GiB more
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
