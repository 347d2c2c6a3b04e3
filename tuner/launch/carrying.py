"""What the cache holds, carried over the end of one model process into the next: by a file, so that
nothing is in memory twice while the other model is loaded; or, where nothing of a conversation
is to lie on the disk, by memory, if there is enough."""

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

_SHARE = 2  # of the free disk, that a state may take: one half,
_SHARE_OF_RAM = 4  # and of the free RAM, in which the other model is loaded meanwhile


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
def carried(client: EngineClient, *, on_disk: bool) -> Iterator[Carried]:
    """What the process that runs holds, until this ends. The process may end inside. `on_disk`: by
    a file; else by memory, where the system has such files."""
    with contextlib.ExitStack() as kept:
        path = None
        if client.alive:
            try:
                path = _saved(client, kept, on_disk=on_disk)
            except (OSError, EngineError) as error:
                note(client.log_path, f"read again: the cache could not be saved ({error})")
        yield Carried(client, path)


def _saved(client: EngineClient, kept: contextlib.ExitStack, *, on_disk: bool) -> Path | None:
    """Where it is, until `kept` ends; None: it could not be saved. Raises OSError, EngineError."""
    if on_disk:
        path = states_folder() / f"moving-{os.getpid()}.state"
        kept.callback(_remove, path)
        most = shutil.disk_usage(path.parent).free // _SHARE
    else:
        from tuner.machine.host import free_ram  # noqa: PLC0415 - the prompt is drawn before

        path = _memory_file(kept)
        most = free_ram() // _SHARE_OF_RAM
    saved = client.save_state(path, most, is_memory=not on_disk)
    if saved.why:
        note(client.log_path, f"read again: {saved.why}")
    return path if saved.n_tokens else None


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _memory_file(kept: contextlib.ExitStack) -> Path:
    """A file in RAM, which goes with this process if not before, by a name that it has for the
    user's others. Raises OSError where the system has none."""
    if not hasattr(os, "memfd_create"):
        raise OSError("the disk is not to be used, and this system has no files in memory")
    descriptor = os.memfd_create("kvchat")
    kept.callback(os.close, descriptor)
    return Path(f"/proc/{os.getpid()}/fd/{descriptor}")
