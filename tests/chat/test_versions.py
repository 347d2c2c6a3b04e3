"""Versions of answers and questions, and what the keys do on a message."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.chat_fakes import FakeRunning, ask, chat_screen, is_idle, make_app, shows, until
from tui.screens.branches import BranchesScreen
from tui.screens.line import LineScreen
from tui.storage import Conversations, StoredMessage
from tui.widgets import Prompt
from tuner.engine.protocol import Sampling

SIZE = (80, 24)


def said(messages: list[StoredMessage]) -> list[str]:
    return [m.content for m in messages]


async def test_another_answer_is_a_version_that_keys_walk(store: Conversations) -> None:
    """The old one is a key away, in the chat and in the tree; what is shown is what is kept."""
    running = FakeRunning([["First."], ["Second."], ["Third."]])
    app = make_app(running, store, sampling=Sampling(seed=7))
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Go")
        assert not shows(pilot, "1/1")
        await pilot.press("alt+r")
        await until(pilot, lambda: shows(pilot, "Second.", "‹ 2/2 ›") and is_idle(screen))
        await pilot.press("ctrl+pageup")
        await until(pilot, lambda: shows(pilot, "First.", "‹ 1/2 ›"))
        await ask(pilot, "More")
        await until(pilot, lambda: shows(pilot, "Third."))
        assert [m.content for m in running.prompts[2]] == ["Go", "First.", "More"]
        await pilot.press("ctrl+pagedown")  # of the last message that has several
        await until(pilot, lambda: shows(pilot, "Second.") and not shows(pilot, "Third."))
        await pilot.press("ctrl+b")
        await until(pilot, lambda: shows(pilot, "First.", "Second.", "Third.", "Versions"))
        assert isinstance(app.screen, BranchesScreen)
        await pilot.press("home", "down", "enter")
        await until(pilot, lambda: app.screen is screen and shows(pilot, "First.", "Third."))
        app._recorder.save(screen.chat.record()).result()
    assert [s.seed for s in running.samplings] == [7, 8, 7]
    (kept,) = store.list()
    assert said(store.shown(kept.id)) == ["Go", "First.", "More", "Third."]
    assert len(store.messages(kept.id)) == 5


async def test_a_question_is_asked_in_other_words(store: Conversations) -> None:
    """The old words and their answer stay, as a version."""
    running = FakeRunning([["One."], ["Two."], ["Three."]])
    app = make_app(running, store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Red?")
        await ask(pilot, "Later")
        await pilot.press("ctrl+up", "K", "K", "K", "e")
        prompt = screen.query_one(Prompt)
        await until(pilot, lambda: prompt.text == "Red?" and screen.focused is prompt)
        await pilot.press("home", *"Dark ", "enter")
        await until(pilot, lambda: shows(pilot, "Dark Red?", "Three.", "‹ 2/2 ›"))
        await until(pilot, lambda: is_idle(screen))
        assert said(screen.chat.path) == ["Dark Red?", "Three."]
        await pilot.press("ctrl+up", "K", "left")
        await until(pilot, lambda: shows(pilot, "One.", "Later", "Two.", "‹ 1/2 ›"))
        for away in (("escape",), ("ctrl+c",)):  # the next one is then no wording of an old one
            await pilot.press("ctrl+up", "K", "K", "K", "e")
            await until(pilot, lambda: prompt.text == "Red?" and screen._rewritten is not None)
            await pilot.press(*away)
            await until(pilot, lambda: screen._rewritten is None)
            await pilot.press("ctrl+c")
    assert [m.content for m in running.prompts[2]] == ["Dark Red?"]


async def test_a_message_is_deleted_and_comes_back(store: Conversations) -> None:
    """With what follows it. On disk its words are gone at once, and there again after the undo."""
    app = make_app(FakeRunning([["One."], ["Two."]]), store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "First")
        await ask(pilot, "Second")
        await pilot.press("ctrl+up", "up", "d")
        await until(pilot, lambda: shows(pilot, "2 messages deleted · u undoes it"))
        assert said(screen.chat.path) == ["First", "One."]
        app._recorder.save(screen.chat.record()).result()
        (kept,) = store.list()
        assert said(store.messages(kept.id)) == ["First", "One.", "", ""]
        assert kept.n_messages == 2
        assert store.search("Second") == []
        await pilot.press("u")
        await until(pilot, lambda: shows(pilot, "Second", "Two.", "it is back"))
        await pilot.press("u")
        await until(pilot, lambda: shows(pilot, "nothing to undo"))
        app._recorder.save(screen.chat.record()).result()
    assert said(store.shown(kept.id)) == ["First", "One.", "Second", "Two."]


async def test_a_conversation_goes_on_from_any_message(store: Conversations) -> None:
    running = FakeRunning([["One."], ["Two."], ["Three."]])
    app = make_app(running, store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "First")
        await ask(pilot, "Second")
        await pilot.press("ctrl+up", "up", "up", "b")
        await until(pilot, lambda: shows(pilot, "goes on from here"))
        await ask(pilot, "Other")
        await until(pilot, lambda: shows(pilot, "Three.", "‹ 2/2 ›"))
        assert said(screen.chat.path) == ["First", "One.", "Other", "Three."]


async def test_a_code_block_is_copied_and_saved(
    store: Conversations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cursor goes over blocks, too. A file that is there is never written over."""
    monkeypatch.chdir(tmp_path)
    app = make_app(FakeRunning([["See:\n\n```python\nx = 1\n```\n\nThat is *it*."]]), store)
    async with app.run_test(size=SIZE) as pilot:
        await chat_screen(pilot)
        await ask(pilot, "Go")
        await pilot.press("ctrl+up", "y")
        await until(pilot, lambda: app.clipboard == "x = 1")
        assert shows(pilot, "python block of 1 line copied")
        await pilot.press("s")
        await until(pilot, lambda: isinstance(app.screen, LineScreen))
        await pilot.press("enter")
        await until(pilot, lambda: shows(pilot, "saved to code.py"))
        assert (tmp_path / "code.py").read_text() == "x = 1\n"
        await pilot.press("s")
        await until(pilot, lambda: isinstance(app.screen, LineScreen))
        await pilot.press("enter")
        await until(pilot, lambda: shows(pilot, "is there already"))
        await pilot.press("up", "y")
        await until(pilot, lambda: app.clipboard.endswith("That is *it*."))
        await pilot.press("escape", *"typed")
        assert app.screen.query_one(Prompt).text == "typed"


