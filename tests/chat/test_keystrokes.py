"""What a key does before it is on the screen: as little as there is. Drawing waits for the gap that
follows it."""

from __future__ import annotations

import asyncio

import pytest
from textual._compositor import Compositor
from textual.geometry import Region
from textual.strip import Strip

from tests.support.chat_fakes import FakeRunning, ask, chat_screen, make_app, until
from tui.screens.rows import RowsCompositor
from tui.storage import Conversations
from tui.widgets import Prompt, Transcript
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


async def test_a_key_paints_its_rows_alone(
    store: Conversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is the screen laid out, when the draft's tokens are counted either, nor does the
    conversation make a row, nor are there styles to be made."""
    done: list[str] = []
    async with make_app(FakeRunning(), store).run_test(size=(80, 24)) as pilot:
        screen = await chat_screen(pilot)
        prompt = screen.query_one(Prompt)
        await ask(pilot, "one")
        await pilot.press("a")
        await until(pilot, lambda: prompt.border_subtitle == "1 token")

        def noted(of: type, name: str) -> None:
            method = getattr(of, name)

            def noting(*args: object, **kwargs: object) -> object:
                done.append(name)
                return method(*args, **kwargs)

            monkeypatch.setattr(of, name, noting)

        noted(type(screen), "_refresh_layout")
        noted(Transcript, "_painted")
        noted(type(prompt._theme), "apply_css")
        noted(Prompt, "render_line")
        await pilot.press("b", "c")
        await until(pilot, lambda: prompt.border_subtitle == "3 tokens")
    assert set(done) == {"render_line"}


async def test_rows_are_painted_as_the_whole_screen_would_be(store: Conversations) -> None:
    """With what lies over others, and what is scrolled."""
    running = FakeRunning(answers=[["line\n\n"] * 40])
    async with make_app(running, store).run_test(size=(80, 24)) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "one")
        await pilot.press("/", "c")
        await until(pilot, lambda: screen.query_one(Prompt).offers.choices)
        compositor, width = screen._compositor, screen.size.width
        assert type(compositor) is RowsCompositor

        def painted(y: int) -> Strip:
            chops = compositor._render_chops(Region(0, y, width, 1), lambda row: row == y)
            return Strip.join(list(chops[y].values()))

        rows = [painted(y) for y in range(screen.size.height)]
        setattr(compositor, "__class__", Compositor)  # noqa: B010 - Textual's own
        whole = compositor.render_strips()
    assert [list(row) for row in rows] == [list(row) for row in whole]
    assert any("/compare" in row.text for row in rows)
