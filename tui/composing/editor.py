"""A draft in the user's own editor. Blocks until that is left."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tuner.errors import KvchatError
from tuner.private_files import read_bounded, why
from tuner.safe_text import cut, pasted

MAX_TEXT = 16 << 20  # bytes that are read back
_USUAL = ("sensible-editor", "nano", "vim", "vi", "notepad")


class EditorError(KvchatError):
    """The editor cannot be started or failed; `str()` says so."""

    kind = "editor"


def editor(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The command of $VISUAL, of $EDITOR, or the first usual one that is installed. Raises
    EditorError."""
    for name in ("VISUAL", "EDITOR"):
        if stated := environ.get(name, "").strip():
            try:
                return shlex.split(stated, posix=os.name == "posix")
            except ValueError as error:
                raise EditorError(f"${name} is no command ({error}).") from error
    for usual in _USUAL:
        if found := shutil.which(usual, path=environ.get("PATH")):
            return [found]
    raise EditorError("No editor was found; set $EDITOR to one.")


def edited(text: str, command: list[str], suffix: str = "md") -> str:
    """The text as the editor leaves it, in a file that only the user can read and that is gone
    afterwards. `suffix`: of its name, by which editors know what it is. Raises EditorError; the
    text is then as it was."""
    name = cut(command[0])
    try:
        descriptor, path = tempfile.mkstemp(prefix="kvchat-", suffix=f".{suffix}")
    except OSError as error:
        raise EditorError(f"No file for the editor can be made ({why(error)}).") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace", newline="\n") as file:
            file.write(text)
        with _interrupts_are_the_editors():
            status = subprocess.run([*command, path], check=False).returncode
        if status:
            ended = f"was ended by signal {-status}" if status < 0 else f"ended with {status}"
            raise EditorError(f"{name} {ended}; the draft is as it was.")
        raw = read_bounded(Path(path), MAX_TEXT)
    except OSError as error:
        raise EditorError(f"{name} cannot be used ({why(error)}); set $EDITOR.") from error
    finally:
        with suppress(OSError):
            os.unlink(path)
    if len(raw) > MAX_TEXT:
        raise EditorError("What the editor wrote is too long; the draft is as it was.")
    found = pasted(raw.decode("utf-8", "replace"))
    return found if text.endswith("\n") else found.removesuffix("\n")  # editors add one


@contextmanager
def _interrupts_are_the_editors() -> Iterator[None]:
    """Ctrl+C reaches every program in the foreground; in the editor it is a key."""
    before = signal.signal(signal.SIGINT, lambda *_: None)  # not ignored: that is inherited
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
