"""Other programs take memory, and give it back, while a chat is open."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.chat_fakes import FakeRunning, ask, chat_screen, make_app, shows, until
from tui.ports import Look
from tui.screens import chat
from tui.storage import Conversations


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "BALANCE_SECONDS", 0.05)


async def test_a_smaller_plan_is_loaded_between_answers(store: Conversations) -> None:
    """It is said where memory is short and what is done about it; later launches load what they
    did before."""
    running = FakeRunning([["An answer."]])
    own = running.settings
    smaller = replace(own, n_ctx=2048)
    app = make_app(running, store)
    async with app.run_test(size=(110, 24)) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "one")
        running.looks = [Look("GPU0")] * 40
        await until(pilot, lambda: shows(pilot, "others need GPU0"))
        running.looks = [Look("GPU0", smaller, "Other programs need GPU0: half the context.")]
        await until(pilot, lambda: shows(pilot, "Other programs need GPU0: half the context."))
        await until(pilot, lambda: screen._loads.ready)
        assert running.tried == [(smaller, own)]
        assert not running.changes


async def test_a_better_plan_is_offered(store: Conversations) -> None:
    """And loaded when the user wants it; what cannot be at the moment stays offered, unless other
    programs take the memory meanwhile."""
    running = FakeRunning([["An answer."]])
    own = running.settings
    better = replace(own, n_ctx=8192)
    app = make_app(running, store)
    async with app.run_test(size=(110, 24)) as pilot:
        screen = await chat_screen(pilot)
        await pilot.press("alt+b")
        await until(pilot, lambda: shows(pilot, "no better plan is known"))
        running.looks = [Look("", better, "There is more free memory.", offered=True)]
        await until(pilot, lambda: shows(pilot, "Alt+B loads it; the conversation goes on."))
        assert not running.tried
        await pilot.press("alt+p")
        await until(pilot, lambda: screen._loads.rests)
        await pilot.press("alt+b")
        await until(pilot, lambda: shows(pilot, "the model is paused"))
        await pilot.press("f5")
        await until(pilot, lambda: screen._loads.ready)
        await pilot.press("alt+b")
        await until(pilot, lambda: running.tried == [(better, own)])
        await until(pilot, lambda: screen._loads.ready)
        running.looks = [Look("", better, "There is more free memory.", offered=True), Look("GPU0")]
        await until(pilot, lambda: shows(pilot, "others need GPU0"))
        await pilot.press("alt+b")
        await until(pilot, lambda: shows(pilot, "no better plan is known"))
        assert len(running.tried) == 1
