"""What the solver answers: a choice, what else was possible, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tuner.machine.machine import Machine
from tuner.memory.footprint import Footprint
from tuner.model.model import Model
from tuner.planning.budgets import Budgets
from tuner.planning.quality import Quality
from tuner.sampling import SamplingChoice
from tuner.settings import Settings
from tuner.wishes import Wishes


@dataclass(frozen=True, slots=True)
class Reads:
    """Bytes that one token reads, by `Device.id`, and those of the output."""

    weights: Mapping[str, float] = field(hash=False)  # of the layers, but for experts
    experts: Mapping[str, float] = field(hash=False)  # those that run
    cache: Mapping[str, float] = field(hash=False)  # as it is stored, with states
    output_head: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens/s of decoding, by the number of tokens in the cache, and of prompts."""

    decode_tps: float  # with `speed.QUOTED_DEPTH` tokens in the cache
    prompt_tps: float
    source: str = "computed"  # of the decode speed: "computed" | "measured" on this machine
    prompt_source: str = "computed"
    decode_tps_at: Mapping[int, float] = field(default_factory=dict, hash=False)
    turn_seconds: float = 0.0  # of reading a prompt and answering (`speed.turn_depth`)
    reads: Reads | None = None  # of a token of `decode_tps`


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to load the model, weighed."""

    settings: Settings
    footprint: Footprint
    speed: Speed
    quality: Quality
    fits: bool
    score: float  # log of the effective tokens/s: see objective.py
    note: str = ""  # how it came into a list: "--kv f16", "94% of the memory", ...

    def short(self, budgets: Budgets) -> list[int]:
        """Bytes that each device, and each pool of several, lacks (see `Budgets.limits`)."""
        return budgets.short(self.footprint.totals)

    def lacking(self, budgets: Budgets) -> int:
        """Bytes that are missing in all."""
        return sum(budgets.missing(self.footprint.totals))


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
    reasons: tuple[str, ...] = ()  # where nothing fits, the first one says what is missing
    warnings: tuple[str, ...] = ()
    sampling: SamplingChoice = field(default_factory=SamplingChoice)


def distinct(candidates: Iterable[Candidate | None], *known: Candidate) -> list[Candidate]:
    """Those that load the model in a way of their own, in their order: None, repetitions and
    ways that are `known` are left out."""
    found: list[Candidate] = []
    for c in candidates:
        if c and all(c.settings != o.settings for o in (*known, *found)):
            found.append(c)
    return found
