"""`kvchat --version`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from tui.command.output import write
from tuner.errors import ExitCode


def show_version() -> int:
    """The installed version on stdout."""
    write(f"kvchat {installed_version()}\n")
    return ExitCode.OK


def installed_version() -> str:
    """Of kvchat."""
    try:
        return version("kvchat")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "(not installed)"
