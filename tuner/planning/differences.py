"""How two plans for one model differ, in words."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tuner.model.model import Model
from tuner.planning.plan import Candidate
from tuner.settings import Settings
from tuner.units import tps_text

NOTICEABLE = 0.01  # of the decode speed

_PHRASED = ("n_gpu_layers", "n_cpu_moe", "n_ctx", "type_k", "type_v", "use_extra_bufts")
_UNNOTICED = ("tensor_split",)  # shares of the GPUs, which follow from the rest
# What has no phrase of its own goes by its name, so that no field of Settings is passed over.
_BY_NAME = [f.name for f in fields(Settings) if f.name not in (*_PHRASED, *_UNNOTICED)]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that a plan has unlike another."""

    verb: str  # what a plan that has it would do: "keep", "give", "use", ...
    text: str  # "33 of 41 layers on the GPU"

    @property
    def clause(self) -> str:
        """With its verb: keep 33 of 41 layers on the GPU."""
        return f"{self.verb} {self.text}"


def differences(model: Model, a: Settings, b: Settings) -> tuple[Difference, ...]:
    """What settings `b` have that `a` have not; nothing where only the split differs."""
    found: list[Difference] = []
    if b.n_gpu_layers != a.n_gpu_layers:
        n_items = model.n_items
        found.append(Difference("keep", f"{b.n_gpu_layers} of {n_items} layers on the GPU"))
    if b.n_cpu_moe != a.n_cpu_moe:
        moved = f"the experts of {b.n_cpu_moe} layers in RAM instead of {a.n_cpu_moe}"
        found.append(Difference("leave", moved))
    if b.n_ctx != a.n_ctx:
        found.append(Difference("give", f"{b.n_ctx:,} tokens of context"))
    if (b.type_k, b.type_v) != (a.type_k, a.type_v):
        found.append(Difference("use", f"cache K {b.type_k}, V {b.type_v}"))
    if b.use_extra_bufts != a.use_extra_bufts:
        order = "as the CPU likes them" if b.use_extra_bufts else "as the file has them"
        found.append(Difference("keep", f"weights {order}"))
    for name in _BY_NAME:
        value = getattr(b, name)
        if value != getattr(a, name):
            found.append(Difference("use", f"{name} {value}"))
    return tuple(found)


def difference_text(model: Model, a: Candidate, b: Candidate) -> str:
    """What `b` has that `a` has not, its speed included, as a list; empty where a user would
    notice nothing."""
    parts = [d.text for d in differences(model, a.settings, b.settings)]
    if abs(b.speed.decode_tps / a.speed.decode_tps - 1) > NOTICEABLE:
        parts.append(f"about {tps_text(b.speed.decode_tps)} tokens/s")
    return ", ".join(parts)
