"""Nothing that a test does reaches the user's own folders."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "DATA", "LOG"):
        monkeypatch.setenv(f"KVCHAT_{name}_DIR", str(tmp_path / name.lower()))
