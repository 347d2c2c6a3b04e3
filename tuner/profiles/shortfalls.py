"""What was not to be had of memory that was said to be free: limits that nobody tells, a driver
that cannot use the last of it. Learned from loads that ran out of memory, for this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from tuner.json_values import Bytes
from tuner.machine.machine import Machine
from tuner.machine.usable import device_key
from tuner.units import size_text

BELIEVED = timedelta(days=7)  # what was in the way may be gone
NOISE = 16  # by which part of a device's memory what is free may differ and be the same


@dataclass(frozen=True, slots=True)
class Shortfall:
    """What loads on one device taught. Sizes in bytes, of all that a load takes there."""

    failed: Bytes  # the smallest that ran out of memory,
    worked: Bytes  # the largest that was then loaded in its place,
    free: Bytes  # with so many said to be free
    at: str  # ISO 8601, UTC


Shortfalls = Mapping[str, Shortfall]  # by `device_key`


def within_what_worked(machine: Machine, known: Shortfalls, now: datetime | None = None) -> Machine:
    """The machine with a larger reserve where loads ran out of memory: as many bytes may be taken
    as worked then, and more only as clearly more is free. A warning says so."""
    moment = now or datetime.now(UTC)
    for device in machine.devices:
        found = known.get(device_key(device))
        until = _until(found) if found else None
        if found is None or until is None or moment >= until:
            continue
        most = found.worked + max(0, device.free - found.free - device.total // NOISE)
        if most >= device.budget:
            continue
        why = (
            f"{device.id}: a load ran out of memory on {found.at[:10]}, so no more than "
            f"{size_text(most)} are planned there until {until.date().isoformat()}; "
            "kvchat --forget-machine lifts that."
        )
        machine = replace(machine.bounded(device.id, most), warnings=(*machine.warnings, why))
    return machine


def after_a_load(
    known: Shortfalls,
    machine: Machine,
    totals: list[int],
    failed: Mapping[int, int],
    now: datetime | None = None,
) -> Shortfalls:
    """What is known once a load took `totals` of each device. `failed`: by place in
    `machine.devices`, what loads took there that ran out of memory just before. What held is
    forgotten once so much was loaded after all."""
    found = dict(known)
    at = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    for place, device in enumerate(machine.devices):
        key, worked = device_key(device), totals[place]
        if place in failed and worked < failed[place]:
            found[key] = Shortfall(failed[place], worked, device.free, at)
        elif key in found and worked >= found[key].failed:
            del found[key]
    return found


def _until(found: Shortfall) -> datetime | None:
    """The end of its time; None where its file says none that makes sense."""
    try:
        moment = datetime.fromisoformat(found.at)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) + BELIEVED
