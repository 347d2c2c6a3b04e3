"""A draft in the user's own editor, a text in the user's own pager. Blocks until that is left."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tuner.errors import KvchatError
from tuner.private_files import read_bounded, why
from tuner.safe_text import cut, pasted, printable

MAX_TEXT = 16 << 20  # bytes that are read back
_EDITORS = (["sensible-editor"], ["nano"], ["vim"], ["vi"], ["notepad"])
_PAGERS = (["less", "-R"], ["more"])


class EditorError(KvchatError):
    """The editor or pager cannot be started or failed; `str()` says so."""

    kind = "editor"


def editor(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The command of $VISUAL, of $EDITOR, or the first usual one that is installed. Raises
    EditorError."""
    return _program("editor", ("VISUAL", "EDITOR"), _EDITORS, environ)


def pager(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The command of $PAGER, or the first usual one that is installed. Raises EditorError."""
    return _program("pager", ("PAGER",), _PAGERS, environ)


def _program(
    what: str, names: Sequence[str], usual: Sequence[list[str]], environ: Mapping[str, str]
) -> list[str]:
    for name in names:
        if stated := environ.get(name, "").strip():
            try:
                return shlex.split(stated, posix=os.name == "posix")
            except ValueError as error:
                raise EditorError(f"${name} is no command ({error}).") from error
    for program, *options in usual:
        if found := shutil.which(program, path=environ.get("PATH")):
            return [found, *options]
    raise EditorError(f"No {what} was found; set ${names[-1]} to one.")


def paged(text: str, command: list[str]) -> None:
    """Shows a text in a pager, as it may be shown on a terminal. Raises EditorError."""
    name = cut(command[0])
    leaves_at_once = re.search("F|quit-if-one-screen", os.environ.get("LESS", ""))
    if leaves_at_once and Path(command[0]).stem == "less":
        command = [*command, "-+F"]  # or a short text would be gone before it is read
    shown = printable(text).encode("utf-8", "replace")
    try:
        with _interrupts_are_the_programs():
            status = subprocess.run(command, input=shown, check=False).returncode
    except OSError as error:
        raise EditorError(f"{name} cannot be used ({why(error)}); set $PAGER.") from error
    if status:
        raise EditorError(f"{name} {_ended(status)}.")


def _ended(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with {status}"


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
        with _interrupts_are_the_programs():
            status = subprocess.run([*command, path], check=False).returncode
        if status:
            raise EditorError(f"{name} {_ended(status)}; the draft is as it was.")
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
def _interrupts_are_the_programs() -> Iterator[None]:
    """Ctrl+C reaches every program in the foreground; there it is a key."""
    before = signal.signal(signal.SIGINT, lambda *_: None)  # not ignored: that is inherited
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
