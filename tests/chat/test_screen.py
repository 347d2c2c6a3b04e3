"""The chat on a screen, with a running model that follows a script."""

from __future__ import annotations

import gc
import re
import sqlite3
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.chat_fakes import (
    FakeLauncher,
    FakeRunning,
    ask,
    chat_screen,
    is_idle,
    make_app,
    shown,
    shows,
    until,
)
from tui.screens.chat import ChatScreen
from tui.screens.conversations import ConversationsScreen
from tui.screens.report import ReportScreen
from tui.storage import Conversation, Conversations, StoredMessage
from tui.widgets import ActivityLine, Entry, Prompt, StatusLine, Transcript
from tuner.engine.protocol import PromptProgress, Sampling, Text, WasThought
from tuner.errors import FileError
from tuner.machine.nvidia import Reading
from tuner.machine.vitals import Vitals
from tuner.units import GIB

SIZE = (80, 24)


def thought(text: str) -> Text:
    """As the engine says it."""
    return Text(text, 1, thought=True)


def rows(store: Conversations, columns: str) -> list[tuple[object, ...]]:
    """Read as another program would, through a connection of its own."""
    with sqlite3.connect(store.path) as db:
        return db.execute(f"SELECT {columns} FROM messages ORDER BY n").fetchall()


async def test_an_answer_is_streamed_drawn_and_saved(store: Conversations) -> None:
    """The answer appears as markdown; question and answer are on disk with model and speed."""
    running = FakeRunning([["Hello ", "**world**", ", `x`."]])
    app = make_app(running, store, system_prompt="Be brief.")
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Say hello")
        await until(pilot, lambda: "Hello world, x." in shown(pilot))
        assert "Say hello" in shown(pilot)
        assert "50 t/s" in shown(pilot)
        app._recorder.save(screen.chat.record()).result()
        saved = rows(store, "role, content, state, model_name, tokens_per_second")
        assert saved == [
            ("user", "Say hello", "complete", None, None),
            ("assistant", "Hello **world**, `x`.", "complete", "Tiny Llama", 50.0),
        ]
    assert [m.role for m in running.prompts[0]] == ["system", "user"]


