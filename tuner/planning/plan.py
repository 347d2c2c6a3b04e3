"""What the solver answers: a choice, what else was possible, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tuner.machine.machine import Machine
from tuner.memory.footprint import Footprint
from tuner.model.model import Model
from tuner.planning.budgets import Budgets
from tuner.planning.kept_states import KeptStates
from tuner.planning.later import Later
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
    score: float  # log of the effective turns per second: see objective.py
    note: str = ""  # how it came into a list: "--kv f16", "94% of the memory", ...

    def short(self, budgets: Budgets) -> list[int]:
        """Bytes that each device, and each pool of several, lacks (see `Budgets.limits`)."""
        return budgets.short(self.footprint.totals)

    def lacking(self, budgets: Budgets) -> int:
        """Bytes that are missing in all."""
        return sum(budgets.missing(self.footprint.totals))


@dataclass(frozen=True, slots=True)
class Shape:
    """A cache that there is room for where a plan's weights lie."""

    type_k: str
    type_v: str
    n_ctx: int  # tokens, the most
    quality: Quality

    @property
    def types(self) -> str:
        """As people name a pair."""
        return types_text(self.type_k, self.type_v)


def types_text(type_k: str, type_v: str) -> str:
    """A pair of cache types in a word: q8_0, q8_0/q4_0."""
    return type_k if type_k == type_v else f"{type_k}/{type_v}"


@dataclass(frozen=True, slots=True)
class Offers:
    """What a plan has beside its choice. The choice is there long before all that: it is shown, or
    loaded, at once, and the rest is found when somebody asks for it."""

    alternatives: Later[tuple[Candidate, ...]] = field(default_factory=lambda: Later.known(()))
    fallbacks: Later[tuple[Candidate, ...]] = field(default_factory=lambda: Later.known(()))
    one_more_gib: Later[Candidate | None] = field(default_factory=lambda: Later.known(None))
    shapes: Later[tuple[Shape, ...]] = field(default_factory=lambda: Later.known(()))


@dataclass(frozen=True, slots=True)
class Plan:
    """The solver's whole answer for one model on one machine."""

    model: Model
    machine: Machine
    wishes: Wishes
    chosen: Candidate
    reasons: tuple[str, ...] = ()  # where nothing fits, the first one says what is missing
    warnings: tuple[str, ...] = ()
    offers: Offers = field(default_factory=Offers)
    sampling: SamplingChoice = field(default_factory=SamplingChoice)

    @property
    def kept(self) -> KeptStates:
        """The RAM that a conversation's states may take beside the choice."""
        return KeptStates.of(self.chosen.footprint, Budgets.of(self.machine))

    @property
    def alternatives(self) -> tuple[Candidate, ...]:
        """What else fits and is better in something; where nothing fits, the nearest that does.
        The first who asks waits for tenths of a second, as with the others."""
        return self.offers.alternatives.value

    @property
    def fallbacks(self) -> tuple[Candidate, ...]:
        """What to try where a load runs out of memory all the same; each takes less memory of the
        GPUs than the one before."""
        return self.offers.fallbacks.value

    @property
    def one_more_gib(self) -> Candidate | None:
        """The choice if every GPU had 1 GiB more, where that is better."""
        return self.offers.one_more_gib.value

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """What the cache can become while the weights stay where they are, the most precise first;
        each has more context than the one before."""
        return self.offers.shapes.value

    def offering(self, **offers: Any) -> Plan:
        """The plan with other offers of the kinds that are named."""
        known = {name: Later.known(found) for name, found in offers.items()}
        return replace(self, offers=replace(self.offers, **known))


def distinct(candidates: Iterable[Candidate | None], *known: Candidate) -> list[Candidate]:
    """Those that load the model in a way of their own, in their order: None, repetitions and
    ways that are `known` are left out."""
    found: list[Candidate] = []
    for c in candidates:
        if c and all(c.settings != o.settings for o in (*known, *found)):
            found.append(c)
    return found
