"""What can go wrong, as types: each knows its exit status and speaks in one sentence."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import ClassVar


class ExitCode(IntEnum):
    """Exit status of `kvchat`, fixed by the report contract."""

    OK = 0
    USAGE = 2
    FILE = 3
    NO_FIT = 4
    ENGINE = 5
    INTERRUPTED = 130


class KvchatError(Exception):
    """An error that a user can act on: `str()` is one clear sentence saying what to do.

    `kind` is the short stable word that `--explain --json` puts in `error.kind`.
    """

    exit_code: ExitCode = ExitCode.ENGINE
    kind: str = "error"
    longest: ClassVar[int] = 1000  # characters: a message may repeat what others wrote

    def __init__(self, message: str = "") -> None:
        super().__init__(_shortened(message, self.longest))


class UsageError(KvchatError):
    """A flag or a value that makes no sense, or a wish that this model cannot have."""

    exit_code = ExitCode.USAGE
    kind = "usage"
    longest = 300


class FileError(KvchatError):
    """The model file cannot be used. `kind` is one of: missing, directory, permission, empty,
    not_gguf, in_pieces (to be joined first), truncated, malformed (bytes that no file could have),
    unsupported_version, missing_part, not_a_chat_model, unknown_architecture, incompatible (whole,
    but not made for this llama.cpp); of a log also not_a_log, other_log (of another model)."""

    exit_code = ExitCode.FILE
    longest = 30_000  # names out of files are cut one by one; paths and commands must stay whole

    def __init__(self, kind: str, path: Path | str, message: str, offset: int | None = None):
        super().__init__(message)
        self.kind = kind
        self.path = Path(path)
        self.offset = offset  # byte offset in the file, where the fault has one


class NoFitError(KvchatError):
    """No settings that respect the user's wishes fit the memory that is free now."""

    exit_code = ExitCode.NO_FIT
    kind = "nothing_fits"


class EngineError(KvchatError):
    """The engine refused, failed or died. `kind` is one of: load_failed, out_of_memory, refused,
    crashed, changed (the file, since it was planned), context_full, decode_failed, not_loaded."""

    exit_code = ExitCode.ENGINE

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


class EngineCancelled(KvchatError):  # noqa: N818 - the user asked for it: no error
    """The user stopped a load or a dry run, or closed the engine while it worked."""

    exit_code = ExitCode.INTERRUPTED
    kind = "cancelled"


def _shortened(message: str, longest: int) -> str:
    """Cut in the middle: what is wrong comes first, what to do about it last."""
    if len(message) <= longest:
        return message
    half = longest // 2
    return f"{message[:half]}…{message[-half:]}"
