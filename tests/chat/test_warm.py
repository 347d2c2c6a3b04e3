"""Conversations that come back warm, a model that rests, and one that dies, on the screen."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

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
from tui.answering.deaths import Deaths
from tui.answering.generation import Generation
from tui.answering.idle import Idle
from tui.answering.warm import LEAST_TOKENS, Warm
from tui.storage import Conversation, Conversations, StoredMessage
from tui.widgets import Prompt
from tuner.engine.protocol import Done, Message, Sampling, Text
from tuner.errors import EngineError

LONG = [Text("word " * 10, LEAST_TOKENS)]  # an answer that is worth keeping


def newest(store: Conversations) -> str:
    found = store.latest()
    assert found is not None
    return found.id


async def test_what_was_read_comes_and_goes_with_the_conversation(store: Conversations) -> None:
    """Saved when it is left, once for each state of it; back before the next question; a short one
    is read again instead."""
    running = FakeRunning([list(LONG), ["Short."], ["More."]])
    app = make_app(running, store)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Hello")
        first = screen.chat.conversation.id
        await pilot.press("ctrl+n")
        await until(pilot, lambda: running.saved == [store.states.path(first)])
        await ask(pilot, "Again")
        await pilot.press("ctrl+o")
        await until(pilot, lambda: shows(pilot, "Hello", "2 messages"))
        await pilot.press("down", "enter")
        await until(pilot, lambda: running.restored == running.saved)
        await until(pilot, lambda: app.screen is screen and screen.chat.conversation.id == first)
        await pilot.press("ctrl+q")
    assert len(running.saved) == 1
    assert running.closed


async def test_a_question_waits_for_what_was_read(store: Conversations) -> None:
    """Sent as the conversation is opened, it is asked once that is back; nothing else waits."""
    app = make_app(FakeRunning([list(LONG)]), store)
    async with app.run_test(size=(80, 24)) as pilot:
        await chat_screen(pilot)
        await ask(pilot, "Hello")
        await pilot.press("ctrl+q")
        await until(pilot, lambda: app._exit)
    assert store.states.has(newest(store))
    running, come = FakeRunning([["Back."]]), threading.Event()
    restore, order = running.restore_state, list[str]()

    def slowly(path: Path) -> object:
        come.wait(10)
        order.append(f"{len(running.prompts)} asked before it is back")
        return restore(path)

    running.restore_state = slowly  # type: ignore[method-assign,assignment]
    app = make_app(running, store, resume="latest")
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await chat_screen(pilot)
        await until(pilot, lambda: shows(pilot, "bringing back"))
        await ask(pilot, "More", wait=False)
        await until(pilot, lambda: screen.generating and shows(pilot, "▌ More"))
        assert shows(pilot, "bringing back")
        come.set()
        await until(pilot, lambda: shows(pilot, "Back.") and is_idle(screen))
    assert order == ["0 asked before it is back"]


@pytest.mark.parametrize("key", ["escape", "ctrl+n"])
async def test_a_question_that_waits_for_a_save_can_be_stopped(
    store: Conversations, key: str
) -> None:
    """At once, also by leaving it: the model is not asked, nor ended, and the save goes on."""
    running = FakeRunning([list(LONG)], save_hold=(hold := threading.Event()))
    app = make_app(running, store)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Hello")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: shows(pilot, "keeping what was read"))
        await ask(pilot, "More", wait=False)
        await until(pilot, lambda: screen.generating)
        stopped = screen.chat
        await pilot.press(key)
        await until(
            pilot, lambda: is_idle(screen) and (screen.chat is stopped) is (key == "escape")
        )
        assert stopped.path[-1].state == "stopped"
        assert running.lives
        hold.set()
        await until(pilot, lambda: len(running.saved) == 1)
        assert len(running.prompts) == 1


def test_what_is_asked_beside_a_conversation_waits_too(store: Conversations) -> None:
    """And is not what was read of that: it is not saved as if it were."""
    message = StoredMessage("m", None, "user", "Hello", 1.0)
    store.save(Conversation("beef", "Hello", 1.0, 1.0, head="m"), [message])
    running, warm = FakeRunning(save_hold=(hold := threading.Event())), Warm(store)
    warm.answered(running, "beef", Done("end", 1000, 0, 0, 20.0, 1.0, 1000))
    summary = Generation(running, (Message("user", "Sum up"),), Sampling())
    asked = threading.Thread(target=lambda: warm.before(summary, aside=True))
    asked.start()
    asked.join(0.1)
    assert not running.prompts
    hold.set()
    asked.join(10)
    assert (len(running.saved), len(running.prompts)) == (1, 1)
    assert not warm.worth_saving(running)
    warm.close()


@pytest.mark.parametrize("paused", [False, True])
async def test_leaving_says_that_it_saves_and_is_not_held_up(
    store: Conversations, paused: bool
) -> None:
    """It waits for what is being saved already, too; another key leaves without it."""
    running = FakeRunning([list(LONG)], save_hold=(hold := threading.Event()))
    app = make_app(running, store)
    async with app.run_test(size=(60, 24)) as pilot:
        await chat_screen(pilot)
        await ask(pilot, "Hello")
        if paused:
            await pilot.press("alt+p")
            await until(pilot, lambda: shows(pilot, "keeping what was read"))
        await pilot.press("ctrl+q")
        await until(pilot, lambda: shows(pilot, "keeping what was read, ", "Ctrl+Q again skips it"))
        assert not running.closed
        if paused:
            hold.set()
        else:
            await pilot.press("ctrl+q")
        await until(pilot, lambda: running.closed and app._exit)
    assert len(running.saved) == (1 if paused else 0)
    assert not list(store.states.folder.glob("*.new"))  # what was skipped leaves nothing behind
    hold.set()


async def test_why_it_was_read_again_is_told(store: Conversations, tmp_path: Path) -> None:
    """By the fit report and the log: the engine's reason, or that what was kept is of no use."""
    app = make_app(FakeRunning([list(LONG)]), store)
    async with app.run_test(size=(80, 24)) as pilot:
        await chat_screen(pilot)
        await ask(pilot, "Hello")
        await pilot.press("ctrl+q")
        await until(pilot, lambda: app._exit)
    log = tmp_path / "engine.log"
    running = FakeRunning(no_state="it is another model's", log_path=log)
    app = make_app(running, store, resume="latest")
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "More")
        await pilot.press("f2")
        cold = "0 of 59 tokens; 59 read: what was kept of it is of no use"
        await until(pilot, lambda: cold in " ".join(shown(pilot).split()))
        await pilot.press("f2")
        await until(pilot, lambda: app.screen is screen)
        running.n_reused, running.read_again = 50, "a sliding window cannot go back by itself"
        await ask(pilot, "And")
        await pilot.press("f2")
        warm = "reused 50 of 72 tokens; 22 read: a sliding window cannot go back by itself."
        await until(pilot, lambda: warm in " ".join(shown(pilot).split()))
    noted = log.read_text()
    assert "was not restored: it is another model's" in noted
    assert "reused 50 of 72 tokens; 22 read: a sliding window" in noted


