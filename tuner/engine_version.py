"""The engine that the tuner's arithmetic follows.

Every file of llama.cpp that a docstring names is the one vendored in this release of
llama-cpp-python, unless it says otherwise.
"""

from __future__ import annotations

ENGINE_VERSION = "0.3.36"
_SERIES, _, _LAST = ENGINE_VERSION.rpartition(".")
# As pip reads it: each release vendors another llama.cpp.
REQUIREMENT = f"llama-cpp-python>={ENGINE_VERSION},<{_SERIES}.{int(_LAST) + 1}"


def installed_engine_version() -> str | None:
    """The version of the installed llama-cpp-python, which is not imported for it; None where
    none is installed."""
    # It brings half of the mail package along, which only what plans needs to wait for.
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        return None


def same_engine(one: str | None, other: str | None = None) -> bool:
    """Whether an engine is the same as another, by default the one that the arithmetic follows.
    A label of the build, as in "0.3.36+cu124", says nothing about its llama.cpp."""
    expected = other or ENGINE_VERSION
    return one is not None and one.partition("+")[0] == expected.partition("+")[0]


def is_other_engine(installed: str | None) -> bool:
    """Whether there is an engine, and not the one that the arithmetic follows."""
    return installed is not None and not same_engine(installed)


def other_engine_text(installed: str | None) -> str | None:
    """The warning that plans are made by the arithmetic of another engine, in one sentence; None
    where the versions agree or no engine is installed, which only plans and loads nothing."""
    if not is_other_engine(installed):
        return None
    return (
        f"The installed engine, llama-cpp-python {installed}, is not the one that the memory "
        f"arithmetic was made for ({ENGINE_VERSION}): planned all the same, the engine's dry run "
        "decides."
    )
