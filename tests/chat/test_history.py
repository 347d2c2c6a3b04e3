"""The search through what was asked before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from textual.pilot import Pilot
from textual.widgets import OptionList

from tests.support.chat_fakes import FakeRunning, ask, chat_screen, make_app, shows, until
from tui.composing.searching import LINE, excerpt, holding
from tui.screens.history import HistoryScreen
from tui.storage import Conversations
from tui.widgets import Prompt

TEXTS = st.lists(st.text("aB cß\n", max_size=12), max_size=9)


@given(st.text("Ab cS", max_size=5), TEXTS)
def test_what_is_found_holds_every_word_in_order(words: str, texts: list[str]) -> None:
    found = holding(words, texts)
    rest = iter(texts)
    assert all(text in rest for text in found)
    for text in texts:
        there = all(word.casefold() in text.casefold() for word in words.split())
        assert (text in found) is there


def test_of_a_long_question_the_line_shows_the_word() -> None:
    long = "much " * 40 + "\nNeedle" + " more" * 200
    assert "Needle" in excerpt(long, "needle")
    assert excerpt(long, "needle").startswith("…")
    assert len(excerpt(long, "")) == LINE
    assert "\n" not in excerpt("a\nb", "b")


async def searching(pilot: Pilot[None], *keys: str) -> HistoryScreen:
    """The search, once it shows what these keys wrote."""
    await pilot.press("ctrl+r")
    await until(pilot, lambda: isinstance(pilot.app.screen, HistoryScreen))
    screen = pilot.app.screen
    assert isinstance(screen, HistoryScreen)
    await pilot.press(*keys)
    await until(pilot, lambda: screen._found == screen._wanted)
    return screen


def listed(screen: HistoryScreen) -> list[str]:
    options = screen.query_one(OptionList)
    return [str(options.get_option_at_index(n).prompt) for n in range(options.option_count)]


async def test_a_question_is_found_here_and_in_all_conversations(store: Conversations) -> None:
    """The newest first, each once; Enter puts it into the composer, where Ctrl+Z takes it back, Esc
    leaves the draft as it was. Nothing is asked, and no answer is lost."""
    app = make_app(FakeRunning(), store)
    async with app.run_test(size=(60, 20)) as pilot:
        chat = await chat_screen(pilot)
        for question in ("red fox", "blue sky", "red fox", "Red wine"):
            await ask(pilot, question)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: not chat.chat.path)
        await ask(pilot, "a red hat\nin two lines")
        prompt = chat.query_one(Prompt)
        await pilot.press("h", "m")
        screen = await searching(pilot)
        shown = [row[:8] for row in listed(screen)]
        assert shown == ["a red ha", "Red wine", "red fox", "blue sky"]
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is chat)
        assert prompt.text == "hm"
        screen = await searching(pilot, *"RED x")
        assert listed(screen) == ["red fox"]
        await pilot.press("backspace", "backspace", "ctrl+r", "ctrl+r", "up", "enter")
        await until(pilot, lambda: app.screen is chat)
        assert prompt.text == "Red wine"
        await pilot.press("ctrl+z")
        assert prompt.text == "hm"
        screen = await searching(pilot, "tab")
        await until(pilot, lambda: shows(pilot, "1 question of this conversation"))
        await pilot.press(*"none")
        await until(pilot, lambda: shows(pilot, "no question of this conversation"))
        await pilot.press("enter", "ctrl+g")
        await until(pilot, lambda: app.screen is chat and chat.focused is prompt)
        assert len(chat.chat.path) == 2


async def test_who_types_fast_gets_what_the_words_say(store: Conversations) -> None:
    """Enter waits for the search; the questions of an earlier start are there."""
    app = make_app(FakeRunning(), store)
    async with app.run_test(size=(60, 20)) as pilot:
        await chat_screen(pilot)
        await ask(pilot, "first of all")
        await ask(pilot, "second")
    again = make_app(FakeRunning(), store)
    async with again.run_test(size=(60, 20)) as pilot:
        chat = await chat_screen(pilot)
        await until(pilot, lambda: chat.query_one(Prompt).asked(everywhere=True))
        await pilot.press("ctrl+r", *"all", "enter")
        await until(pilot, lambda: chat.query_one(Prompt).text == "first of all")
