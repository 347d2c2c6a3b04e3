"""A full context is a choice: what is said of it, and the ways to room."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.pilot import Pilot

from tests.chat.test_view import path_of
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
from tests.support.explorers import explorer_of
from tests.support.giants import LLAMA_8B, giant, gpu, machine
from tui.answering.making_room import Summary
from tui.answering.room import Situation, newest_that_fit, standing_in
from tui.answering.view import View, cuts, prompt_of, view_of
from tui.screens.chat import ChatScreen
from tui.screens.context import ContextScreen
from tui.storage import Conversations
from tui.when_full import Way
from tui.widgets import Prompt
from tuner.engine.protocol import Message, Sampling
from tuner.errors import EngineError
from tuner.planning import Explorer
from tuner.settings import Settings

SIZE = (90, 24)


@dataclass
class Small(FakeRunning):
    """Has room for 100 tokens, each a character, and refuses a conversation that has more."""

    settings: Settings = field(default_factory=lambda: Settings(n_ctx=100))
    reasons: list[str] = field(default_factory=list)  # for which answers end; then: "end"

    def generate(
        self, messages: Sequence[Message], sampling: Sampling, *rest: Any, **more: Any
    ) -> Iterator[Any]:
        if self.count_tokens(messages) >= self.settings.n_ctx:
            raise EngineError("context_full", "too long")
        self.reason = self.reasons.pop(0) if self.reasons else "end"
        yield from super().generate(messages, sampling, *rest, **more)


def situation(*said: str, n_ctx: int = 100, **changes: Any) -> Situation:
    running = FakeRunning(settings=Settings(n_ctx=n_ctx))
    return Situation(running, "sys", view_of(path_of(*said)), **changes)


def seen(running: FakeRunning) -> list[str]:
    """What the model was given last."""
    return [m.content for m in running.prompts[-1]]


# ---------------------------------------------------------------- which turns go


@given(st.lists(st.integers(1, 60), max_size=8), st.integers(0, 120), st.booleans(), st.booleans())
def test_what_stays_fits_with_what_is_to_be_asked(
    lengths: list[int], n_draft: int, goes_on: bool, for_summary: bool
) -> None:
    """Half of the context stays free, a turn less gone would leave less; where the last turn takes
    more, what fits. An answer that is gone on with stays. Nothing goes where that is no help."""
    said = ["q" if n % 2 == 0 else "a" * length for n, length in enumerate(lengths)]
    now = situation(*said, draft="d" * n_draft, goes_on=goes_on)
    kept = 50 - (12.5 if for_summary else 0)
    possible = list(cuts(now.view, whole=not goes_on))
    cut = now.cut(for_summary=for_summary)
    if cut is None:
        assert not possible or now.n_tokens(possible[-1]) >= now.n_ctx
        return
    assert now.n_tokens(cut) < now.n_ctx
    assert now.n_tokens(cut) <= kept or cut == possible[-1]
    longer = possible[: possible.index(cut)]
    assert all(now.n_tokens(view) > kept for view in longer)
    assert cut.messages or not goes_on


@given(st.lists(st.text("ab", max_size=6), max_size=8), st.integers(0, 30))
def test_the_newest_words_are_kept_whole_where_they_fit(texts: list[str], room: int) -> None:
    kept = newest_that_fit(texts, len, room)
    assert sum(map(len, kept)) <= room
    rest = iter(texts)
    assert all(text in rest for text in kept)  # in order
    if texts and len(texts[-1]) <= room:
        assert kept[-1] == texts[-1]


def test_a_summary_stands_in_for_all_that_is_gone_with_the_users_own_words() -> None:
    """The model is asked within the conversation that it has read; a grammar or a stop text of the
    chat does not bind the summary; what was summarised before is summarised with the rest."""
    now = situation(*"abcdefgh", n_ctx=1600, think="off")
    now.running.sampling = Sampling(grammar="root ::= [0-9]", stop=("\n",))  # type: ignore[misc]
    path = now.view.messages
    cut = View(path[:4], path[4:])
    asked = now.asked_for_summary(cut)
    assert [m.content for m in asked[:-1]] == ["sys", "a", "b", "c", "d"]
    assert asked[-1].role == "user"
    sampling = now.sampling_of_summary()
    assert (sampling.grammar, sampling.stop, sampling.max_tokens) == ("", (), 200)
    done = now.summarised(cut, " They said letters.\n")
    assert done.stands_in == standing_in(["a", "c"], "They said letters.")
    assert "> a\n\n> c\n\n" in done.stands_in
    later = replace(now, view=done)
    again = later.asked_for_summary(View(path[:6], path[6:], done.stands_in))
    assert [m.content for m in again[1:-1]] == [f"{done.stands_in}\n\ne", "f"]
    assert prompt_of(None, done)[0].content.endswith("\n\ne")


def test_what_a_cache_cannot_go_back_to_is_summarised_where_it_is() -> None:
    """All that was read is given, so that nothing of it is read again, and the wish says up to
    where; the last question, which waits, was not read. Where that has no room for a summary, what
    is going is."""
    now = situation(*"abcdefg", n_ctx=1600)
    path = now.view.messages
    cut = View(path[:4], path[4:])
    running = now.running
    assert isinstance(running, FakeRunning)
    assert [m.content for m in now.asked_for_summary(cut)[1:-1]] == [*"abcd"]
    running.goes_back = False
    asked = now.asked_for_summary(cut)
    assert [m.content for m in asked[1:-1]] == [*"abcdef"]
    assert "up to my message that begins with “e”" in asked[-1].content
    running.settings = Settings(n_ctx=400)
    assert [m.content for m in now.asked_for_summary(cut)[1:-1]] == [*"abcd"]
    assert [m.content for m in now.asked_for_summary(View(path[:6], path[6:]))[1:-1]] == [*"abcdef"]


@pytest.mark.parametrize(
    ("levels", "now", "then"),
    [((), "", ""), (("off", "on"), "on", "off"), (("low", "high"), "medium", "medium"),
     (("low", "high"), "high", "low")],
)  # fmt: skip
def test_a_summary_is_not_thought_about_where_that_spares_reading(
    levels: tuple[str, ...], now: str, then: str
) -> None:
    of = situation(*"abcdefgh", n_ctx=1600, think=now)
    running = of.running
    assert isinstance(running, FakeRunning)
    running.think_levels = levels
    path = of.view.messages
    Summary(of, View(path[:4], path[4:])).generation.run()
    assert running.thinks == [then]


# ---------------------------------------------------------------- a larger context


def test_a_larger_context_is_the_planners_and_says_what_it_costs() -> None:
    where = machine(replace(gpu(8), source="measured"))
    explorer = explorer_of(giant(LLAMA_8B), where, n_ctx=8192)
    larger = explorer.larger()
    assert larger is not None
    assert larger.settings.n_ctx == 12_288
    assert larger.fits
    assert "12,288 tokens of context" in explorer.difference(larger)
    needed = explorer.larger(20_000)
    assert needed is not None
    assert needed.settings.n_ctx == 24_576
    assert explorer.larger(10 << 20) is None  # more than the model has


# ---------------------------------------------------------------- in the chat


async def context_screen(pilot: Pilot[None]) -> ContextScreen:
    """The ways to room, once all is known of them."""
    await pilot.press("f7")
    await until(pilot, lambda: isinstance(pilot.app.screen, ContextScreen))
    screen = pilot.app.screen
    assert isinstance(screen, ContextScreen)
    await until(pilot, lambda: len(screen._found) == len(Way) and "…" not in shown(pilot))
    return screen


async def test_a_word_at_80_percent_that_can_be_put_off(store: Conversations) -> None:
    """It is gone with Esc until the context has grown by a tenth; a letter that is typed while it
    stands there is written. An answer that the context cuts short says so and what can be done."""
    reasons = ["end", "end", "end", "context_full"]
    running = Small([["a" * 70], ["b" * 3], ["c" * 3], ["d"]], reasons=reasons)
    app = make_app(running, store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "q" * 10)
        assert not shows(pilot, " are left")
        await ask(pilot, "q" * 2)
        await until(
            pilot,
            lambda: shows(pilot, "! 83 of 100 tokens: 17 are left · F7 makes room · Esc later"),
        )
        await pilot.press("g", "d")
        assert screen.query_one(Prompt).text == "gd"
        await pilot.press("escape")
        await until(pilot, lambda: not shows(pilot, " are left"))
        screen.query_one(Prompt).text = ""
        await ask(pilot, "q")
        assert not shows(pilot, " are left")  # 87 of them
        await ask(pilot, "q" * 4)
        await until(pilot, lambda: shows(pilot, "the answer stopped · F7 makes room and goes on"))
        assert shows(pilot, "cut short: the context is full")
        await pilot.press("escape")
        await until(pilot, lambda: not shows(pilot, "the answer stopped"))


async def test_the_oldest_turns_are_let_go_and_come_back(store: Conversations) -> None:
    """A question that does not fit is taken back and no part of the conversation; what would have
    to go for it is named, and faded while it stands there. Once the oldest turns are let go, it is
    sent; they stay, are marked so, and come back."""
    running = Small([["first answer " * 4], ["second"], ["third"]])
    app = make_app(running, store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "one")
        await ask(pilot, "two")
        screen.query_one(Prompt).text = "three " * 6
        await pilot.press("enter")
        await until(pilot, lambda: shows(pilot, "with this, 1 too many (the oldest turn, “one”,"))
        assert [e.faded for e in screen._transcript.entries] == [True, True, False, False]
        screen.query_one(Prompt).text = "thr"
        await until(pilot, lambda: not any(e.faded for e in screen._transcript.entries))
        screen.query_one(Prompt).text = "three " * 6
        await pilot.press("enter")
        await until(pilot, lambda: shows(pilot, "makes room and sends it"))
        assert [m.content for m in screen.chat.path if m.role == "user"] == ["one", "two"]
        assert screen.query_one(Prompt).text == "three " * 6
        await context_screen(pilot)
        assert shows(pilot, "100 of 100 tokens of context, with what is written")
        assert shows(pilot, "d  Let the oldest turns go: 2 messages, 45 tokens stay")
        await pilot.press("d")
        await until(pilot, lambda: shows(pilot, "third"))
        assert seen(running) == ["two", "second", "three " * 6]
        assert running.moves[-2:] == ["", "may move"]  # nothing that stays is read again
        assert shows(pilot, "up to here out of the model's view")
        assert [e.faded for e in screen._transcript._page.entries if e.message] == [True] * 2 + [
            False
        ] * 4
        await context_screen(pilot)
        await pilot.press("u")
        await until(pilot, lambda: shows(pilot, "The model sees 2 messages again."))
        assert not any(e.faded for e in screen._transcript._page.entries)
        app._recorder.save(screen.chat.record()).result()
        kept = store.shown(screen.chat.conversation.id)
        assert [m.content for m in kept][::2] == ["one", "two", "three " * 6]
        assert all(m.let_go is None for m in kept)
        screen.rewrite(kept[0])  # what followed it is out of the way
        screen.query_one(Prompt).text = "four " * 10
        await pilot.press("enter")
        await until(pilot, lambda: running.prompts[-1][0].content == "four " * 10)


async def test_a_question_that_was_sent_before_the_model_was_there_comes_back(
    store: Conversations,
) -> None:
    """It could not be counted; it is no part of the conversation, stands before what is written
    meanwhile, and goes on its own with what is sent next. One that had an answer keeps that."""
    running = Small([["An answer."], ["a" * 80]])
    launcher = FakeLauncher(running, hold=threading.Event())
    app = make_app(launcher, store)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: isinstance(app.screen, ChatScreen) and app.screen.focused)
        screen = app.screen
        assert isinstance(screen, ChatScreen)
        await ask(pilot, "long " * 30, wait=False)
        await until(pilot, lambda: len(screen.chat.path) == 1)
        screen.query_one(Prompt).text = "more"
        assert launcher.hold is not None
        launcher.hold.set()
        await until(pilot, lambda: shows(pilot, "F7 makes room and sends it"))
        assert screen.chat.path == []
        assert screen.query_one(Prompt).text == "long " * 30 + "\n\nmore"
        screen.query_one(Prompt).text = ""
        await until(pilot, lambda: not shows(pilot, "F7 makes room"))
        await ask(pilot, "short")
        assert seen(running) == ["short"]
        running.settings = Settings(n_ctx=5)
        await pilot.press("alt+r")
        await until(pilot, lambda: is_idle(screen) and shows(pilot, "An answer."))
        assert [m.content for m in screen.chat.path] == ["short", "An answer."]


async def test_a_summary_is_written_and_can_be_stopped(store: Conversations) -> None:
    never = threading.Event()
    running = Small(
        [["first answer " * 25], ["second " * 20], ["Half a", never], ["They ", "talked."]],
        settings=Settings(n_ctx=1000),
    )
    app = make_app(running, store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "one")
        await ask(pilot, "two")
        await context_screen(pilot)
        await pilot.press("s")
        await until(pilot, lambda: shows(pilot, "summarising 2 messages · 1 token"))
        await pilot.press("escape")
        await until(pilot, lambda: is_idle(screen))
        assert not screen.chat.view.gone
        await context_screen(pilot)
        await pilot.press("s")
        await until(pilot, lambda: shows(pilot, "▸ a summary stands in for what is above"))
        assert "> one" in screen.chat.view.stands_in
        await pilot.press("ctrl+t")
        await until(pilot, lambda: shows(pilot, "> one", "They talked."))
        assert "They talked." in screen.chat.view.stands_in
        await ask(pilot, "three")
        assert seen(running)[0] == f"{screen.chat.view.stands_in}\n\ntwo"
        assert running.moves == ["", "", "returns", "returns", "may move"]


async def test_a_larger_context_is_loaded_and_the_answer_goes_on(store: Conversations) -> None:
    """The context fills while an answer is written: with `--when-full grow` the planner's larger
    one is looked for without asking, which can be stopped; it is loaded, what later launches
    load stays as it was chosen, and the answer goes on where it stopped."""
    where = machine(replace(gpu(8), source="measured"))
    planned = threading.Event()

    def explorer() -> Explorer:
        assert planned.wait(20)
        return explorer_of(giant(LLAMA_8B), where, n_ctx=8192)

    running = Small([["Half a "], ["sentence."]], reasons=["context_full"], make_explorer=explorer)
    app = make_app(running, store, when_full=Way.GROW)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "one", wait=False)
        await until(pilot, lambda: shows(pilot, "planning a larger context"))
        await pilot.press("escape")
        await until(pilot, lambda: not shows(pilot, "planning a larger context"))
        planned.set()
        assert shows(pilot, "the answer stopped · F7 makes room and goes on")
        await context_screen(pilot)
        assert shows(pilot, "g  A larger context: 12,288 tokens of context")
        await pilot.press("g")
        await until(pilot, lambda: shows(pilot, "Half a sentence."))
        await until(pilot, lambda: is_idle(screen))
        assert [(s.n_ctx, keep) for s, keep in running.changes] == [(12_288, None)]
        assert [m.content for m in screen.chat.path] == ["one", "Half a sentence."]
        assert seen(running) == ["one", "Half a "]
        assert not shows(pilot, "!")


@pytest.mark.parametrize("way", [Way.DROP, Way.SUMMARISE])
async def test_room_is_made_without_asking_and_never_in_silence(
    store: Conversations, way: Way
) -> None:
    """A question that does not fit is sent once there is room; what was done is said. One that can
    fit in no way stays in the composer."""
    summary = [["They talked."]] if way is Way.SUMMARISE else []
    running = Small([["a" * 700], *summary, ["third"]], settings=Settings(n_ctx=1200))
    app = make_app(running, store, when_full=way)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "one")
        await ask(pilot, "three " * 90)
        await until(pilot, lambda: shows(pilot, "third"))
        said = "are summarised" if way is Way.SUMMARISE else "are out of the model's view"
        assert screen.chat.view.gone
        assert [m.content for m in screen.chat.path][::2] == ["one", "three " * 90]
        await until(pilot, lambda: shows(pilot, f"The oldest 2 messages {said}"))
        screen.query_one(Prompt).text = "x" * 1300
        await pilot.press("enter")
        await until(pilot, lambda: shows(pilot, "too long by itself for this context"))
        assert screen.query_one(Prompt).text == "x" * 1300
        assert len(screen.chat.path) == 4
