"""What the cache holds, carried over the end of one model process into the next: by a file, so that
nothing is in memory twice while the other model is loaded."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tuner.engine.client import EngineClient
from tuner.engine.log import note
from tuner.errors import EngineError
from tuner.private_files import STATES, kvchat_folder, private_folder

_SHARE = 2  # of the free disk, that a state may take: one half


def states_folder() -> Path:
    """Where states lie, of conversations and on their way. Made if it is not there; raises
    OSError."""
    return private_folder(kvchat_folder("data") / STATES)


def spill_folder() -> str:
    """Where a process may put for a moment what RAM has no room for; "" where it may not."""
    try:
        return str(states_folder())
    except OSError:
        return ""


class Carried:
    """What one process held. Whatever goes wrong only means that it is read again; why is in the
    engine's log."""

    def __init__(self, client: EngineClient, path: Path | None) -> None:
        self._client, self._path = client, path

    def put_down(self) -> int:
        """The process that runs now holds it, where it can; returns how many tokens. Raises
        EngineError where that process fails."""
        path, self._path = self._path, None  # once: what one process dies of, the next would, too
        if path is None:
            return 0
        restored = self._client.restore_state(path)
        if restored.why:
            note(self._client.log_path, f"read again: {restored.why}")
        return restored.n_tokens


@contextlib.contextmanager
def carried(client: EngineClient) -> Iterator[Carried]:
    """What the process that runs holds, until this ends. The process may end inside."""
    path = _saved(client) if client.alive else None
    try:
        yield Carried(client, path)
    finally:
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink()


def _saved(client: EngineClient) -> Path | None:
    try:
        path = states_folder() / f"moving-{os.getpid()}.state"
        saved = client.save_state(path, shutil.disk_usage(path.parent).free // _SHARE)
    except (OSError, EngineError) as error:
        note(client.log_path, f"read again: the cache could not be saved ({error})")
        return None
    if saved.why:
        note(client.log_path, f"read again: {saved.why}")
    return path if saved.n_tokens else None