def test_what_takes_long_to_read_is_saved_at_once(store: Conversations) -> None:
    """In steps: not what would be read soon, nor where little of it is new. Of a prompt that was
    stopped, what was read of it tells how fast that is."""
    message = StoredMessage("m", None, "user", "Hello", 1.0)
    store.save(Conversation("beef", "Hello", 1.0, 1.0, head="m"), [message])
    running, warm = FakeRunning(), Warm(store)

    def answered(n_prompt: int, n_reused: int, seconds: float, n_there: int = 0) -> int:
        done = Done("end", n_prompt, n_reused, 0, seconds, 1.0, n_there or n_prompt)
        warm.answered(running, "beef", done)
        assert warm.wait(5)
        return len(running.saved)

    assert answered(1000, 0, 9.0) == 0
    assert answered(1500, 1000, 5.0) == 1
    assert answered(1900, 1500, 40.0) == 1
    assert answered(2000, 1900, 10.0) == 2
    assert answered(2010, 2000, 1.0) == 2  # too few to tell how fast it reads
    assert answered(90_000, 2010, 9.0, 3000) == 2
    assert answered(90_000, 2010, 15.0, 3000) == 3
    warm.close()


def test_what_is_of_no_conversation_is_swept(
    store: Conversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A while after the start."""
    monkeypatch.setattr("tui.answering.warm.SWEEP_SECONDS", 0.01)
    store.states.make_room("dead", 0)
    path = store.states.path("dead")
    path.write_bytes(b"state")
    os.utime(path, (0, 0))
    warm = Warm(store)
    until = time.monotonic() + 10
    while path.exists() and time.monotonic() < until:
        time.sleep(0.005)
    warm.close()
    assert not path.exists()


@pytest.mark.parametrize("gone", ["conversation", "message", "turned off", "not saved"])
async def test_what_is_deleted_is_not_kept(gone: str, store: Conversations) -> None:
    """Nor what was not to be kept at all."""
    store.saved = gone != "not saved"
    running = FakeRunning([list(LONG)])
    if gone == "turned off":
        store.states.most_bytes = 0
    app = make_app(running, store)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Hello")
        if gone == "message":
            await pilot.press("ctrl+up", "d")
            await until(pilot, lambda: len(screen.chat.path) == 1)
            await pilot.press("escape")
        elif gone == "conversation":
            first = screen.chat
            await pilot.press("ctrl+o")
            await until(pilot, lambda: shows(pilot, "2 messages"))
            await pilot.press("ctrl+d", "ctrl+d")
            await until(pilot, lambda: screen.chat is not first)
            await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)
        await pilot.press("ctrl+n")
        await pilot.pause()
        assert screen._warmth.read.wait(5)
        assert running.saved == []


# ---------------------------------------------------------------- rest


async def test_a_paused_model_is_brought_back_by_the_next_message(store: Conversations) -> None:
    """What was read is saved before its process ends, and back before the answer."""
    running = FakeRunning([list(LONG), ["Back."], ["Another."]])
    launcher = FakeLauncher(running)
    app = make_app(launcher, store)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Hello")
        await ask(pilot, "/pause", wait=False)
        await until(pilot, lambda: not running.lives)
        assert len(running.saved) == 1
        await until(pilot, lambda: shows(pilot, "paused: the next message brings the model back"))
        await ask(pilot, "More")
        await until(pilot, lambda: shows(pilot, "Back.") and is_idle(screen))
        assert launcher.starts == 2
        assert running.restored == running.saved
        assert "paused" not in shown(pilot)
        await pilot.press("alt+p")
        await until(pilot, lambda: not running.lives and shows(pilot, "paused:"))
        await pilot.press("alt+r")  # whatever needs the model brings it back
        await until(pilot, lambda: shows(pilot, "Another.") and is_idle(screen))
        await pilot.press("alt+p")
        await until(pilot, lambda: not running.lives and shows(pilot, "paused:"))
        n_restored = len(running.restored)
        screen.load(running.settings)  # which carries nothing over from a model that rests
        await until(pilot, lambda: running.lives and len(running.restored) > n_restored)


async def test_a_model_that_nobody_asks_rests(store: Conversations) -> None:
    """Not while somebody writes; the same as when its process ends by itself."""
    running = FakeRunning()
    app = make_app(running, store, idle_seconds=60.0)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await chat_screen(pilot)
        now = [0.0]
        idle = screen._warmth.idle = Idle(60.0, lambda: now[0])
        now[0] = 59.0
        await pilot.press("a")
        await until(pilot, lambda: idle._since == 59.0)
        now[0] = 118.0
        screen._rest_in_time()
        assert running.lives
        now[0] = 119.0
        screen._rest_in_time()
        await until(pilot, lambda: not running.lives and shows(pilot, "paused:"))
        await pilot.press("f5")
        await until(pilot, lambda: running.lives and shows(pilot, "loaded again"))


# ---------------------------------------------------------------- deaths


async def test_a_model_that_dies_comes_back_by_itself_once(store: Conversations) -> None:
    """And goes on with the answer that was cut; after a whole answer it may die again, twice in a
    row it is not loaded without being asked for."""
    died = EngineError("crashed", "It died.")
    running = FakeRunning([["Half", died], [" of it."], ["So", died], [died], ["Whole."]])
    launcher = FakeLauncher(running)
    app = make_app(launcher, store)
    async with app.run_test(size=(80, 30)) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "One")
        await until(pilot, lambda: shows(pilot, "It died.", "loaded again", "F8 goes on"))
        assert shows(pilot, "/logs/engine.log", "Half")
        assert launcher.starts == 2
        await pilot.press("f8")
        await until(pilot, lambda: shows(pilot, "Half of it.") and is_idle(screen))
        assert "It died." not in shown(pilot)
        await ask(pilot, "Two")
        await until(pilot, lambda: launcher.starts == 3 and shows(pilot, "F8 goes on"))
        await pilot.press("f8")
        await until(pilot, lambda: shows(pilot, "F5 loads the model again"))
        screen.query_one(Prompt).text = "Next"
        await pilot.press("enter")
        await pilot.pause()
        assert screen.query_one(Prompt).text == "Next"  # not lost in a dead engine
        assert launcher.starts == 3
        assert store.messages(newest(store))[-1].state == "error"
        await pilot.press("f5")
        await until(pilot, lambda: launcher.starts == 4 and shows(pilot, "F8 goes on"))
        await pilot.press("f8")
        await until(pilot, lambda: shows(pilot, "SoWhole.") and not screen.generating)


async def test_an_answer_that_runs_out_of_memory_is_gone_on_with_by_a_smaller_plan(
    store: Conversations,
) -> None:
    """Once; what runs out again waits for the user."""
    out = EngineError("out_of_memory", "cudaMalloc failed.")
    running = FakeRunning([["Half", out], [" of it."], ["So", out], [" and", out]])
    half = running.settings.n_ctx // 2
    app = make_app(running, store)
    async with app.run_test(size=(90, 30)) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "One", wait=False)
        await until(pilot, lambda: shows(pilot, "Half of it.", "cudaMalloc") and is_idle(screen))
        assert running.ran_out == ["cudaMalloc failed."]
        assert screen.running_model is not None
        assert screen.running_model.settings.n_ctx == half
        await ask(pilot, "Two", wait=False)
        await until(pilot, lambda: shows(pilot, "So and", "Alt+R tries again"))
        assert screen._loads.ready
        assert len(running.ran_out) == 2


async def test_a_question_that_a_death_left_is_answered(store: Conversations) -> None:
    """Nothing had come of its answer: it is asked again, and the reason stays to be read."""
    running = FakeRunning([[EngineError("crashed", "It died.")], ["Here."]])
    app = make_app(running, store)
    async with app.run_test(size=(80, 24)) as pilot:
        await chat_screen(pilot)
        await ask(pilot, "One")
        await until(pilot, lambda: shows(pilot, "It died.", "loaded again", "Here."))
    assert [m.content for m in store.messages(newest(store))] == ["One", "Here."]


def test_deaths_are_counted_from_the_last_whole_answer() -> None:
    deaths = Deaths()
    assert [deaths.died(), deaths.died(), deaths.died()] == [True, False, False]
    deaths.answered()
    assert deaths.died()
