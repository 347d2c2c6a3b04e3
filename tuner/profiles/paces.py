"""How fast this machine's devices are beside what is computed of them, learned from all its models.

A time is one number, and several devices may have taken it, or the host's memory and its cores.
What it was off by is put down to the part that takes nearly all of it, if there is one; the others
are taken to be as fast as is known of them so far. Times of one measurement explain each other: the
one with an empty cache tells of the weights, and what a later one takes longer of attention. Each
model has one say per part, so that the one that is used daily does not speak for all, and the
middle of what they say counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log
from typing import Annotated, Literal

from tuner.engine.protocol import Timed
from tuner.json_values import within
from tuner.machine.machine import Device, Machine, Pace
from tuner.machine.usable import device_key

LEAST, MOST = 0.05, 20.0  # a pace outside is a mistake, not a machine
MOST_MODELS = 8  # per device; the one that was heard longest ago is forgotten first
LEAST_SHARE = 0.8  # of the time that is not explained yet, which the part to blame must take,
LEAST_PART = 0.25  # and of the whole
# Tokens for which what a model has said so far counts at most: later ones still move it.
MEMORY = 512


@dataclass(frozen=True, slots=True)
class Said:
    """What one model says of one device."""

    model: str  # its fingerprint
    pace: Annotated[float, within(LEAST, MOST)]  # measured over computed speed
    n_tokens: Annotated[int, within(1, MEMORY)]  # that it rests on


Sayings = Mapping[str, tuple[Said, ...]]  # by `device_key`
DeviceSaid = tuple[str, Said]  # of the device with this key
Part = tuple[str, float]  # what a time is made of: its key, and the pace that the prediction has
# Predicted seconds per token of what was timed, if the part at this place took no time; None: as
# it is.
Predicted = Callable[[Timed, int | None], float]


def attention_key(host: Device) -> str:
    """What the attention of a host's cores is known by, beside its weights."""
    return f"{device_key(host)} attention"


def parts_of(machine: Machine, job: Literal["decode", "prompt"]) -> list[Part]:
    """What a time of this machine is made of: its devices in their order, then the host's
    attention."""
    devices = [(device_key(device), getattr(device.pace, job)) for device in machine.devices]
    return [*devices, (attention_key(machine.host), machine.host.pace.attention)]


def heard(known: Sequence[Said], new: Said) -> tuple[Said, ...]:
    """All that is known of a device, the newest last."""
    others = [said for said in known if said.model != new.model]
    for said in known:
        if said.model == new.model:
            total = said.n_tokens + new.n_tokens
            mean = (said.n_tokens * log(said.pace) + new.n_tokens * log(new.pace)) / total
            new = replace(new, pace=_bounded(exp(mean)), n_tokens=min(MEMORY, total))
    return (*others, new)[-MOST_MODELS:]


def all_heard(known: Sayings, new: Sequence[DeviceSaid]) -> Sayings:
    """The same for all devices."""
    found = dict(known)
    for key, said in new:
        found[key] = heard(found.get(key, ()), said)
    return found


def pace_of(known: Sequence[Said]) -> float:
    """The weighted median of what models say; 1.0 where none has."""
    ordered = sorted(known, key=lambda said: said.pace)
    half, weight = sum(said.n_tokens for said in ordered) / 2, 0
    for said in ordered:
        weight += said.n_tokens
        if weight >= half:
            return said.pace
    return 1.0


def paced(machine: Machine, decode: Sayings, prompt: Sayings) -> Machine:
    """The machine with what was learned of its devices."""

    attention = attention_key(machine.host)

    def of(device: Device) -> Device:
        key = device_key(device)
        pace = Pace(pace_of(decode.get(key, ())), pace_of(prompt.get(key, ())))
        return replace(device, pace=pace)

    host = of(machine.host)
    said = (*decode.get(attention, ()), *prompt.get(attention, ()))
    host = replace(host, pace=replace(host.pace, attention=pace_of(said)))
    return replace(machine, gpus=tuple(map(of, machine.gpus)), host=host)


def said_by(
    all_timed: Sequence[Timed], model: str, parts: Sequence[Part], predicted: Predicted
) -> list[DeviceSaid]:
    """What the times of one measurement say, each of the part that took nearly all of what earlier
    ones, less deep, do not explain."""
    found = []
    factors: dict[int, float] = {}  # what is known from this measurement, by place
    for timed in sorted(all_timed, key=lambda timed: timed.depth):
        whole = predicted(timed, None)
        shares = [whole - predicted(timed, place) for place in range(len(parts))]
        rest = whole - sum(shares)
        shares = [share / factors.get(place, 1.0) for place, share in enumerate(shares)]
        blame = blamed(shares, rest, timed.seconds / timed.n_tokens, factors.keys())
        if blame is not None:
            place, factor = blame
            factors[place] = factors.get(place, 1.0) * factor
            key, pace = parts[place]
            said = Said(model, _bounded(pace * factors[place]), min(MEMORY, timed.n_tokens))
            found.append((key, said))
    return found


def blamed(
    shares: Sequence[float], rest: float, measured: float, explained: Collection[int] = ()
) -> tuple[int, float] | None:
    """Which part what was measured says something of, and how much faster than predicted it is:
    (place, factor). None where none takes nearly all of what is not explained.

    `shares`: predicted seconds of each part; `rest`: of what is none's. `measured`: seconds in all.
    `explained`: places of which is known what they take.
    """
    whole = sum(shares) + rest
    for candidates, total in (
        (range(len(shares)), whole),
        (
            [i for i in range(len(shares)) if i not in explained],
            whole - sum(shares[i] for i in explained),
        ),
    ):
        place = max(candidates, key=lambda i: shares[i], default=None)
        if place is None:
            continue
        most = shares[place]
        if most > LEAST_SHARE * total and most > LEAST_PART * whole:
            return place, most / max(measured - (whole - most), most / MOST)
    return None


def _bounded(pace: float) -> float:
    return min(MOST, max(LEAST, pace))
