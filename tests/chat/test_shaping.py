"""Another shape of the cache, asked for by a command."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from tests.support.chat_fakes import (
    FakeRunning,
    ask,
    chat_screen,
    make_app,
    shows,
    until,
)
from tui.answering.shaping import Shape, of_tokens, of_types
from tui.screens.chat import ChatScreen
from tui.storage import Conversations
from tui.widgets import Prompt
from tuner.errors import UsageError
from tuner.settings import Settings


@pytest.mark.parametrize(
    ("text", "types"),
    [("q8_0", ("q8_0", "q8_0")), ("Q8_0/q4_0", ("q8_0", "q4_0")), ("f16/", ("f16", "f16"))],
)
def test_types_are_one_or_two(text: str, types: tuple[str, str]) -> None:
    assert of_types(text) == Shape(types=types)


@pytest.mark.parametrize("text", ["q9", "", "/q8_0", "q8_0/q8_0/q8_0"])
def test_what_is_no_type_is_told(text: str) -> None:
    with pytest.raises(UsageError, match="is not a cache type; /kv takes one of f32, f16"):
        of_types(text)


@pytest.mark.parametrize("text", ["0", "-1", "many", "99999999999", "1.5k"])
def test_what_is_no_context_is_told(text: str) -> None:
    assert of_tokens("32k") == Shape(n_ctx=32_768)
    with pytest.raises(UsageError):
        of_tokens(text)


async def test_the_cache_changes_by_a_command(store: Conversations) -> None:
    """With the settings that there is room for; what later launches load stays as it was. What
    cannot be is said, and changes nothing."""
    running = FakeRunning([["An answer."]])
    own = running.settings
    app = make_app(running, store)
    async with app.run_test(size=(90, 24)) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "one")

        async def command(text: str, said: str) -> None:
            pilot.app.screen.query_one(Prompt).text = text
            await pilot.press("enter")
            await until(pilot, lambda: shows(pilot, said))

        await command("/context 1M", "That many tokens do not fit.")
        await command("/context many", "'many' is not a number of tokens")
        await command("/kv q9", "'q9' is not a cache type")
        await command("/kv", "f16 up to 4,096 tokens")
        await command(f"/kv {own.type_k}/{own.type_v}", "the cache has that shape already")
        assert not running.changes
        for text, settings in (
            ("/context 8k", replace(own, n_ctx=8192)),
            ("/kv q8_0/q4_0", replace(own, n_ctx=8192, type_k="q8_0", type_v="q4_0")),
        ):
            pilot.app.screen.query_one(Prompt).text = text
            await pilot.press("enter")
            await until(pilot, partial(_runs, screen, settings))
        assert [keep for _, keep in running.changes] == [None, None]


def _runs(screen: ChatScreen, settings: Settings) -> bool:
    model = screen.running_model
    return screen._loads.ready and model is not None and model.settings == settings
