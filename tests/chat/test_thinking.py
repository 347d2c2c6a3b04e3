"""How much the model thinks, as a setting of the chat."""

from __future__ import annotations

from functools import partial

from tests.support.chat_fakes import FakeRunning, ask, chat_screen, make_app, shown, shows, until
from tui.keymap import Keymap
from tui.storage import Conversations

KEY = Keymap().keys("answer.think")[0]
WIDE = (120, 24)


async def test_a_key_goes_round_what_the_template_offers(store: Conversations) -> None:
    """From the level that the template has by itself; the next answer has it, and the line below
    says so."""
    running = FakeRunning(think_levels=("off", "low", "high"), usual_think="low")
    async with make_app(running, store).run_test(size=WIDE) as pilot:
        await chat_screen(pilot)
        await until(pilot, lambda: "thinking low" in shown(pilot))
        await ask(pilot, "One?")
        for level in ("high", "off"):
            await pilot.press(KEY)
            await until(pilot, partial(shows, pilot, f"· thinking {level} ·"))
        await ask(pilot, "Two?")
    assert running.thinks == ["", "off"]
    assert running.remembered == ["high", "off"]


async def test_a_level_by_flag(store: Conversations) -> None:
    """The nearest one that the template offers is shown, the engine is asked for what was said."""
    running = FakeRunning(think="high", think_levels=("off", "on"), usual_think="off")
    async with make_app(running, store).run_test(size=WIDE) as pilot:
        await chat_screen(pilot)
        await until(pilot, lambda: "thinking on" in shown(pilot))
        await ask(pilot, "One?")
    assert running.thinks == ["high"]


async def test_a_template_without_a_choice(store: Conversations) -> None:
    running = FakeRunning()
    async with make_app(running, store).run_test(size=WIDE) as pilot:
        await chat_screen(pilot)
        await pilot.press(KEY)
        await until(pilot, lambda: "offers no choice of thinking" in shown(pilot))
        assert "thinking on" not in shown(pilot)
        await ask(pilot, "One?")
    assert running.thinks == [""]
