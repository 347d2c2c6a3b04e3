"""The engine that the arithmetic follows, and the one that is installed."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tuner.engine_version import (
    ENGINE_VERSION,
    REQUIREMENT,
    installed_engine_version,
    other_engine_text,
    same_engine,
)


@pytest.mark.parametrize("installed", ["0.3.35", f"{ENGINE_VERSION}0", "0.3", "1.0", "99.0+cu1"])
def test_another_engine_is_said(installed: str) -> None:
    """Both versions are named, and what becomes of it."""
    text = other_engine_text(installed)
    assert text is not None
    assert installed in text
    assert ENGINE_VERSION in text
    assert "dry run decides" in text


@pytest.mark.parametrize("installed", [None, ENGINE_VERSION, f"{ENGINE_VERSION}+cu124"])
def test_the_same_engine_and_none_are_not(installed: str | None) -> None:
    assert other_engine_text(installed) is None


def test_a_missing_engine_is_not_the_same() -> None:
    assert same_engine(ENGINE_VERSION)
    assert not same_engine(None)


def test_the_installed_version_is_read_without_the_engine() -> None:
    """From the package's metadata, in a process that has not loaded any of it."""
    code = (
        "import sys; from tuner.engine_version import installed_engine_version as v;"
        "print(v()); assert 'llama_cpp' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == importlib.metadata.version("llama-cpp-python")


def test_no_engine_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert installed_engine_version() is None


def test_the_engine_that_is_installed_is_the_one_that_the_arithmetic_follows() -> None:
    """pyproject.toml and the commands that people are told name the same release."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    assert REQUIREMENT in project["project"]["dependencies"]
    assert REQUIREMENT.startswith(f"llama-cpp-python>={ENGINE_VERSION},<")
