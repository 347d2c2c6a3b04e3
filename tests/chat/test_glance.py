"""What one sees at a glance: the lines around the composer, the figures below an answer, the plots
of the session; and that all of it stands at every size."""

from __future__ import annotations

import re
import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
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
from tui.answering.conversation import measured
from tui.answering.session import MOST, Series, Session
from tui.screens import details
from tui.storage import Conversations, StoredMessage
from tui.widgets import StatusLine
from tui.widgets.plots import columns
from tuner.engine.protocol import Done, PromptProgress, Text
from tuner.machine.nvidia import Reading
from tuner.machine.vitals import Vitals
from tuner.units import GIB

TALL = 24  # rows, from which on the whole answer is in view
SIZES = ((60, 16), (80, 24), (120, 40), (200, 50))
HOT = Vitals({"GPU0": Reading(18 * GIB, 24 * GIB, 64, 213.4)}, (9 * GIB, 64 * GIB))

ANSWER = """Sunlight holds all colours.

| colour | wavelength |
|:-------|-----------:|
| violet |     380 nm |
| red    |     740 nm |

```python
def rayleigh(wavelength: float) -> float:
    return 1 / wavelength**4
```

That is why."""


def status_text(pilot: Pilot[None]) -> str:
    return str(pilot.app.screen.query_one(StatusLine).render())


async def test_what_is_seen_while_an_answer_comes_and_after_it(
    store: Conversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gauge moves with the cache, the speed and the first word stand beside what is done; below
    the last answer, and the one that the cursor is on, are its figures; F9 plots the session."""
    monkeypatch.setattr("tui.answering.figures.LEAST_SECONDS", 1e-9)
    monkeypatch.setattr(details, "REFRESH_SECONDS", 0.02)
    half, rest = threading.Event(), threading.Event()
    reading = [PromptProgress(0, 1000, 200), PromptProgress(500, 1000, 200)]
    script = [*reading, half, PromptProgress(1000, 1000, 200), Text("One ", 100), rest, "two."]
    running = FakeRunning([script, ["Second."]], now=HOT, expects=1000.0)
    app = make_app(running, store)
    async with app.run_test(size=(160, 40)) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Go", wait=False)
        await until(pilot, lambda: "700 of 4k, 700 MiB of 4.0 GiB" in status_text(pilot))
        assert shows(pilot, "reading 500 of 1,000 tokens ██████░░░░░░")
        half.set()
        await until(pilot, lambda: "1.3k of 4k" in status_text(pilot))
        await until(pilot, lambda: re.search(r"writing · 100 tokens · .* first word", shown(pilot)))
        rest.set()
        await until(pilot, lambda: is_idle(screen))
        footer = "101 tokens · 50 t/s · first word"
        await until(pilot, lambda: shows(pilot, footer, "read 2 new of 2"))
        assert "! slower than predicted" in status_text(pilot)
        (answer,) = [m for m in screen.chat.path if m.role == "assistant"]
        assert (answer.n_reused, answer.prompt_seconds) == (0, 0.1)
        await ask(pilot, "More")
        await until(pilot, lambda: shows(pilot, "1 token · 50 t/s") and not shows(pilot, footer))
        await pilot.press("ctrl+up", "K", "K")
        await until(pilot, lambda: shows(pilot, footer, "1 token · 50 t/s"))
        await pilot.press("escape")
        await until(pilot, lambda: not shows(pilot, footer))
        running.now = replace(HOT, spilled=True)
        screen._measure()
        await until(pilot, lambda: "! spilling" in status_text(pilot))
        await pilot.press("f9")
        await until(pilot, lambda: shows(pilot, "50 t/s, the last of 2", "18.0 of 24.0 GiB"))
        assert shows(pilot, "GPU0 64 °C 213 W", "9.0 of 64.0 GiB", "█")
        assert shows(pilot, "last turn: reused 0 of 14 tokens; 14 new")
        await pilot.resize_terminal(60, 16)
        await until(pilot, lambda: shows(pilot, "answers", "reading", "context"))
        await pilot.press("f9")
        await until(pilot, lambda: app.screen is screen)
        app._recorder.save(screen.chat.record()).result()
    kept = store.messages(store.list()[0].id)[1]
    assert (kept.n_reused, kept.prompt_seconds) == (0, 0.1)
    assert kept.first_seconds is not None


async def test_all_of_it_stands_at_every_size(store: Conversations) -> None:
    """A table, a fence, a thought, versions, figures and a notice, at four sizes: what is most
    important is there, nothing wraps within a number, and no line is longer than the screen."""
    think = [Text("Hm, scattering.", 3, thought=True)]
    running = FakeRunning([[*think, "No."], [*think, ANSWER]], now=HOT)
    app = make_app(running, store)
    async with app.run_test(size=SIZES[-1]) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Why is the sky blue?")
        await pilot.press("alt+r")
        await until(pilot, lambda: is_idle(screen) and shows(pilot, "‹ 2/2 ›"))
        screen._measure()
        await until(pilot, lambda: "VRAM" in status_text(pilot))
        await screen._transcript.notice("Something to know.", "warning")
        for width, height in reversed(SIZES):
            await pilot.resize_terminal(width, height)
            await until(pilot, lambda: app.size == (width, height))  # noqa: B023
            await pilot.pause()
            await pilot.press("ctrl+end")
            await until(pilot, lambda: shows(pilot, "! Something to know."))
            flat = " ".join(shown(pilot).split())  # a footer may take two rows
            for part in ("‹ 2/2 ›", "50 t/s", "read 20 new of 20"):
                assert part in flat, (width, part)
            for part in ("Tiny Llama", "of 4k", "50 t/s"):
                assert part in status_text(pilot), (width, part)
            await pilot.press("ctrl+home")
            await until(pilot, lambda: shows(pilot, "▌ Why is the sky blue?", "▸ thought"))
            assert all(len(line) <= width for line in shown(pilot).splitlines())
            if height >= TALL:
                assert shows(pilot, "380 nm", "740 nm", "python", "return 1 / wavelength**4")


def test_a_prompt_that_was_stopped_tells_no_pace() -> None:
    """Nobody knows how much of it was read in its time."""
    session, before = Session(), StoredMessage("a", None, "assistant", "", 1.0)
    for done in (Done("stopped", 9000, 0, 0, 1.0, 0.0, 512), Done("end", 900, 0, 9, 3.0, 1.0, 909)):
        session.answered(measured(before, done, before), done)
    assert list(session.reads) == [300]


@given(st.lists(st.integers(0, 1000), max_size=4 * MOST))
def test_a_series_is_bounded_and_keeps_its_peak(values: list[int]) -> None:
    """However long it goes on; the newest value is in the last of what is kept."""
    series = Series(most=16)
    for value in values:
        series.add(value)
    kept = series.values
    assert len(kept) <= 16
    assert max(kept, default=None) == max(values, default=None)
    if values:
        assert kept[-1] >= values[-1]


@given(st.lists(st.floats(0, 100), max_size=200), st.integers(1, 80), st.integers(1, 8))
def test_columns_are_as_many_as_there_is_room_for(
    values: list[float], width: int, height: int
) -> None:
    """As many rows as asked for, all alike in length; what is nothing has no mark, and all else
    has one."""
    rows = columns(values, 100.0, width, height)
    assert len(rows) == height
    assert {len(row) for row in rows} == {min(len(values), len(rows[0]))}
    assert len(rows[0]) <= width
    if len(values) <= width:
        marked = [column != " " for column in rows[-1]]
        assert marked == [value > 0 for value in values]
