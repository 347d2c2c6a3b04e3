"""Whose fault it is that a file's numbers cannot be worked with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tuner.errors import FileError, KvchatError
from tuner.safe_text import cut


@contextlib.contextmanager
def file_to_blame(path: Path) -> Iterator[None]:
    """Whatever goes wrong over a file's numbers is an error of that file, and no other's."""
    try:
        yield
    except KvchatError:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise FileError(
            "malformed",
            path,
            f"{path} has numbers that make no model ({kind}: {cut(str(error))}): it is damaged, "
            "or of a kind that kvchat does not know.",
        ) from error
