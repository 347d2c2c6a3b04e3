"""What is known of graphics cards by their names: one row per card in cards.json.

The table is written by bench/record_cards.py, which has its sources. Names are matched as people
and drivers write them: "RTX 4060 Ti", "4060ti", "NVIDIA GeForce RTX 4060 Ti", "AMD Radeon RX 7900
XT (RADV NAVI31)".
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from tuner.units import GIB, MIB

_NEAREST = 3  # names that an unknown one is answered with
_LONGEST = 60  # characters of one that are looked at
_GB = 1e9

# What makers, drivers and people write around a card's own name.
_SIZE = re.compile(r"(?<![a-z0-9.])(\d{1,4}) ?gi?b(?![a-z0-9])", re.IGNORECASE)
_IN_BRACKETS = re.compile(r"\([^)]*\)")
_NOISE = re.compile(
    "nvidia|geforce|tesla|rtx|gtx|amd|radeon|rx|instinct|intel|arc|apple|graphics|generation"
    "|edition|gpu"
)


@dataclass(frozen=True, slots=True)
class CardRow:
    """One card, as it is sold. Sizes in bytes, rates in bytes/s, Hz and FLOP/s; 0: not known."""

    name: str
    backend: str  # that people use it with, by its name in `backends`
    memory: tuple[int, ...]  # that it is sold with, the usual size first
    bandwidth: float
    n_sm: int = 0  # of a CUDA card, like the next two
    clock: float = 0.0  # the highest of its multiprocessors
    capability: tuple[int, int] | None = None
    pcie: tuple[int, int] | None = None  # generation and lanes
    peak: float = 0.0  # of f16, of other cards
    # of the RAM, which it may use; 0: it has memory of its own. `memory` is then the RAM's.
    ram_share: float = 0.0
    cores: int = 0  # performance cores of the CPU beside it; 0: it may be any, or is not known
    aliases: tuple[str, ...] = ()

    @property
    def unified(self) -> bool:
        """It has no memory of its own."""
        return self.ram_share > 0

    def in_memory(self, size: int) -> int:
        """Bytes that it may use, with `size` bytes of its own or of RAM."""
        return int(size * self.ram_share) if self.unified else size


@functools.cache
def rows() -> tuple[CardRow, ...]:
    """The whole table, in its order."""
    text = Path(__file__).with_name("cards.json").read_text(encoding="utf-8")
    return tuple(_row(row) for row in json.loads(text)["cards"])


def _row(row: Mapping[str, Any]) -> CardRow:
    major, _, minor = row.get("capability", "").partition(".")
    generation_and_lanes = row.get("pcie")
    return CardRow(
        name=row["name"],
        backend=row["backend"],
        memory=tuple(size * MIB for size in row["memory"]),
        bandwidth=row["bandwidth"] * _GB,
        n_sm=row.get("n_sm", 0),
        clock=row.get("clock", 0) * 1e6,
        capability=(int(major), int(minor)) if major else None,
        pcie=tuple(generation_and_lanes) if generation_and_lanes else None,
        peak=row.get("peak", 0.0) * 1e12,
        ram_share=row.get("ram_share", 0.0),
        cores=row.get("cores", 0),
        aliases=tuple(row.get("aliases", ())),
    )


def row_of(name: str, size: int | None = None) -> CardRow | None:
    """The row of a card by its name, as people or drivers write it; None where there is none.

    Cards of one name are told apart by their memory (`size`, bytes): the nearest counts, without
    it the usual one.
    """
    same = _by_key().get(_key(name), ())
    if not same or size is None:
        return same[0] if same else None
    return min(same, key=lambda row: min(abs(size - memory) for memory in row.memory))


def size_in(name: str) -> int | None:
    """Bytes of memory that a name says itself, as "RTX 3060 12GB" does; None: it does not."""
    said = _SIZE.search(name)
    return int(said[1]) * GIB if said else None


def sizes(row: CardRow) -> tuple[int, ...]:
    """The memory of all cards of this one's name, in bytes, the least first."""
    return tuple(
        sorted({size for other in rows() if other.name == row.name for size in other.memory})
    )


def nearest(name: str) -> tuple[str, ...]:
    """The names that are most like one that is unknown, the nearest first."""
    wanted, key = name.lower()[:_LONGEST], _key(name)

    def likeness(other: str) -> tuple[bool, float]:
        within = bool(key) and key in _key(other)
        return within, SequenceMatcher(None, wanted, other.lower()).ratio()

    names = dict.fromkeys(row.name for row in rows())
    return tuple(sorted(names, key=likeness, reverse=True)[:_NEAREST])


@functools.cache
def _by_key() -> dict[str, tuple[CardRow, ...]]:
    """The rows of each way to write a name."""
    found: dict[str, tuple[CardRow, ...]] = {}
    for row in rows():
        for key in dict.fromkeys(map(_key, (row.name, *row.aliases))):
            found[key] = (*found.get(key, ()), row)
    return found


def _key(name: str) -> str:
    """A name without what is around it, case and spaces: "4060ti", "m4pro", "7900xt"."""
    plain = _IN_BRACKETS.sub(" ", _SIZE.sub(" ", name.lower()))
    letters = "".join(re.findall("[a-z0-9]+", plain))
    return _NOISE.sub("", letters).replace("mobile", "laptop")
