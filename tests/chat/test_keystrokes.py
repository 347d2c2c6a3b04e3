"""Drawing waits for the gap after a key."""

from __future__ import annotations

import asyncio

import pytest

from tui.widgets.keystrokes import Keystrokes


async def test_nobody_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is drawn without any delay; that a message was just sent is no typing."""
    monkeypatch.setattr("tui.widgets.keystrokes.HOLD_SECONDS", 60)
    keystrokes = Keystrokes()
    async with asyncio.timeout(10):
        await keystrokes.gap()
        keystrokes.key()
        keystrokes.rest()
        await keystrokes.gap()


async def test_drawing_begins_when_a_key_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither before a key that is expected nor between a key and its character."""
    monkeypatch.setattr("tui.widgets.keystrokes.HOLD_SECONDS", 60)
    keystrokes = Keystrokes()
    keystrokes.key()
    keystrokes.key_shown()
    gap = asyncio.create_task(keystrokes.gap())
    await asyncio.sleep(0.01)
    assert not gap.done()
    keystrokes.key()
    await asyncio.sleep(0.01)
    assert not gap.done()
    keystrokes.key_shown()
    async with asyncio.timeout(10):
        await gap


async def test_drawing_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user stopped typing: the answer goes on."""
    monkeypatch.setattr("tui.widgets.keystrokes.HOLD_SECONDS", 0.01)
    keystrokes = Keystrokes()
    keystrokes.key()
    async with asyncio.timeout(10):
        await keystrokes.gap()
