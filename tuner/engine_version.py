"""The engine that the tuner's arithmetic follows.

Every file of llama.cpp that a docstring names is the one vendored in this release of
llama-cpp-python, unless it says otherwise.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

ENGINE_VERSION = "0.3.36"


def installed_engine_version() -> str | None:
    """The version of the installed llama-cpp-python, which is not imported for it; None where
    none is installed."""
    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        return None


def same_engine(installed: str | None) -> bool:
    """Whether an engine is the one that the arithmetic follows. A label of the build, as in
    "0.3.36+cu124", says nothing about its llama.cpp."""
    return installed is not None and installed.partition("+")[0] == ENGINE_VERSION


def other_engine_text(installed: str | None) -> str | None:
    """The warning that plans are made by the arithmetic of another engine, in one sentence; None
    where the versions agree or no engine is installed, which only plans and loads nothing."""
    if installed is None or same_engine(installed):
        return None
    return (
        f"The installed engine, llama-cpp-python {installed}, is not the one that the memory "
        f"arithmetic was made for ({ENGINE_VERSION}): planned all the same, the engine's dry run "
        "decides."
    )