async def test_a_stopped_answer_goes_on(store: Conversations) -> None:
    """The same message grows, from where it was; a whole answer is told apart."""
    never = threading.Event()
    running = FakeRunning([["Half an ", never], ["answer **is** this."]])
    app = make_app(running, store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Go", wait=False)
        await until(pilot, lambda: shows(pilot, "Half an"))
        await pilot.press("escape")
        await until(pilot, lambda: is_idle(screen) and shows(pilot, "stopped"))
        await pilot.press("f8")
        await until(pilot, lambda: shows(pilot, "Half an answer is this.") and is_idle(screen))
        assert running.continued == [False, True]
        assert [m.content for m in running.prompts[1]] == ["Go", "Half an "]
        answer = screen.chat.path[-1]
        assert (answer.content, answer.state) == ("Half an answer **is** this.", "complete")
        assert answer.n_tokens == 2
        await pilot.press("f8")
        await until(pilot, lambda: shows(pilot, "the last answer is whole"))


async def test_another_answer_with_another_temperature(store: Conversations) -> None:
    running = FakeRunning([["Cold."], ["Hot."]])
    app = make_app(running, store, sampling=Sampling(temperature=0.5))
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Go")
        await pilot.press("ctrl+up", "R")
        await until(pilot, lambda: shows(pilot, "temperature 0.5, top-p 0.95"))
        await pilot.press("home", "shift+end", *"warmth 3", "enter")
        await until(pilot, lambda: shows(pilot, "'warmth' is none of"))
        await pilot.press("R")
        await until(pilot, lambda: isinstance(app.screen, LineScreen))
        await pilot.press("home", "shift+end", *"temp 1.5", "enter")
        await until(pilot, lambda: shows(pilot, "Hot.", "‹ 2/2 ›") and is_idle(screen))
    assert [s.temperature for s in running.samplings] == [0.5, 1.5]


async def test_another_kvchat_in_the_same_conversation_is_heard(store: Conversations) -> None:
    """What it wrote after the last message is shown before one's own is sent; what it wrote
    elsewhere is a version. Nothing of either vanishes."""
    app = make_app(FakeRunning([["Mine."], ["Mine too."], ["And this."]]), store)
    other = Conversations.open(store.path)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "One?")
        app._recorder.save(screen.chat.record()).result()
        conversation = screen.chat.conversation
        theirs = StoredMessage("t1", conversation.head, "user", "Theirs?", 2.0)
        answer = StoredMessage("t2", "t1", "assistant", "An answer to them.", 2.0)
        other.save(replace(conversation, head="t2"), [theirs, answer])
        await ask(pilot, "Two?", wait=False)
        await until(pilot, lambda: shows(pilot, "Theirs?", "to them.", "2 more messages"))
        assert screen.query_one(Prompt).text == "Two?"
        await pilot.press("enter")
        await until(pilot, lambda: shows(pilot, "Mine too.") and is_idle(screen))
        aside = StoredMessage("t3", "t2", "user", "Aside?", 3.0)
        other.save(replace(conversation, head="t3"), [aside])
        await ask(pilot, "Three?", wait=False)
        await until(pilot, lambda: shows(pilot, "Another kvchat is in this conversation"))
        await pilot.press("enter")
        await until(pilot, lambda: shows(pilot, "And this.") and is_idle(screen))
        app._recorder.save(screen.chat.record()).result()
    other.close()
    path = ["One?", "Mine.", "Theirs?", "An answer to them.", "Two?", "Mine too.", "Three?"]
    assert said(store.shown(conversation.id)) == [*path, "And this."]
    assert len(store.messages(conversation.id)) == len(path) + 2


async def test_search_reaches_versions_that_are_not_shown(store: Conversations) -> None:
    """Opened from what was found in it, the conversation leads through that message."""
    app = make_app(FakeRunning([["An apple."], ["A pear."]]), store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Fruit?")
        await pilot.press("alt+r")
        await until(pilot, lambda: shows(pilot, "A pear.") and is_idle(screen))
        app._recorder.save(screen.chat.record()).result()
        await pilot.press("ctrl+n")
        await until(pilot, lambda: not screen.chat.path)
        await pilot.press("ctrl+o", *"apple")
        await until(pilot, lambda: shows(pilot, "An apple."))
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is screen and shows(pilot, "An apple.", "‹ 1/2 ›"))
