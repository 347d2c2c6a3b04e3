"""What is written, in the whole chat: kept, weighed, sent with its files."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from textual import events
from textual.pilot import Pilot

from tests.support.chat_fakes import (
    FakeRunning,
    ask,
    chat_screen,
    is_idle,
    make_app,
    shown,
    shows,
    until,
)
from tui.composing.draft import Draft
from tui.screens.chat import ChatScreen
from tui.screens.context import ContextScreen
from tui.screens.keys import KeysScreen
from tui.storage import Conversations
from tui.widgets import Prompt
from tuner.settings import Settings

LONG = "\n".join(f"line {n}" for n in range(30))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    there = tmp_path / "work"
    there.mkdir()
    (there / "notes.md").write_text("Bring ```bread``` home.\n")
    (there / "a.bin").write_bytes(b"\0")
    monkeypatch.chdir(there)
    return there


def prompt_of(pilot: Pilot[None]) -> Prompt:
    return pilot.app.screen.query_one(Prompt)


async def write(pilot: Pilot[None], text: str) -> None:
    prompt_of(pilot).text = text
    prompt_of(pilot).move_cursor(prompt_of(pilot).document.end)
    await pilot.pause()


async def kept(pilot: Pilot[None], holds: Callable[[], bool]) -> None:
    """Waits for the recorder, which saves from a thread of its own."""
    await until(pilot, holds)


async def test_each_conversation_has_its_draft(store: Conversations) -> None:
    """Kept when one switches and when one quits; what was asked is there in the next session."""
    running = FakeRunning()
    async with make_app(running, store).run_test(size=(80, 24)) as pilot:
        screen = await chat_screen(pilot)
        await write(pilot, "first try")
        await kept(pilot, lambda: store.draft("") == Draft("first try"))  # without a key more
        await ask(pilot, "one")
        first = screen.chat.conversation.id
        await kept(pilot, lambda: store.draft("") == Draft())
        await write(pilot, "more of one")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: prompt_of(pilot).text == "")
        prompt_of(pilot).post_message(events.Paste(LONG))
        await until(pilot, lambda: prompt_of(pilot).draft.folds)
        screen.action_conversations()
        await until(pilot, lambda: shows(pilot, "2 messages"))
        await pilot.press("enter")
        await until(pilot, lambda: prompt_of(pilot).text == "more of one")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: prompt_of(pilot).draft.whole == LONG)
    async with make_app(FakeRunning(), store).run_test(size=(80, 24)) as pilot:
        screen = await chat_screen(pilot)
        await until(pilot, lambda: prompt_of(pilot).draft.whole == LONG)
        await pilot.press("ctrl+c")
        assert prompt_of(pilot).text == ""
        assert "Ctrl+Z brings it back" in shown(pilot)
        await pilot.press("up")
        assert prompt_of(pilot).text == "one"
    async with make_app(FakeRunning(), store, resume=first).run_test(size=(80, 24)) as pilot:
        await chat_screen(pilot)
        await until(pilot, lambda: prompt_of(pilot).text == "more of one")
        await until(pilot, lambda: shows(pilot, "11 tokens"))  # counted without a key more


async def test_a_draft_is_weighed_and_its_files_go_along(
    store: Conversations, folder: Path
) -> None:
    running = FakeRunning([["Done."]])
    async with make_app(running, store).run_test(size=(80, 24)) as pilot:
        screen = await chat_screen(pilot)
        await write(pilot, "a.b")
        await until(pilot, lambda: shows(pilot, "3 tokens"))
        await write(pilot, "Read @a.bin now")
        await until(
            pilot, lambda: shows(pilot, "! a.bin is a binary file; only text can go along.")
        )
        await pilot.press("enter")
        await until(pilot, lambda: shows(pilot, "this cannot be sent as it is"))
        assert running.prompts == []
        await write(pilot, "Read @notes.md, @none.md and @me.")
        await until(
            pilot,
            lambda: shows(
                pilot, "notes.md · Markdown · 24 B", "There is no file none.md; the name"
            ),
        )
        (folder / "notes.md").write_text("Bring ```jam```.\n")
        await pilot.press("enter")
        await until(pilot, lambda: running.prompts and is_idle(screen))
        block = "notes.md:\n````markdown\nBring ```jam```.\n````"
        content = f"Read @notes.md, @none.md and @me.\n\n{block}"
        assert running.prompts[0][-1].content == content
        chip = f"[notes.md, 17 B, {len(block)} tokens]"
        await until(pilot, lambda: shows(pilot, chip))
        assert "jam" not in shown(pilot)
        assert store.latest().title == "Read @notes.md, @none.md and @me."  # type: ignore[union-attr]
        await pilot.press("up")
        assert prompt_of(pilot).text == "Read @notes.md, @none.md and @me."
        saved = screen.chat.conversation.id
    async with make_app(FakeRunning(), store, resume=saved).run_test(size=(80, 24)) as pilot:
        await chat_screen(pilot)
        await until(pilot, lambda: shows(pilot, chip))


async def test_what_does_not_fit_is_told_and_not_sent(store: Conversations) -> None:
    """Before it is sent, with how much of the conversation is as long; a paste tells its tokens."""
    running = FakeRunning([["An answer."]], settings=Settings(n_ctx=400))
    async with make_app(running, store).run_test(size=(80, 24)) as pilot:
        await chat_screen(pilot)
        await ask(pilot, "q" * 50)
        prompt_of(pilot).post_message(events.Paste(LONG))
        await until(pilot, lambda: shows(pilot, "[30 lines, 229 tokens]", "F4 unfolds · 229 tok"))
        await pilot.press("x")
        await pilot.press(*("y" * 40))
        await until(pilot, lambda: shows(pilot, "! 330 of 400 tokens with this: 70 are left"))
        prompt_of(pilot).post_message(events.Paste(LONG))
        await until(pilot, lambda: shows(pilot, "559 of 400 tokens with this, 160 too many"))
        await pilot.press("enter")
        await until(pilot, lambda: shows(pilot, "makes room and sends it"))
        assert len(running.prompts) == 1
        assert prompt_of(pilot).draft.whole == f"{LONG}x{'y' * 40}{LONG}"


async def test_commands(store: Conversations) -> None:
    """Each is a row of the table; what is none is told, and text that begins with a slash is sent
    where one says so."""
    running = FakeRunning([["One."], ["Two."]])
    app = make_app(running, store)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await chat_screen(pilot)
        await write(pilot, "/hepl")
        await pilot.press("enter")
        await until(pilot, lambda: shows(pilot, "there is no command /hepl"))
        assert prompt_of(pilot).text == "/hepl"
        assert "token" not in shown(pilot).split("Tiny")[0]
        await write(pilot, "/help")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, KeysScreen))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, ChatScreen))
        assert prompt_of(pilot).text == ""
        await ask(pilot, "//help")
        await ask(pilot, "/usr/bin/x is what?")
        sent = [prompt[-1].content for prompt in running.prompts]
        assert sent == ["/help", "/usr/bin/x is what?"]
        await write(pilot, "/context")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ContextScreen))
        await pilot.press("escape")
        await write(pilot, "/new")
        await pilot.press("enter")
        await until(pilot, lambda: not screen.chat.path)


async def test_the_editor_gets_the_draft(
    store: Conversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it cannot be had, a sentence says why and the draft is as it was."""
    app = make_app(FakeRunning(), store)
    async with app.run_test(size=(80, 24)) as pilot:
        await chat_screen(pilot)
        await write(pilot, "a draft")
        monkeypatch.setenv("VISUAL", "true")
        await pilot.press("ctrl+g")  # a terminal of a test cannot be lent
        await until(pilot, lambda: shows(pilot, "this terminal cannot be lent to another program"))
        monkeypatch.setenv("VISUAL", "'")
        await write(pilot, "a draft")
        await pilot.press("ctrl+g")
        await until(pilot, lambda: shows(pilot, "$VISUAL is no command"))
        assert prompt_of(pilot).text == "a draft"


