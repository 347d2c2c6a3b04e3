"""One question under two settings: what they are, where the answers differ, and the screen."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.pilot import Pilot
from textual.widgets import Input

from tests.support.chat_fakes import FakeRunning, ask, chat_screen, make_app, shown, shows, until
from tui.answering.comparing import EXAMPLE, Setting, path_to_question, setting_of
from tui.answering.differing import MOST_WORDS, Spans, differences
from tui.screens.compare import CompareScreen
from tui.storage import Conversations, StoredMessage
from tuner.engine.protocol import Sampling
from tuner.errors import EngineError, UsageError
from tuner.memory.cache_types import CACHE_TYPES
from tuner.settings import Settings

USUAL = Setting(Sampling(seed=7), "Be kind.", "q8_0", "f16")


# ---------------------------------------------------------------- settings in words


def test_a_setting_is_said_in_words() -> None:
    sampling = replace(USUAL.sampling, temperature=1.2, top_p=0.9)
    hot = replace(USUAL, sampling=replace(USUAL.sampling, temperature=2.0))
    assert setting_of(EXAMPLE, USUAL) == Setting(sampling, "Be brief.", "q8_0", "q4_0")
    assert setting_of("", USUAL) == USUAL
    assert setting_of(f"{hot.words}, temp 1.2, kv q4_0, top-p 0.9, kv q8_0/q4_0", USUAL) == replace(
        USUAL, sampling=sampling, type_v="q4_0"
    )
    assert setting_of("kv=Q4_0", USUAL) == replace(USUAL, type_k="q4_0", type_v="q4_0")
    assert setting_of("kv q8_0/f16, temp 2", USUAL) == hot
    said = "Say kv 1, and system: too."
    assert setting_of(f"System:{said}", USUAL) == replace(USUAL, system_prompt=said)
    assert setting_of("system:", USUAL) == replace(USUAL, system_prompt=None)


TYPES = st.sampled_from(tuple(CACHE_TYPES))


@given(TYPES, TYPES, st.integers(0, 200), st.integers(0, 100))
def test_its_words_say_it_again(k: str, v: str, temperature: int, top_p: int) -> None:
    sampling = replace(USUAL.sampling, temperature=temperature / 100, top_p=top_p / 100)
    setting = replace(USUAL, sampling=sampling, type_k=k, type_v=v)
    assert setting_of(setting.words, USUAL) == setting


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("warm", "Say it as"),
        ("kv q9", "'q9' is not a cache type; kv takes one of f32, f16"),
        ("kv q8_0/q8_0/f16", "one for K and one for V"),
        ("temperature 101", "from 0 to 100"),
        ("system Be brief", "Say it as"),
    ],
)
def test_what_makes_no_sense_is_told(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        setting_of(text, USUAL)


def test_the_question_is_the_last_or_that_of_a_message() -> None:
    roles = ("user", "assistant", "user", "assistant", "assistant")
    path = [StoredMessage(f"{n}", None, role, "", n) for n, role in enumerate(roles)]
    assert [m.id for m in path_to_question(path)] == ["0", "1", "2"]
    assert [m.id for m in path_to_question(path, path[1])] == ["0"]
    assert [m.id for m in path_to_question(path, path[2])] == ["0", "1", "2"]
    assert path_to_question(path[1:2]) == ()


# ---------------------------------------------------------------- where two answers differ

LINES = st.lists(
    st.lists(st.sampled_from(("a", "b", "c.", "dé", "漢字", "-")), max_size=8).map(" ".join),
    max_size=6,
)


def without(lines: list[str], spans: Spans) -> list[str]:
    """The words that no span covers, signs and ideographs each by itself."""
    left = []
    for n, line in enumerate(lines):
        kept = list(line)
        for start, end in spans.get(n, ()):
            assert line[start:end].strip() == line[start:end] != ""
            kept[start:end] = " " * (end - start)
        left += "".join(kept).replace(".", " . ").replace("漢", " 漢 ").split()
    return left


def words(lines: list[str]) -> list[str]:
    """All of them, without signs."""
    return [word for word in without(lines, {}) if word.isalnum()]


@given(LINES, LINES)
def test_without_what_is_marked_two_texts_are_the_same(left: list[str], right: list[str]) -> None:
    found = differences(left, right)
    kept = without(left, found.left)
    assert kept == without(right, found.right)
    n = len(without(left, {})) + len(without(right, {}))
    assert found.whole
    assert found.share == (2 * len(kept) / n if n else 1)
    both = zip(words(left), words(right), strict=False)
    assert all(x == y for x, y in islice(both, found.n_first))
    assert not differences(left, left).left


def test_what_differs_is_marked_and_told() -> None:
    found = differences(["One red fox,", "all alone."], ["One red and blue fox,", "not alone."])
    assert found.left == {1: [(0, 3)]}
    assert found.right == {0: [(8, 16)], 1: [(0, 3)]}
    assert str(found) == "the same for 2 words · 75% in both"
    assert str(differences(["Same."], ["Same."])) == "the same, word for word"
    assert str(differences(["Yes"], ["No"])).startswith("other from the start · 0%")


def test_of_long_texts_the_beginning_is_compared() -> None:
    found = differences(["a " * (MOST_WORDS + 1)], ["a " * MOST_WORDS + "b"])
    assert (found.left, found.whole) == ({}, False)
    assert str(found).endswith("100% of the first 4,000 words in both")


# ---------------------------------------------------------------- the screen


def says(pilot: Pilot[None], text: str) -> None:
    """Writes a setting where the cursor is."""
    field = pilot.app.screen.focused
    assert isinstance(field, Input)
    field.value = text


async def test_two_answers_side_by_side_and_one_is_kept(store: Conversations) -> None:
    """A trial leaves no trace but for what is kept, which is a version with its own settings."""
    hold = threading.Event()
    running = FakeRunning([["Red."], ["The sky ", hold, "is blue."], ["The sea is blue."]])
    app = make_app(running, store, sampling=Sampling(seed=3), system_prompt="Be kind.")
    async with app.run_test(size=(120, 24)) as pilot:
        screen = await chat_screen(pilot)
        await pilot.press("f10")
        await until(pilot, lambda: shows(pilot, "nothing was asked yet"))
        await ask(pilot, "Which?")
        await pilot.press("f10")
        await until(pilot, lambda: isinstance(app.screen, CompareScreen))
        assert shows(pilot, "temperature 0.7, top-p 0.95, kv q8_0/f16")
        says(pilot, "warm 1")
        await pilot.press("enter")
        await until(pilot, lambda: shows(pilot, "right: 'warm' is none of"))
        says(pilot, "temp 1.5, system: Be brief.")
        await pilot.press("enter")
        await until(pilot, lambda: shows(pilot, "The sky"))
        await pilot.press("enter", "alt+left")
        await until(pilot, lambda: shows(pilot, "it is still being written"))
        hold.set()
        await until(pilot, lambda: shows(pilot, "the same for 1 word · 80% in both"))
        assert shows(pilot, "The sky is blue.", "The sea is blue.")
        assert shown(pilot).count("2 tokens · 50 t/s · first word") == 1
        assert shown(pilot).count("1 token · 50 t/s · first word") == 1
        underlined = [
            segment.text
            for strip in app.screen._compositor.render_strips()
            for segment in strip
            if segment.style and segment.style.underline and segment.text.strip()
        ]
        assert {"sky", "sea"} <= set(underlined)
        assert [m.content for m in screen.chat.path] == ["Which?", "Red."]
        await pilot.press("alt+right")
        await until(pilot, lambda: shows(pilot, "kept in the conversation ‹ 2/2 ›"))
        await pilot.press("alt+right")  # it is there already
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen and shows(pilot, "The sea", "‹ 2/2 ›"))
        app._recorder.save(screen.chat.record()).result()
    prompts = [[(m.role, m.content) for m in prompt] for prompt in running.prompts]
    assert prompts[1] == [("system", "Be kind."), ("user", "Which?")]
    assert prompts[2] == [("system", "Be brief."), ("user", "Which?")]
    assert [s.temperature for s in running.samplings] == [0.7, 0.7, 1.5]
    assert [s.seed for s in running.samplings] == [3, 3, 3]
    (kept,) = store.list()
    assert [m.content for m in store.shown(kept.id)] == ["Which?", "The sea is blue."]
    assert len(store.messages(kept.id)) == 3
    stated = json.loads(store.shown(kept.id)[-1].settings or "")
    assert stated["system_prompt"] == "Be brief."
    assert stated["sampling"]["temperature"] == 1.5


async def test_another_cache_is_loaded_and_taken_back(store: Conversations) -> None:
    """Without a word in the profile; what is cancelled is told, and who leaves on the way back
    finds it in the chat, where its cancelling leaves no compared types in place."""
    before = Settings(n_ctx=4096, type_k="q8_0")
    other = replace(before, type_k="q4_0", type_v="q4_0")
    gate = threading.Event()
    said: list[list[Any]] = [
        ["Red."],
        ["Left."],
        ["Right."],
        ["Left."],
        ["Left."],
        [gate, "Right."],
    ]
    running = FakeRunning(said, settings=before)
    app = make_app(running, store)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Which?")
        await pilot.press("ctrl+up", "x")
        await until(pilot, lambda: isinstance(app.screen, CompareScreen))
        says(pilot, "kv q4_0")
        await pilot.press("enter")
        await until(pilot, lambda: shows(pilot, "Left.", "Right.", "other from the start"))
        assert running.tried == [(other, before), (before, None)]
        running.change_hold = threading.Event()  # and it never comes
        await pilot.press("enter")
        await until(pilot, lambda: shows(pilot, "loading the model 25%", "Esc cancels"))
        assert not screen._loads.ready
        await pilot.press("escape")
        await until(pilot, lambda: shows(pilot, "It was cancelled. The model is loaded again as"))
        assert app.screen is not screen
        assert running.tried[2:] == [(other, before)]
        assert running.settings == before
        running.change_hold = None
        await pilot.press("enter")
        await until(pilot, lambda: len(running.prompts) == 6)
        running.change_hold = threading.Event()
        gate.set()
        await until(pilot, lambda: running.tried[3:] == [(other, before), (before, None)])
        await until(pilot, lambda: shows(pilot, "loading the model 25%"))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen and shows(pilot, "loading the model"))
        assert shows(pilot, "y copy")  # the keys of the message that it came from
        await pilot.press("escape", "escape")  # to the composer, and the load
        await until(pilot, lambda: shows(pilot, "The load was cancelled.", "F5 tries again"))
        assert not screen._loads.ready
        await pilot.press("f5")  # what the launcher loads is the chat's own
        await until(pilot, lambda: screen._loads.ready)
        assert not running.changes
        await ask(pilot, "And now?")
        await until(pilot, lambda: shows(pilot, "An answer."))


async def test_a_trial_is_stopped_and_may_fail(store: Conversations) -> None:
    """Escape stops first and leaves then; where the model dies, the chat knows."""
    never = threading.Event()
    died = EngineError("crashed", "The engine crashed.")
    running = FakeRunning([["Red."], ["Half ", never], [died]])
    app = make_app(running, store)
    async with app.run_test(size=(60, 16)) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Which?")
        await pilot.press("f10", "enter")
        await until(pilot, lambda: shows(pilot, "Half"))
        await pilot.press("enter")
        await until(pilot, lambda: shows(pilot, "still answering · Esc stops it"))
        await pilot.press("escape")
        await until(pilot, lambda: shows(pilot, "stopped") and not app.screen._busy)  # type: ignore[attr-defined]
        assert len(running.prompts) == 2
        await pilot.press("enter")
        await until(pilot, lambda: shows(pilot, "The engine crashed."))
        await pilot.press("f10")
        await until(pilot, lambda: app.screen is screen)
        await until(pilot, lambda: shows(pilot, "The engine crashed.", "loaded again"))
