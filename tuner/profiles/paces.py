"""How fast this machine's devices are beside what is computed of them, learned from all its models.

A time is one number, and several parts of the machine took it: devices, the host's memory and its
cores, the waiting of its threads. The times of one measurement, at several depths and with several
numbers of threads, are explained together: the paces that they make likely, near to what is known
of them so far. Only those are kept that the times themselves say something sure of. Each model has
one say per part, so that the one that is used daily does not speak for all, and the middle of what
they say counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log
from typing import Annotated, Literal, NamedTuple

from tuner.engine.protocol import Timed
from tuner.json_values import within
from tuner.machine.machine import Device, Machine, Pace
from tuner.machine.usable import device_key

LEAST, MOST = 0.05, 20.0  # a pace outside is a mistake, not a machine
MOST_MODELS = 8  # per device; the one that was heard longest ago is forgotten first
# How far, as the standard deviation of a logarithm, a prediction may be off although all its paces
# are right; and what times say of a pace, to be kept.
OFF_BY, SURE = 0.07, 0.5
# And a pace: where something is known of it, where nothing is, and that of what differs most.
KNOWN, UNKNOWN, ANYTHING = 0.2, 0.5, 1.5
_STEPS = 12
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


class Part(NamedTuple):
    """What a time is made of: by what it is known, the pace that the prediction has, and how far
    off that may be."""

    key: str
    pace: float
    off_by: float


# Predicted seconds per token of what was timed, if the part at this place took no time; None: as
# it is.
Predicted = Callable[[Timed, int | None], float]


@dataclass(frozen=True, slots=True)
class Time:
    """Seconds per token that were measured, and those that are predicted of each part, with the
    pace that it is taken to have; the last is what is none's."""

    shares: tuple[float, ...]
    measured: float
    n_tokens: int


def attention_key(host: Device) -> str:
    """What a host's attention to a quantized cache is known by, beside its weights."""
    return f"{device_key(host)} attention"


def barriers_key(host: Device) -> str:
    """What the waiting of a host's threads for each other is known by."""
    return f"{device_key(host)} barriers"


def parts_of(machine: Machine, job: Literal["decode", "prompt"]) -> list[Part]:
    """What a time of this machine is made of: its devices in their order, then the host's
    attention and its threads' waiting (`SpeedModel.without`)."""
    host, pace = machine.host, machine.host.pace

    def part(key: str, pace: float, unknown: float = UNKNOWN) -> Part:
        return Part(key, pace, unknown if pace == 1.0 else KNOWN)

    return [
        *(part(device_key(device), getattr(device.pace, job)) for device in machine.devices),
        part(attention_key(host), pace.attention),
        part(barriers_key(host), pace.barriers, ANYTHING),
    ]


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

    host = of(machine.host)
    attention, barriers = (
        pace_of((*decode.get(key, ()), *prompt.get(key, ())))
        for key in (attention_key(host), barriers_key(host))
    )
    host = replace(host, pace=replace(host.pace, attention=attention, barriers=barriers))
    return replace(machine, gpus=tuple(map(of, machine.gpus)), host=host)


def said_by(
    all_timed: Sequence[Timed], model: str, parts: Sequence[Part], predicted: Predicted
) -> list[DeviceSaid]:
    """What the times of one measurement say of the parts of the machine."""
    times = []
    for timed in all_timed:
        whole = predicted(timed, None)
        if not (timed.n_tokens and timed.seconds > 0 and whole > 0):
            continue
        shares = [whole - predicted(timed, place) for place in range(len(parts))]
        shares.append(max(0.0, whole - sum(shares)))
        times.append(Time(tuple(shares), timed.seconds / timed.n_tokens, timed.n_tokens))
    off_by = [*(part.off_by for part in parts), UNKNOWN]
    found = []
    for part, explained in zip(parts, explained_by(times, off_by), strict=False):
        if explained is not None:
            factor, n_tokens = explained
            said = Said(model, _bounded(part.pace * factor), min(MEMORY, n_tokens))
            found.append((part.key, said))
    return found


def explained_by(times: Sequence[Time], off_by: Sequence[float]) -> list[tuple[float, int] | None]:
    """For each part how much faster it is than predicted, and the tokens that this rests on; None
    where the times say nothing sure of it.

    The likeliest logarithms x of the parts' seconds over those predicted, by Gauss and Newton's
    method: times are log-normal around `sum(shares * exp(x))`, and each x is normal around 0 with
    the standard deviation `off_by`.
    """
    before = [off**-2 for off in off_by]
    x = [0.0] * len(before)
    for _ in range(_STEPS):
        precision, pull = _evidence(times, x)
        gradient = [p - b * at for p, b, at in zip(pull, before, x, strict=True)]
        step = _solved(_with_diagonal(precision, before), gradient)
        x = [
            min(-log(LEAST), max(-log(MOST), at + min(1.0, max(-1.0, by))))
            for at, by in zip(x, step, strict=True)
        ]
    precision, _ = _evidence(times, x)
    found: list[tuple[float, int] | None] = []
    for i, at in enumerate(x):
        # What the times say of it by themselves, whatever the other parts may be after all.
        others = [j for j in range(len(x)) if j != i]
        across = [precision[i][j] for j in others]
        rows = [[row[j] for j in others] for row in _with_diagonal(precision, before)]
        of_others = _solved([rows[j] for j in others], across)
        sure = precision[i][i] - sum(a * b for a, b in zip(across, of_others, strict=True))
        n_tokens = sum(time.n_tokens for time in times if time.shares[i] > 0)
        found.append((exp(-at), n_tokens) if sure > SURE**-2 else None)
    return found


def _with_diagonal(rows: Sequence[Sequence[float]], more: Sequence[float]) -> list[list[float]]:
    return [
        [value + (more[i] if i == j else 0.0) for j, value in enumerate(row)]
        for i, row in enumerate(rows)
    ]


def _evidence(times: Sequence[Time], x: Sequence[float]) -> tuple[list[list[float]], list[float]]:
    """What times say near x: their precision, and how they pull at it."""
    n = len(x)
    precision, pull = [[0.0] * n for _ in range(n)], [0.0] * n
    for time in times:
        parts = [share * exp(at) for share, at in zip(time.shares, x, strict=True)]
        whole = sum(parts)
        slopes = [part / whole for part in parts]
        off = log(time.measured / whole)
        for i in range(n):
            pull[i] += slopes[i] * off / OFF_BY**2
            for j in range(n):
                precision[i][j] += slopes[i] * slopes[j] / OFF_BY**2
    return precision, pull


def _solved(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """The solution of linear equations whose matrix is symmetric and positive definite."""
    n = len(values)
    m = [[*row, value] for row, value in zip(rows, values, strict=True)]
    for i in range(n):
        for j in range(i + 1, n):
            factor = m[j][i] / m[i][i]
            m[j] = [a - factor * b for a, b in zip(m[j], m[i], strict=True)]
    found = [0.0] * n
    for i in reversed(range(n)):
        found[i] = (m[i][n] - sum(m[i][j] * found[j] for j in range(i + 1, n))) / m[i][i]
    return found


def _bounded(pace: float) -> float:
    return min(MOST, max(LEAST, pace))
