"""What the user asked for: wishes for one load, and the request that carries them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from tuner.errors import UsageError
from tuner.model.chat_templates import TemplateChoice
from tuner.model.model import Model
from tuner.settings import ALL_LAYERS, FIELDS, Settings

PREFERENCES = ("balanced", "speed", "context", "quality")
THINK_LEVELS = ("off", "low", "medium", "high", "on")  # how much a model thinks, the least first


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

    @classmethod
    def of_settings(cls, settings: Settings) -> Wishes:
        """Wishes that fix all that a wish can fix of these settings; an empty split, which says
        nothing, stays open."""
        names = _shared(cls)  # type: ignore[arg-type]  # mypy: a class is hashable
        values: dict[str, Any] = {name: getattr(settings, name) for name in names}
        values["tensor_split"] = settings.tensor_split or None
        return cls(**values)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that are fixed, by name."""
        names = _shared(type(self))  # type: ignore[arg-type]  # mypy: a class is hashable
        values = ((name, getattr(self, name)) for name in names)
        return {name: value for name, value in values if value is not None}

    def without(self, *names: str) -> Wishes:
        """The same wishes, those that are named given up."""
        given_up: dict[str, Any] = dict.fromkeys(names)
        return replace(self, **given_up)

    def for_model(self, model: Model) -> Wishes:
        """The same wishes with "max" and "all" in numbers. Raises UsageError where the model has
        no such number."""
        if self.max_ctx and not model.n_ctx_train:
            raise UsageError(
                "the file does not say for how many tokens the model was trained; write --ctx N."
            )
        n_ctx = model.n_ctx_train if self.max_ctx else self.n_ctx
        layers = self.n_gpu_layers
        if layers is not None:
            layers = model.n_items if layers == ALL_LAYERS else min(layers, model.n_items)
        return replace(self, n_ctx=n_ctx, max_ctx=False, n_gpu_layers=layers)

    @property
    def fixed(self) -> tuple[str, ...]:
        """The names of what the user fixed."""
        return tuple(name for name in FIXABLE if getattr(self, name) is not None)

    @property
    def stated(self) -> bool:
        """Whether the user said anything of how to load the model."""
        return bool(self.fixed) or self.prefer != "balanced"

    @property
    def flags(self) -> tuple[str, ...]:
        """What the user fixed, as flags: "--ctx 32768", "--kv q8_0"."""
        values = {flag: getattr(self, name) for name, flag in _FLAGS.items()}
        if self.type_k and self.type_k == self.type_v:
            values |= {"--kv": self.type_k, "--type-k": None, "--type-v": None}
        if self.tensor_split is not None:  # empty where there is one GPU
            shares = ",".join(f"{share:g}" for share in self.tensor_split)
            values["--tensor-split"] = shares or None
        return tuple(f"{flag} {value}" for flag, value in values.items() if value is not None)

    @property
    def complete(self) -> bool:
        """Nothing is left to decide: the solver is a calculator."""
        return None not in (
            self.n_ctx,
            self.type_k,
            self.type_v,
            self.n_gpu_layers,
        )


@cache
def _shared(wishes: type[Wishes]) -> tuple[str, ...]:
    """The fields that are settings too. Kept, since a search asks at every placement."""
    return tuple(f.name for f in fields(wishes) if f.name in FIELDS)


_FLAGS = {
    "n_ctx": "--ctx",
    "type_k": "--type-k",
    "type_v": "--type-v",
    "n_gpu_layers": "--gpu-layers",
    "n_cpu_moe": "--n-cpu-moe",
    "n_ubatch": "--ubatch",
    "tensor_split": "--tensor-split",
    "flash_attn": "--flash-attn",
}
FIXABLE = tuple(f.name for f in fields(Wishes) if f.default is None)  # names of what a user may fix


@dataclass(frozen=True, slots=True)
class StatedGpu:
    """A GPU that the user describes."""

    size: int  # bytes of its memory; of one without its own, the machine's RAM
    name: str = ""  # a name in the table of cards; "": nothing is known but the size
    usual: bool = False  # the size is the usual one of that name, not stated


class Rebalance(Enum):
    """What is done where other programs take memory beside a loaded model, or give it back."""

    OFF = "off"  # it is only said
    SHRINK = "shrink"  # a smaller plan is loaded; a better one is offered
    FULL = "full"  # either is loaded


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """What the user asked for. Sizes in bytes."""

    path: Path
    wishes: Wishes = field(default_factory=Wishes)
    gpus: tuple[StatedGpu, ...] | None = None  # stated; None: those that are here
    ram: int | None = None
    ram_bandwidth: float | None = None  # bytes/s
    cores: int | None = None
    reserve: int | None = None
    rpc_servers: tuple[str, ...] = ()
    threads: int | None = None  # None: one per physical core
    use_profile: bool = True
    sampling: Mapping[str, Any] = field(default_factory=dict)  # by flag, by the names of `Sampling`
    think: str = ""  # of THINK_LEVELS; "": as the profile has it, else the model's template
    keeps_flags: bool = True  # those of sampling and thinking are the model's from now on
    chat_template: TemplateChoice = field(default_factory=TemplateChoice)
    model: Model | None = None  # what the file says, where it has been read already
    # Chosen in the fit explorer: loaded as they are, whatever the wishes, and nothing else. Whether
    # later launches shall do the same; None leaves that as it was.
    settings: Settings | None = None
    keeps_settings: bool | None = None
    rebalance: Rebalance = Rebalance.SHRINK  # while a model is loaded
    states_on_disk: bool = True  # what was read of a conversation may lie there, also for a moment

    @property
    def stated(self) -> bool:
        """The machine is described, not measured: nothing is remembered of it."""
        of_machine = (self.gpus, self.ram, self.ram_bandwidth, self.cores)
        return any(part is not None for part in of_machine)
