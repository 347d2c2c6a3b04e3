"""A store of conversations for one test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tui.storage import Conversations


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Conversations]:
    opened = Conversations.open(tmp_path / "conversations.db")
    yield opened
    opened.close()
