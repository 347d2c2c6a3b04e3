"""How fast this machine's devices are beside what is computed of them, learned from all its models.

A time is one number, and several devices may have taken it. What it was off by is put down to the
one that takes nearly all of it, if there is one; the others are taken to be as fast as is known of
them so far. Each model has one say per device, so that the one that is used daily does not speak
for all, and the middle of what they say counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log
from typing import Annotated

from tuner.engine.protocol import Timed
from tuner.json_values import within
from tuner.machine.machine import Device, Machine, Pace
from tuner.machine.usable import device_key

LEAST, MOST = 0.05, 20.0  # a pace outside is a mistake, not a machine
MOST_MODELS = 8  # per device; the one that was heard longest ago is forgotten first
LEAST_SHARE = 0.8  # of the time, that a device must take to be the one to blame
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
# Predicted seconds per token of what was timed, if the device at this place took no time; None: as
# it is.
Predicted = Callable[[Timed, int | None], float]


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

    def of(device: Device) -> Device:
        key = device_key(device)
        pace = Pace(pace_of(decode.get(key, ())), pace_of(prompt.get(key, ())))
        return replace(device, pace=pace)

    return replace(machine, gpus=tuple(map(of, machine.gpus)), host=of(machine.host))


def said_by(
    all_timed: Sequence[Timed],
    model: str,
    paces: Sequence[tuple[Device, float]],
    predicted: Predicted,
) -> list[DeviceSaid]:
    """What times say, each of the device that took nearly all of it. `paces`: those that the
    prediction has of each of the machine's devices, in their order."""
    found = []
    for timed in all_timed:
        whole = predicted(timed, None)
        shares = [whole - predicted(timed, place) for place in range(len(paces))]
        blame = blamed(shares, whole - sum(shares), timed.seconds / timed.n_tokens)
        if blame is not None:
            place, factor = blame
            device, pace = paces[place]
            said = Said(model, _bounded(pace * factor), min(MEMORY, timed.n_tokens))
            found.append((device_key(device), said))
    return found


def blamed(shares: Sequence[float], rest: float, measured: float) -> tuple[int, float] | None:
    """Which device what was measured says something of, and how much faster than predicted it is:
    (place, factor). None where none takes nearly all of the time.

    `shares`: predicted seconds of each device; `rest`: of what is no device's. `measured`: seconds
    in all.
    """
    place = max(range(len(shares)), key=lambda i: shares[i])
    most = shares[place]
    if most <= LEAST_SHARE * (sum(shares) + rest):
        return None
    others = sum(shares) + rest - most
    return place, most / max(measured - others, most / MOST)


def _bounded(pace: float) -> float:
    return min(MOST, max(LEAST, pace))