async def test_what_is_sent_at_once_loses_no_draft(
    store: Conversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draft that is still being read, where another program holds the file, stays saved."""
    read, go_on = store.draft, threading.Event()

    def slow(key: str) -> Draft:
        go_on.wait(20)
        return read(key)

    store.keep_draft("", Draft("from before"))
    monkeypatch.setattr(store, "draft", slow)
    running = FakeRunning()
    async with make_app(running, store).run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
        await write(pilot, "quick")
        await pilot.press("enter")
        await until(pilot, lambda: running.prompts)
        go_on.set()
    assert read("") == Draft("from before")


async def test_nothing_is_sent_of_nothing(store: Conversations) -> None:
    """Where what was to be sent is gone by the time that it would be."""
    running = FakeRunning()
    async with make_app(running, store).run_test(size=(80, 24)) as pilot:
        screen = await chat_screen(pilot)
        prompt = screen.query_one(Prompt)
        prompt.text = "gone"
        prompt.action_send()
        prompt.text = ""
        await pilot.pause()
        assert screen.chat.path == []


async def test_keys_act_in_the_order_in_which_they_come(store: Conversations) -> None:
    """Also where one is heard by the screen and those before it still wait in line: what is typed
    after Ctrl+C stays, and what is sent before it is stopped, not cleared."""
    held = threading.Event()
    running = FakeRunning(answers=[["word ", held]])
    async with make_app(running, store).run_test(size=(80, 24)) as pilot:
        screen = await chat_screen(pilot)

        def typed(*keys: str) -> None:
            """All at once, as a slow connection brings them."""
            for key in keys:
                pilot.app.post_message(events.Key(key, key if len(key) == 1 else None))

        typed(*"never", "ctrl+c", *"Go")
        await until(pilot, lambda: prompt_of(pilot).text.endswith("Go"))
        assert prompt_of(pilot).text == "Go"
        typed("enter", "ctrl+c", *"on")
        await until(pilot, lambda: prompt_of(pilot).text == "on")
        await until(pilot, lambda: not screen.generating)
        question, answer = screen.chat.path
        assert (question.content, question.state, answer.state) == ("Go", "complete", "stopped")
        typed("ctrl+n", *"more")
        await until(pilot, lambda: prompt_of(pilot).text.endswith("more"))
        assert prompt_of(pilot).text == "more"  # "on" is the draft of the first one
