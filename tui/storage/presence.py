"""Which conversation a kvchat has open, as others on this machine can know it.

Each conversation is a byte of one file, and who has it open holds a lock on that byte, which the
system takes back from whoever ends, however that is.
"""

from __future__ import annotations

import os
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path

from tuner.private_files import open_private

try:
    import fcntl
except ImportError:  # Windows: nothing is known of others
    fcntl = None  # type: ignore[assignment]

_ATTEMPTS, _PAUSE = 5, 0.01  # while another one looks, for a moment


class Presence:
    """Methods block as a file does, may be called from any thread, and raise nothing: where files
    cannot be locked, nothing is known of others."""

    def __init__(self, path: Path):
        """`path`: of the saved conversations."""
        self._path = path.with_name(f"{path.name}.open")
        self._lock = threading.Lock()  # guards the two below
        self._file: int | None = None
        self._byte: int | None = None  # of the conversation that is open here

    def enter(self, conversation_id: str) -> bool:
        """This one is open here from now on, and no other; whether another kvchat has it open."""
        with self._lock, suppress(OSError):
            self._leave()
            return self._enter(zlib.crc32(conversation_id.encode()))
        return False

    def leave(self) -> None:
        """None is open here any more."""
        with self._lock, suppress(OSError):
            self._leave()

    def close(self) -> None:
        """Leaves, for good."""
        with self._lock, suppress(OSError):
            if self._file is not None:
                os.close(self._file)  # which lets go the lock
            self._file = self._byte = None

    def _enter(self, byte: int) -> bool:
        if fcntl is None:
            return False
        if self._file is None:
            self._file = open_private(self._path, os.O_RDWR)
        alone = self._locked(fcntl.LOCK_EX, byte)
        for _ in range(_ATTEMPTS):
            if self._locked(fcntl.LOCK_SH, byte):
                self._byte = byte
                break
            time.sleep(_PAUSE)
        return not alone

    def _locked(self, how: int, byte: int) -> bool:
        assert self._file is not None
        try:
            fcntl.lockf(self._file, how | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):  # as systems say that another has it
            return False
        return True

    def _leave(self) -> None:
        if self._file is not None and self._byte is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._byte)
            self._byte = None
