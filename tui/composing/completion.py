"""Names of files for a mention that is being typed. Blocks."""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path

from tui.composing.mentions import located

MOST_SEEN = 5000  # entries of a folder that are looked at,
SECONDS = 0.5  # and how long, where a disk is slow
MOST = 50  # that are offered


@dataclass(frozen=True, slots=True)
class Choice:
    """What may take the place of what is being typed. `more`: a folder, into which one goes on."""

    text: str
    note: str = ""
    more: bool = False


def names(typed: str, folder: Path) -> list[Choice]:
    """Files and folders whose names begin as what is typed ends, or else have it in them; folders
    first, hidden ones only where they are asked for. Whatever cannot be read is empty."""
    before, slash, beginning = typed.rpartition("/")
    within = located(before + slash, folder) if slash else folder
    wanted = beginning.casefold()
    begin: list[tuple[bool, str]] = []
    inside: list[tuple[bool, str]] = []
    end = time.monotonic() + SECONDS
    try:
        with os.scandir(within) as entries:
            for entry in itertools.islice(entries, MOST_SEEN):
                name = entry.name.casefold()
                if wanted in name and (beginning.startswith(".") or not name.startswith(".")):
                    found = begin if name.startswith(wanted) else inside
                    found.append((not _is_folder(entry), entry.name))
                if time.monotonic() > end:
                    break
    except (OSError, ValueError):
        return []
    return [
        Choice(f"{before}{slash}{name}{'' if is_file else '/'}", more=not is_file)
        for is_file, name in (sorted(begin) + sorted(inside))[:MOST]
        if name.isprintable()
    ]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