async def test_saved_while_it_is_written(
    store: Conversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question is on disk at once and the answer while it grows: a killed program loses next
    to nothing, and what is there is marked as interrupted."""
    monkeypatch.setattr("tui.answering.growing.SAVE_SECONDS", 0.05)
    more = threading.Event()
    app = make_app(FakeRunning([["First part. ", more, "Rest."]]), store)
    async with app.run_test(size=SIZE) as pilot:
        await chat_screen(pilot)
        await ask(pilot, "Go", wait=False)
        await until(pilot, lambda: len(rows(store, "role")) == 2)
        assert rows(store, "content, state") == [
            ("Go", "complete"),
            ("First part. ", "interrupted"),
        ]
        more.set()
        await until(pilot, lambda: is_idle(app.screen))


@pytest.mark.parametrize("key", ["escape", "ctrl+c"])
async def test_stop_keeps_the_partial_answer(store: Conversations, key: str) -> None:
    never = threading.Event()
    app = make_app(FakeRunning([["Half an ans", never]]), store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Go", wait=False)
        await until(pilot, lambda: "Half an ans" in shown(pilot))
        await pilot.press(key)
        await until(pilot, lambda: is_idle(screen))
        await until(pilot, lambda: "stopped" in shown(pilot))
        assert "Half an ans" in shown(pilot)
        app._recorder.save(screen.chat.record()).result()
        assert rows(store, "content, state")[-1] == ("Half an ans", "stopped")
    assert app.return_code == 0 or app.return_code is None


async def test_stop_while_the_prompt_is_read(store: Conversations) -> None:
    """Progress is shown, a stop leaves an empty answer, and the next question goes on."""
    never = threading.Event()
    running = FakeRunning([[PromptProgress(512, 2048), never], ["Fine."]])
    app = make_app(running, store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Long", wait=False)
        await until(pilot, lambda: "reading 512 of 2,048 tokens" in shown(pilot))
        await pilot.press("escape")
        await until(pilot, lambda: is_idle(screen))
        await until(pilot, lambda: "nothing was written" in shown(pilot))
        assert "4 of 4k" in shown(pilot)  # the question counts, read or not
        assert "t/s" not in shown(pilot)  # and no speed is made of no tokens
        await ask(pilot, "Again")
        await until(pilot, lambda: "Fine." in shown(pilot))
    assert [(m.role, m.content) for m in running.prompts[1]] == [("user", "Long\n\nAgain")]


async def test_typing_while_text_streams_is_kept(store: Conversations) -> None:
    """Every key arrives, Enter does not send into a running answer, and nothing is cleared."""
    more = threading.Event()
    app = make_app(FakeRunning([[*["word "] * 200, more, "end"], ["Second."]]), store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Go", wait=False)
        prompt = screen.query_one(Prompt)
        await until(pilot, lambda: not prompt.text)
        await pilot.press(*"next one", "enter")
        await until(pilot, lambda: prompt.text == "next one")
        await pilot.pause()
        assert prompt.text == "next one"
        more.set()
        await until(pilot, lambda: not screen.generating)
        assert prompt.text == "next one"
        await pilot.press("enter")
        await until(pilot, lambda: "Second." in shown(pilot))


@pytest.mark.parametrize("key", ["ctrl+j", "shift+enter", "alt+enter"])
async def test_newline_keys(store: Conversations, key: str) -> None:
    running = FakeRunning()
    app = make_app(running, store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await pilot.press("a", key, "b")
        await until(pilot, lambda: screen.query_one(Prompt).text == "a\nb")
        assert not running.prompts
        await pilot.press("enter")
        await until(pilot, lambda: running.prompts)
    assert running.prompts[0][-1].content == "a\nb"


async def test_the_prompt_grows_and_stays_bounded(store: Conversations) -> None:
    """A paste of 100 lines keeps its newlines and leaves room for the conversation."""
    app = make_app(FakeRunning(), store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        prompt = screen.query_one(Prompt)
        assert prompt.size.height == 1
        prompt.text = "a\nb\nc"
        await pilot.pause()
        assert prompt.size.height == 3
        prompt.text = "\n".join(map(str, range(100)))
        await pilot.pause()
        assert prompt.size.height == 8
        assert screen.query_one(Transcript).size.height > 5


async def test_earlier_messages_come_back_with_up(store: Conversations) -> None:
    """Up in an empty prompt recalls, Down returns; written text is never replaced."""
    app = make_app(FakeRunning(), store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "first")
        await ask(pilot, "second")
        prompt = screen.query_one(Prompt)
        await pilot.press("up")
        await until(pilot, lambda: prompt.text == "second")
        await pilot.press("up")
        await until(pilot, lambda: prompt.text == "first")
        await pilot.press("down", "down")
        await until(pilot, lambda: prompt.text == "")
        await pilot.press("x", "up")
        await until(pilot, lambda: prompt.text == "x")
        await pilot.pause()
        assert prompt.text == "x"


async def test_markup_of_the_model_is_shown_not_obeyed(store: Conversations) -> None:
    """Brackets, HTML and escape codes from the model, the user and a title are plain text."""
    nasty = "[red]x[/] [/ Vec<String> <b>t</b> \x1b[31mz\n\n| a |\n|---|\n| [/x] |\n"
    app = make_app(FakeRunning([[thought("[/] hm"), nasty]]), store)
    async with app.run_test(size=(80, 30)) as pilot:
        await chat_screen(pilot)
        await ask(pilot, "[b]me[/b] [/")
        await until(pilot, lambda: "[red]x[/] [/ Vec<String> <b>t</b>" in shown(pilot))
        assert "[b]me[/b] [/" in shown(pilot)
        assert "\x1b" not in shown(pilot)
        await pilot.press("ctrl+o")
        await until(pilot, lambda: "2 messages" in shown(pilot))
        assert "[b]me[/b] [/" in shown(pilot)


async def test_reasoning_is_folded(store: Conversations) -> None:
    """It is kept apart, hidden until asked for, saved, and not sent back to the model."""
    running = FakeRunning([[thought("secret "), thought("plan"), "Answer."], ["Two."]])
    app = make_app(running, store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Go")
        await until(pilot, lambda: is_idle(screen) and "thought · 2 words" in shown(pilot))
        assert "secret plan" not in shown(pilot)
        await pilot.press("ctrl+t")
        await until(pilot, lambda: "secret plan" in shown(pilot))
        (y,) = [y for y, row in enumerate(shown(pilot).splitlines()) if "thought" in row]
        await pilot.click(offset=(5, y))
        await until(pilot, lambda: "secret plan" not in shown(pilot))
        await ask(pilot, "More")
        app._recorder.save(screen.chat.record()).result()
    assert rows(store, "reasoning, content")[1] == ("secret plan", "Answer.")
    assert [(m.content, m.reasoning) for m in running.prompts[1]] == [
        ("Go", ""), ("Answer.", "secret plan"), ("More", "")
    ]  # fmt: skip


async def test_a_thought_that_only_its_end_marks_is_taken_back(store: Conversations) -> None:
    """It was shown as the answer; it is folded once its end comes."""
    more = threading.Event()
    app = make_app(FakeRunning([["hm hm", more, WasThought(), "Yes."]]), store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Go", wait=False)
        await until(pilot, lambda: "hm hm" in shown(pilot))
        more.set()
        await until(pilot, lambda: is_idle(screen) and shows(pilot, "thought · 2 words", "Yes."))
        assert "hm hm" not in shown(pilot)
        assert screen.chat.path[-1].content == "Yes."


async def test_a_thought_that_is_cut_stays_a_thought(store: Conversations) -> None:
    """It is kept and shown as one, with how it ended; the model is asked again without it, and
    roles still alternate."""
    running = FakeRunning([[thought("secret plan")], ["Two."]], reason="max_tokens")
    app = make_app(running, store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Go")
        await until(pilot, lambda: shows(pilot, "thought · 2 words", "nothing was answered yet"))
        assert "secret plan" not in shown(pilot)
        await pilot.press("ctrl+y")
        assert screen.chat.last_answer is None
        await ask(pilot, "More")
        app._recorder.save(screen.chat.record()).result()
    assert rows(store, "reasoning, content, state")[1] == ("secret plan", "", "max_tokens")
    assert [(m.role, m.content) for m in running.prompts[1]] == [("user", "Go\n\nMore")]


async def test_a_thought_says_how_long_it_took(store: Conversations) -> None:
    """As the engine measured it, also when the conversation is opened again."""
    store.save(
        Conversation("c", "t", 1.0, 1.0, head="b"),
        [
            StoredMessage("a", None, "user", "Hi", 1.0),
            StoredMessage(
                "b", "a", "assistant", "Yes.", 2.0, reasoning="one two", thought_seconds=125.2
            ),
        ],
    )
    app = make_app(FakeRunning([[thought("我想 hm"), "No."]], thought_seconds=12.3), store, "c")
    async with app.run_test(size=SIZE) as pilot:
        await chat_screen(pilot)
        await until(pilot, lambda: "thought for 2 min 5 s · 2 words" in shown(pilot))
        await ask(pilot, "Go")
        await until(pilot, lambda: "thought for 12 s · 3 words" in shown(pilot))


async def test_drawing_is_bounded_by_the_timer(
    store: Conversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2,500 events of the engine make a few drawings, not 2,500."""
    drawings: list[str] = []
    feed = Entry.feed

    def counted(entry: Entry, text: str, final: bool = False) -> None:
        drawings.append(text)
        feed(entry, text, final)

    monkeypatch.setattr(Entry, "feed", counted)
    app = make_app(FakeRunning([["word "] * 2500]), store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Go")
        assert screen.chat.path[-1].content == "word " * 2500
        assert "".join(drawings) == "word " * 2500
        assert len(drawings) < 50


async def test_regenerate_keeps_the_old_answer(store: Conversations) -> None:
    """The new answer takes the old one's place on the screen; on disk they are branches. A fixed
    seed moves on, or the same answer would come again."""
    running = FakeRunning([["Old answer."], ["New answer."]])
    app = make_app(running, store, sampling=Sampling(seed=7))
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Go")
        await pilot.press("alt+r")
        await until(pilot, lambda: "New answer." in shown(pilot) and is_idle(screen))
        assert "Old answer." not in shown(pilot)
        app._recorder.save(screen.chat.record()).result()
    assert running.prompts[0] == running.prompts[1]
    assert [s.seed for s in running.samplings] == [7, 8]
    parents = rows(store, "content, parent_id")
    assert [content for content, _ in parents] == ["Go", "Old answer.", "New answer."]
    assert parents[1][1] == parents[2][1]
    latest = store.latest()
    assert latest is not None
    assert [m.content for m in store.shown(latest.id)] == ["Go", "New answer."]


async def test_an_answer_without_a_word_says_so(store: Conversations) -> None:
    """Else the question would seem to be ignored; it waits for another try."""
    app = make_app(FakeRunning([[], ["Now I do."]]), store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Say something")
        await until(pilot, lambda: "The model said nothing" in shown(pilot))
        await pilot.press("alt+r")
        await until(pilot, lambda: "Now I do." in shown(pilot) and is_idle(screen))
        assert "The model said nothing" not in shown(pilot)


async def test_resume(store: Conversations) -> None:
    """The history is shown and the model gets all of it with the next question."""
    running = FakeRunning([["One."]])
    app = make_app(running, store)
    async with app.run_test(size=SIZE) as pilot:
        await chat_screen(pilot)
        await ask(pilot, "First question")
        await pilot.press("ctrl+q")
    again = FakeRunning([["Two."]])
    app = make_app(again, store, resume="latest")
    async with app.run_test(size=SIZE) as pilot:
        await chat_screen(pilot)
        await until(pilot, lambda: "First question" in shown(pilot) and "One." in shown(pilot))
        await ask(pilot, "Second question")
        await pilot.press("ctrl+q")
    assert [m.content for m in again.prompts[0]] == ["First question", "One.", "Second question"]
    assert len(store.list()) == 1
    assert running.closed
    assert again.closed


async def test_a_message_that_was_damaged_on_disk_says_so(store: Conversations) -> None:
    """A question as well as an answer; what is whole says nothing."""
    said = [
        StoredMessage(str(n), str(n - 1) if n else None, "assistant" if n % 2 else "user", "x", 1.0)
        for n in range(4)
    ]
    store.save(Conversation("c1", "t", 1.0, 1.0, None, "3"), said)
    store._db.execute("UPDATE messages SET content = 'y' WHERE id IN ('2', '3')")
    app = make_app(FakeRunning(), store, resume="c1")
    async with app.run_test(size=SIZE) as pilot:
        await chat_screen(pilot)
        await until(pilot, lambda: shown(pilot).count("was damaged on disk") == 2)


async def test_resume_of_nothing_says_so(store: Conversations) -> None:
    app = make_app(FakeRunning(), store, resume="nope")
    async with app.run_test(size=SIZE) as pilot:
        await chat_screen(pilot)
        await until(pilot, lambda: "no saved conversation 'nope'" in shown(pilot))


def fill(store: Conversations, key: str, n: int, word: str = "message") -> None:
    """A conversation of n messages."""
    messages = [
        StoredMessage(
            f"{key}{i}", f"{key}{i - 1}" if i else None, "assistant" if i % 2 else "user",
            f"{word} number {i}.", float(i),
        )
        for i in range(n)
    ]  # fmt: skip
    store.save(Conversation(key, f"{word} title", 1.0, 1.0, None, messages[-1].id), messages)


async def test_a_long_history_is_made_where_one_looks(
    store: Conversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2,000 messages open with the rows of a few of them; each step up shows what is right above,
    and what was seen long ago is let go."""
    monkeypatch.setattr("tui.widgets.page.KEPT", 30)
    fill(store, "k", 2000)
    app = make_app(FakeRunning(), store, resume="k")
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        transcript = screen.query_one(Transcript)
        await until(pilot, lambda: "message number 1999." in shown(pilot))
        assert len(transcript.children) == 0
        assert len(transcript._page.drawn) < 20
        seen: list[int] = []
        for _ in range(6):
            found = [int(n) for n in re.findall(r"message number (\d+)\.", shown(pilot))]
            seen = [*found, *seen] if not seen else [n for n in found if n < seen[0]] + seen
            await pilot.press("pageup")
        assert seen == [*range(seen[0], 2000)]
        assert "below" in shown(pilot)
        await pilot.press("ctrl+home")
        await until(pilot, lambda: "message number 0." in shown(pilot))
        await pilot.press(*["pagedown"] * 6)
        assert len(transcript._page.drawn) <= 30
        await pilot.press("ctrl+end")
        await until(pilot, lambda: "message number 1999." in shown(pilot))
        await until(pilot, lambda: "below" not in shown(pilot))


def alive() -> Counter[str]:
    """What of Textual's and of ours memory holds, by type; without drawn lines, which what is on
    the screen has more or fewer of, and plain numbers, whose caches have an end."""
    gc.collect()
    passing = ("geometry.", "box_model.", "layout.", "strip.", "cache.", "style.", "content.Span")
    kinds = (type(one) for one in gc.get_objects())
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
    return Counter(
        name
        for name in names
        if name.startswith(("textual.", "tui."))
        and not name.removeprefix("textual.").startswith(passing)
    )


async def test_a_turn_leaves_nothing_but_its_messages(
    store: Conversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory grows by the conversation's own text and where it is shown: nothing that was drawn is
    left of a turn that is out of view."""
    monkeypatch.setattr("tui.widgets.page.KEPT", 8)
    turns = 6
    answer = "## Answer\n\n- one\n- two\n\n```python\nx = 1\n```\n"
    app = make_app(FakeRunning([[answer] for _ in range(2 * turns)]), store)
    async with app.run_test(size=SIZE) as pilot:
        await chat_screen(pilot)
        for n in range(turns):
            await ask(pilot, f"question {n}")
        before = alive()
        for n in range(turns):
            await ask(pilot, f"question {n}")
        grown = alive() - before
    kept = {
        "tui.storage.records.StoredMessage", "tui.widgets.entries.Entry",
        "tui.widgets.parts.Part", "tui.widgets.reading.segments.Segmenter",
    }  # fmt: skip
    assert grown["tui.storage.records.StoredMessage"] == 2 * turns
    assert {name for name, n in grown.items() if n >= turns} <= kept


@pytest.mark.parametrize("back_before_the_end", [True, False])
async def test_scrolling_away_from_an_answer_that_is_written(
    store: Conversations, back_before_the_end: bool
) -> None:
    """One goes as far back as one likes; nothing of the answer is lost, whether one comes back
    before its end or after it."""
    fill(store, "k", 80)
    more, last = threading.Event(), threading.Event()
    running = FakeRunning([["begin ", more, "middle ", last, "end."]])
    app = make_app(running, store, resume="latest")
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Go", wait=False)
        await until(pilot, lambda: "begin" in shown(pilot))
        await pilot.press("ctrl+home")
        more.set()
        await until(pilot, lambda: "message number 0." in shown(pilot))
        assert "begin" not in shown(pilot)
        if back_before_the_end:
            await pilot.press("ctrl+end")
            await until(pilot, lambda: "begin middle" in shown(pilot))
        last.set()
        await until(pilot, lambda: is_idle(screen))
        if not back_before_the_end:
            assert "message number 0." in shown(pilot)
            await pilot.press("ctrl+end")
        await until(pilot, lambda: shown(pilot).count("begin middle end.") == 1)


async def test_scrolling_is_free_while_text_streams(store: Conversations) -> None:
    """A view that was scrolled up stays where it is, and a marker says that there is new text."""
    more = threading.Event()
    long = [f"Line {n}.\n\n" for n in range(40)]
    app = make_app(FakeRunning([[*long, more, *long, "The end."]]), store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        transcript = screen.query_one(Transcript)
        await ask(pilot, "Go", wait=False)
        await until(pilot, lambda: "Line 39." in shown(pilot))
        await pilot.press("pageup")
        await until(pilot, lambda: not transcript.at_end)
        at = transcript.scroll_y
        more.set()
        await until(pilot, lambda: is_idle(screen))
        assert transcript.scroll_y == at
        assert "below" in shown(pilot)
        await pilot.click(ActivityLine)
        await until(pilot, lambda: "The end." in shown(pilot))


async def test_conversations_can_be_searched_opened_renamed_deleted(store: Conversations) -> None:
    fill(store, "a", 4, "apple")
    fill(store, "b", 4, "banana")
    app = make_app(FakeRunning(), store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await pilot.press("ctrl+o")
        await until(pilot, lambda: "apple title" in shown(pilot) and "banana title" in shown(pilot))
        await pilot.press(*"number 2 app")
        await until(pilot, lambda: "banana" not in shown(pilot))
        await pilot.press("ctrl+e")
        await until(pilot, lambda: "New title" in shown(pilot))
        await pilot.press("end", *" pie", "enter")
        await until(pilot, lambda: "apple title pie" in shown(pilot))
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is screen and "apple number 3." in shown(pilot))
        assert screen.chat.conversation.id == "a"
        await pilot.press("ctrl+o")
        await until(pilot, lambda: "2 conv" in shown(pilot) or "apple title pie" in shown(pilot))
        await pilot.press(*"apple")
        await until(pilot, lambda: "banana" not in shown(pilot))
        await pilot.press("ctrl+d")
        await until(pilot, lambda: "again deletes" in shown(pilot))
        assert len(store.list()) == 2
        await pilot.press("ctrl+d")
        await until(pilot, lambda: len(store.list()) == 1)
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen and not screen.chat.path)
    assert [c.id for c in store.list()] == ["b"]


async def test_a_late_list_does_not_hide_that_the_next_key_deletes(store: Conversations) -> None:
    """Where it still is about the same conversation; else the next key asks anew."""
    fill(store, "a", 4, "apple")
    fill(store, "b", 4, "banana")
    app = make_app(FakeRunning(), store)
    async with app.run_test(size=SIZE) as pilot:
        await chat_screen(pilot)
        await pilot.press("ctrl+o")
        await until(pilot, lambda: "banana title" in shown(pilot))
        screen = app.screen
        assert isinstance(screen, ConversationsScreen)
        await pilot.press("ctrl+d")
        await until(pilot, lambda: "again deletes" in shown(pilot))
        screen.post_message(screen.Found("", store.search("")))
        await pilot.pause()
        assert "again deletes" in shown(pilot)
        screen.post_message(screen.Found("apple", store.search("apple")))
        await until(pilot, lambda: "banana" not in shown(pilot))
        await until(pilot, lambda: "again deletes" not in shown(pilot))
        await pilot.press("ctrl+d")
        await until(pilot, lambda: "again deletes" in shown(pilot))
        assert len(store.list()) == 2


async def test_new_chat_leaves_the_old_one_saved(store: Conversations) -> None:
    running = FakeRunning([["One."], ["Two."]])
    app = make_app(running, store)
    async with app.run_test(size=SIZE) as pilot:
        await chat_screen(pilot)
        await ask(pilot, "First")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: "One." not in shown(pilot))
        await ask(pilot, "Other")
        await until(pilot, lambda: "Two." in shown(pilot))
        await pilot.press("ctrl+q")
    assert [m.content for m in running.prompts[1]] == ["Other"]
    assert {c.title for c in store.list()} == {"First", "Other"}


async def test_the_fit_report_is_shown_as_it_is(store: Conversations) -> None:
    """Every column of it, at any width, and no markup of its own."""
    app = make_app(FakeRunning(), store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await pilot.press("f2")
        await until(pilot, lambda: "report for 76 columns [red]literal[/]" in shown(pilot))
        assert "-" * 75 + "|" in shown(pilot)
        assert isinstance(app.screen, ReportScreen)
        assert "row 59" not in shown(pilot)
        await pilot.press("end")
        await until(pilot, lambda: "row 59" in shown(pilot))
        await pilot.press("home")
        for width in (60, 100, 30):
            await pilot.resize_terminal(width, 24)
            first, ruler = f"for {width - 4} columns", "  " + "-" * (width - 5) + "|"
            await until(pilot, partial(shows, pilot, first, ruler))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)


async def test_copy_the_last_answer(store: Conversations) -> None:
    """The source of the answer, not what is drawn of it."""
    app = make_app(FakeRunning([["Some **bold** text."]]), store)
    async with app.run_test(size=SIZE) as pilot:
        await chat_screen(pilot)
        await ask(pilot, "Go")
        await pilot.press("ctrl+y")
        await until(pilot, lambda: app.clipboard == "Some **bold** text.")


async def test_status_line_at_80_and_200_columns(store: Conversations) -> None:
    gpu = Reading(int(18.2 * GIB), 24 * GIB, 64, 213.4)
    now = Vitals({"GPU0": gpu}, (9 * GIB, 64 * GIB))
    running = FakeRunning([["An ", "answer."]], now=now)
    app = make_app(running, store)
    async with app.run_test(size=(200, 50)) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Go")
        line = screen.query_one(StatusLine)
        await until(pilot, lambda: "VRAM" in str(line.render()))
        assert str(line.render()) == (
            "Tiny Llama · 41/41 layers on GPU · K q8_0 V f16 · █░░░░░░░ 4 of 4k, 4 MiB of 4.0 GiB"
            " · VRAM ██████░░ 18.2 of 24.0 GiB · RAM █░░░░░░░ 9.0 of 64.0 GiB"
            " · 64 °C 213 W · 50 t/s"
        )
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: line.size.width < 80)
        text = str(line.render())
        assert len(text) <= line.size.width
        for part in ("Tiny Llama", "4 of 4k", "18.2 of 24.0 GiB", "50 t/s"):
            assert part in text


async def test_small_terminals(store: Conversations) -> None:
    """Every screen survives 40x10 and less, in the middle of an answer too."""
    more = threading.Event()
    answer = [
        "# Title\n\n```python\nx = 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n- i\n",
        more,
        "z",
    ]
    app = make_app(FakeRunning([answer]), store)
    async with app.run_test(size=(200, 50)) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Go", wait=False)
        await until(pilot, lambda: "Title" in shown(pilot))
        for size in ((40, 10), (10, 3), (1, 1), (40, 10)):
            await pilot.resize_terminal(*size)
            await pilot.pause(0.02)
        more.set()
        await until(pilot, lambda: is_idle(screen))
        await pilot.press(*"still here")
        await until(pilot, lambda: "still here" in shown(pilot))
        for key in ("f1", "f2", "ctrl+o"):
            await pilot.press(key)
            await pilot.pause(0.05)
            await pilot.resize_terminal(10, 3)
            await pilot.resize_terminal(40, 10)
            await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)


async def test_quitting_takes_two_ctrl_c(store: Conversations) -> None:
    running = FakeRunning()
    app = make_app(running, store)
    async with app.run_test(size=SIZE) as pilot:
        await chat_screen(pilot)
        await pilot.press("ctrl+c")
        await until(pilot, lambda: "Ctrl+C again quits" in shown(pilot))
        assert not running.closed
        await pilot.press("ctrl+c")
        await until(pilot, lambda: app.return_code is not None)
    assert app.return_code == 0
    assert running.closed


async def test_quitting_in_an_answer_saves_it(store: Conversations) -> None:
    never = threading.Event()
    app = make_app(FakeRunning([["Half", never]]), store)
    async with app.run_test(size=SIZE) as pilot:
        await chat_screen(pilot)
        await ask(pilot, "Go", wait=False)
        await until(pilot, lambda: "Half" in shown(pilot))
        await pilot.press("ctrl+q")
        await until(pilot, lambda: app.return_code is not None)
    assert rows(store, "content, state")[-1] == ("Half", "stopped")


async def test_an_unsaved_chat_says_so(tmp_path: Path) -> None:
    """A store that cannot be used is a warning, and the chat works."""
    (tmp_path / "data").write_text("in the way")
    store = Conversations.open(tmp_path / "data" / "conversations.db")
    app = make_app(FakeRunning([["Yes."]]), store)
    async with app.run_test(size=SIZE) as pilot:
        await chat_screen(pilot)
        await until(pilot, lambda: "will not be saved" in " ".join(shown(pilot).split()))
        await ask(pilot, "Still there?")
        await until(pilot, lambda: "Yes." in shown(pilot))
        assert shown(pilot).count("not saved") == 1


async def test_not_saved_is_said_while_it_is_so(
    store: Conversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the exception; the word goes when saving works again."""
    monkeypatch.setattr("tui.storage.recorder.RETRY_SECONDS", 0.05)
    save, failing = store.save, True

    def refuse(*args: Any) -> None:
        if failing:
            raise RuntimeError("no way")
        save(*args)

    monkeypatch.setattr(store, "save", refuse)
    app = make_app(FakeRunning([["Yes."]]), store, system_prompt="be brief\udcff")
    async with app.run_test(size=SIZE) as pilot:
        await chat_screen(pilot)
        await ask(pilot, "Still there?")
        await until(pilot, lambda: shows(pilot, "not saved", "no way"))
        assert shown(pilot).count("not saved") == 1  # in the status line alone
        failing = False
        await until(pilot, lambda: "not saved" not in shown(pilot))
    (found,) = store.list()
    assert (found.n_messages, found.system_prompt) == (2, "be brief\ufffd")
    assert app.unsaved == ""


async def test_a_failed_load_says_why_and_can_be_tried_again(store: Conversations) -> None:
    """What was written meanwhile stays; who leaves without a model hears of it once more."""
    error = FileError("not_gguf", "/models/tiny.gguf", "tiny.gguf is not a GGUF [file].")
    launcher = FakeLauncher(FakeRunning(), error=error)
    app = make_app(launcher, store)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "tiny.gguf is not a GGUF [file]." in shown(pilot))
        assert "F5 tries again, F3 chooses other settings, Ctrl+Q quits." in shown(pilot)
        await pilot.press(*"a draft", "f5")
        await until(pilot, lambda: launcher.starts == 2)
        assert app.screen.query_one(Prompt).text == "a draft"
        await pilot.press("ctrl+q")
        await until(pilot, lambda: app.return_code is not None)
    assert app.error is error
    assert app.return_code == 3


async def test_what_is_sent_while_the_model_loads_is_answered_when_it_is_there(
    store: Conversations,
) -> None:
    """The composer is there at once; the question is saved and shown, and the next one is kept in
    the prompt until the first is answered. How far the load is stands above it."""
    hold = threading.Event()
    app = make_app(FakeLauncher(FakeRunning([["Yes."]]), hold=hold), store)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: shows(pilot, "loading 50%", "2.0 of 4.0 GiB", "Esc cancels"))
        assert shows(pilot, "tiny.gguf", "41/41 layers on GPU · KV q8_0")
        await pilot.press(*"Are you there?", "enter", *"More", "enter")
        await until(pilot, lambda: "is answered first" in shown(pilot))
        screen = app.screen
        assert isinstance(screen, ChatScreen)
        assert screen.query_one(Prompt).text == "More"
        app._recorder.save(screen.chat.record()).result()
        assert rows(store, "role, content") == [("user", "Are you there?")]
        hold.set()
        await until(pilot, lambda: "Yes." in shown(pilot) and not screen.generating)
        assert "Tiny Llama" in shown(pilot)
        assert screen.query_one(Prompt).text == "More"


@pytest.mark.parametrize("key", ["f1", "ctrl+p"])
async def test_a_question_of_before_is_not_asked_by_opening_it(
    key: str, store: Conversations
) -> None:
    """A conversation that ends with a question stays as it was, whatever lies over the chat when
    the model is there."""
    store.save(
        Conversation("c", "T", 1.0, 1.0, head="m"), [StoredMessage("m", None, "user", "Old?", 1.0)]
    )
    hold = threading.Event()
    app = make_app(FakeLauncher(FakeRunning(), hold=hold), store, resume="c")
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: shows(pilot, "Old?", "loading 50%"))
        await pilot.press(key)
        await until(pilot, lambda: len(app.screen_stack) == 3)
        hold.set()
        screen = app.screen_stack[1]
        assert isinstance(screen, ChatScreen)
        await until(pilot, lambda: screen.running_model is not None)
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)
        assert len(screen.chat.path) == 1


async def test_a_model_process_that_ends_while_nothing_is_asked_is_noticed(
    store: Conversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tui.screens.chat.VRAM_SECONDS", 0.05)
    running = FakeRunning([["Back."]])
    app = make_app(running, store)
    async with app.run_test(size=SIZE) as pilot:
        await chat_screen(pilot)
        running.lives = False
        await until(pilot, lambda: shows(pilot, "process has ended", "does F5"))
        await ask(pilot, "Go")
        await until(pilot, lambda: "Back." in shown(pilot))


async def test_a_standstill_is_told(store: Conversations) -> None:
    """While a load, and then an answer, does not get on, the screen says since when."""
    running = FakeRunning([["Half", never := threading.Event()]])
    launcher = FakeLauncher(running, hold=threading.Event(), still=31.0)
    app = make_app(launcher, store)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: shows(pilot, "loading 50%", "not got on for 31 s"))
        launcher.still = 0.0
        await until(pilot, lambda: "not got on" not in shown(pilot))
        assert launcher.hold is not None
        launcher.hold.set()
        screen = await chat_screen(pilot)
        await ask(pilot, "Go", wait=False)
        await until(pilot, lambda: "Half" in shown(pilot))
        running.still = 12.0
        await until(pilot, lambda: "has not got on for 12 s" in shown(pilot))
        never.set()
        await until(pilot, lambda: is_idle(screen))


async def test_a_load_can_be_cancelled(store: Conversations) -> None:
    """The chat stays, with what was written; leaving it then says that nothing was loaded."""
    launcher = FakeLauncher(FakeRunning(), hold=threading.Event())
    app = make_app(launcher, store)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "50%" in shown(pilot))
        await pilot.press(*"a draft", "escape")
        await until(pilot, lambda: "The load was cancelled." in shown(pilot))
        assert launcher.cancelled.is_set()
        assert app.screen.query_one(Prompt).text == "a draft"
        await pilot.press("ctrl+q")
        await until(pilot, lambda: app.return_code is not None)
    assert app.return_code == 130
    assert app.error is None


async def test_the_palette_offers_the_chat_s_commands(store: Conversations) -> None:
    app = make_app(FakeRunning(), store)
    async with app.run_test(size=SIZE) as pilot:
        await chat_screen(pilot)
        titles = [command.title for command in app.get_system_commands(app.screen)]
        for title in (
            "New chat", "Conversations", "Fit report", "Stop", "Regenerate", "Copy last answer",
            "Quit", "Theme",
        ):  # fmt: skip
            assert title in titles
        await pilot.press("ctrl+p")
        await pilot.press(*"convers")
        await pilot.pause(0.3)
        await pilot.press("enter", "enter")
        await until(pilot, lambda: isinstance(app.screen, ConversationsScreen))
