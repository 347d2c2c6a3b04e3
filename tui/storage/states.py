"""What the model had read of each conversation: a file for each, so that it need not be read again.

The engine writes and reads the files (`RunningModel.save_state`); here is which there are, how much
of the disk they take, and when they go. The one that was not used for longest goes first.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tuner.private_files import private_folder
from tuner.units import GIB

USUAL_BYTES = 4 * GIB  # of all files together, where nothing else is said,
USUAL_SHARE = 10  # or such a part of what the disk would have free without them, if that is less
LEAST_AGE = 3600.0  # seconds after which what belongs to no conversation is not being written
_SUFFIX = ".state"
_PROCESS = re.compile(r"[.-](\d{1,9})\.(?:new|state)$")
_ID = re.compile(r"[0-9A-Za-z]{1,64}")  # of a conversation; a damaged store may have others


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    n_bytes: int
    used: float  # seconds since the epoch

    @property
    def conversation_id(self) -> str:
        """ "": it is the state of none."""
        name = self.path.name.removesuffix(_SUFFIX)
        return name if _ID.fullmatch(name) and self.path.suffix == _SUFFIX else ""

    @property
    def abandoned(self) -> bool:
        """It is on its way, and the process that its name has is gone. Not known on Windows."""
        found = None if self.conversation_id else _PROCESS.search(self.path.name)
        if found is None or os.name != "posix":
            return False
        try:
            os.kill(int(found[1]), 0)
        except (ProcessLookupError, OverflowError):
            return True
        except OSError:  # somebody else's
            pass
        return False


class States:
    """A folder of the user's alone, shared by every kvchat that runs. Methods block, may be called
    from any thread, and never raise but for `path`."""

    def __init__(self, folder: Path, most_bytes: int | None = None):
        """`most_bytes`: of all files together, 0 for none; None: as much as is usual."""
        self.folder = folder
        self.most_bytes = most_bytes

    @property
    def kept(self) -> bool:
        """Whether there are to be any."""
        return self.most_bytes != 0

    def path(self, conversation_id: str) -> Path:
        """Where a conversation's state is, or is to be. Raises OSError where there can be none."""
        if not self.kept or not _ID.fullmatch(conversation_id):
            raise FileNotFoundError("no state is kept")
        return self.folder / f"{conversation_id}{_SUFFIX}"

    def has(self, conversation_id: str) -> bool:
        """Whether there is one."""
        with suppress(OSError):
            return self.path(conversation_id).is_file()
        return False

    def make_room(self, conversation_id: str, n_bytes: int) -> int:
        """Lets others go, as many as a state of about `n_bytes` for this conversation needs; the
        bytes that it may take at most, which leave half of the free disk free. Makes the
        folder."""
        try:
            private_folder(self.folder)
            most = self._bound()
            others = (f for f in self._states() if f.conversation_id != conversation_id)
            _let_go(others, most - n_bytes)
            return min(most, shutil.disk_usage(self.folder).free // 2)
        except OSError:
            return 0

    def keep_to_bound(self) -> None:
        """Lets go of what is beyond the bound."""
        with suppress(OSError):
            _let_go(self._states(), self._bound())

    def used(self, conversation_id: str) -> None:
        """It is the last that goes now."""
        with suppress(OSError):
            os.utime(self.path(conversation_id))

    def delete(self, conversation_id: str) -> None:
        """Its conversation is gone, or is another one now."""
        if _ID.fullmatch(conversation_id):
            _remove(self.folder / f"{conversation_id}{_SUFFIX}")

    def drop_unfinished(self, conversation_id: str) -> None:
        """What was begun to be written for it is not to be finished."""
        with suppress(OSError):
            for file in self._files():
                if file.path.name.startswith(f"{conversation_id}{_SUFFIX}."):
                    _remove(file.path)

    def sweep(self, known: Set[str]) -> None:
        """Removes what is beyond the bound, and what belongs to none of the `known` conversations
        or was left half written: at once where the process is gone that was at it, else once it is
        an hour old, since another kvchat may be."""
        before = time.time() - LEAST_AGE
        with suppress(OSError):
            for file in self._files():
                unknown = file.conversation_id not in known
                if unknown and (file.used < before or file.abandoned):
                    _remove(file.path)
        self.keep_to_bound()

    def _bound(self) -> int:
        """Bytes that they may take together now."""
        if self.most_bytes is not None:
            return self.most_bytes
        free = shutil.disk_usage(self.folder).free
        taken = sum(file.n_bytes for file in self._states())
        return min(USUAL_BYTES, (free + taken) // USUAL_SHARE)

    def _states(self) -> Iterator[_File]:
        """Those of conversations, not what another load of the model carries over."""
        return (file for file in self._files() if file.conversation_id)

    def _files(self) -> Iterator[_File]:
        try:
            entries = list(os.scandir(self.folder))
        except FileNotFoundError:
            return
        for entry in entries:
            with suppress(OSError):  # gone meanwhile
                found = entry.stat(follow_symlinks=False)
                if entry.is_file(follow_symlinks=False):
                    yield _File(Path(entry.path), found.st_size, found.st_mtime)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _let_go(files: Iterable[_File], most: int) -> None:
    """Removes the ones that were not used for longest, until the rest take `most` bytes or less."""
    files = sorted(files, key=lambda file: file.used)
    total = sum(file.n_bytes for file in files)
    for file in files:
        if total <= most:
            return
        _remove(file.path)
        total -= file.n_bytes
