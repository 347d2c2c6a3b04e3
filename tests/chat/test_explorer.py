"""The fit explorer on a screen: over the chat and before a load, with the real arithmetic."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from textual.pilot import Pilot

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
from tests.support.giants import LLAMA_8B, QWEN_30B_A3B, giant, gpu, machine
from tui.app import KvchatApp
from tui.screens.chat import ChatScreen
from tui.screens.explorer import ExplorerScreen
from tui.storage import Conversations
from tui.widgets import fit
from tuner.engine.protocol import Sampling
from tuner.errors import EngineError, FileError
from tuner.machine.machine import Machine
from tuner.planning import Explorer, Solver
from tuner.settings import OnGpus, Settings
from tuner.units import seconds_text, tps_text
from tuner.wishes import Wishes

SIZE = (80, 24)
HERE = machine(replace(gpu(8), source="measured"))


def make(name: str = LLAMA_8B, where: Machine = HERE, **changes: Any) -> Explorer:
    return explorer_of(giant(name), where, **changes)


async def explorer_screen(pilot: Pilot[None]) -> ExplorerScreen:
    """The explorer, once all of it is there."""
    await until(pilot, lambda: isinstance(pilot.app.screen, ExplorerScreen))
    screen = pilot.app.screen
    assert isinstance(screen, ExplorerScreen)
    await until(pilot, lambda: "fits (computed)" in shown(pilot) and screen._own)
    return screen


@asynccontextmanager
async def over_the_chat(
    running: FakeRunning, store: Conversations, question: str = "", typed: str = ""
) -> AsyncIterator[tuple[Pilot[None], ChatScreen, ExplorerScreen]]:
    """The chat and the explorer that is open over it. `question`: is answered before that; `typed`:
    stands in the composer then."""
    async with make_app(running, store).run_test(size=SIZE) as pilot:
        chat = await chat_screen(pilot)
        if question:
            await ask(pilot, question)
        await pilot.press(*typed, "f3")
        yield pilot, chat, await explorer_screen(pilot)


@asynccontextmanager
async def before_a_load(
    launcher: FakeLauncher, store: Conversations, size: tuple[int, int] = SIZE
) -> AsyncIterator[tuple[Pilot[None], ExplorerScreen]]:
    """The explorer of `--choose`."""
    app = KvchatApp(launcher, store, Sampling(), choose=True)
    async with app.run_test(size=size) as pilot:
        yield pilot, await explorer_screen(pilot)


def settled(screen: ExplorerScreen) -> bool:
    """What is shown is the exact answer to what the dials say."""
    weighed = screen._weighed
    return bool(weighed and weighed.exact and weighed.settings == screen._settings)


async def press(pilot: Pilot[None], *keys: str) -> None:
    await pilot.press(*keys)
    screen = pilot.app.screen
    if isinstance(screen, ExplorerScreen):
        await until(pilot, lambda: settled(screen))


async def test_each_step_shows_what_the_solver_says(store: Conversations) -> None:
    """Memory, speed and whether it fits follow the dials; Esc leaves everything as it was."""
    running = FakeRunning(make_explorer=make)
    async with over_the_chat(running, store) as (pilot, chat, screen):
        start = screen._settings
        assert shows(pilot, f"◂ {start.n_ctx:,}", "K cache", "V cache", "33 of 33", "GPU0", "RAM")
        await press(pilot, "right", "down", "down", "down", "left", "left")
        assert screen._settings == replace(
            start, n_ctx=screen._settings.n_ctx, n_gpu_layers=start.n_gpu_layers - 2
        )
        assert screen._settings.n_ctx > start.n_ctx
        assert screen._weighed is not None
        solver = Solver(giant(LLAMA_8B), HERE)
        told = solver.exactly(solver.calculate(Wishes.of_settings(screen._settings)))
        assert screen._weighed.candidate.footprint == told.footprint
        taken = told.footprint.uses[0].total / (1 << 30)
        await until(pilot, lambda: shows(pilot, "31 of 33", f"{taken:.1f} of 8.0 GiB"))
        speed = told.speed
        for depth, words in ((0, "~{} t/s at first"), (8192, "{} at 8k"), (32_768, "{} at 32k")):
            assert words.format(tps_text(speed.decode_tps_at[depth])) in shown(pilot)
        turn = f"a turn  ~{seconds_text(speed.turn_seconds)} (1,500 read, 400 written)"
        assert turn in shown(pilot)
        assert f"reads    ~{tps_text(speed.prompt_tps)} t/s" in shown(pilot)
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is chat)
    assert not running.changes


async def test_what_does_not_fit_is_said_and_not_loaded(store: Conversations) -> None:
    running = FakeRunning(make_explorer=make)
    async with over_the_chat(running, store) as (pilot, _, screen):
        await press(pilot, *["right"] * 12)
        assert screen._settings.n_ctx == giant(LLAMA_8B).n_ctx_train
        await until(pilot, lambda: "does not fit: GPU0 is short by" in shown(pilot))
        await press(pilot, "enter")
        await until(pilot, lambda: "not loaded: GPU0 is short by" in shown(pilot))
        assert pilot.app.screen is screen
        await press(pilot, "r")
        assert screen._settings == screen._own
        await until(pilot, lambda: "fits (computed)" in shown(pilot))
    assert not running.changes


async def test_enter_loads_what_is_shown_and_the_chat_goes_on(store: Conversations) -> None:
    """The conversation stays, and so does what is being typed; a question that is sent meanwhile is
    answered when it is loaded."""
    running = FakeRunning([["One."], ["Two."]], make_explorer=make)
    running.change_hold = threading.Event()
    async with over_the_chat(running, store, "First?", "hm") as (pilot, screen, explorer):
        await press(pilot, "left")
        choice = explorer._settings
        await pilot.press("enter")
        await until(
            pilot, lambda: pilot.app.screen is screen and shows(pilot, "25%", "Esc cancels")
        )
        await pilot.press("enter")  # answered once it is loaded
        await until(pilot, lambda: len(screen.chat.path) == 3)
        assert shows(pilot, "One.", "hm")
        assert len(running.prompts) == 1
        running.change_hold.set()
        await until(pilot, lambda: shows(pilot, "One.", "hm", "Two."))
        assert running.changes == [(choice, True)]
    assert [m.content for m in running.prompts[1]] == ["First?", "One.", "hm"]


async def test_what_kvchat_would_choose_is_no_choice_to_keep(store: Conversations) -> None:
    """Reset and loaded, the profile's choice is taken back."""
    running = FakeRunning(make_explorer=lambda: make(n_ctx=4096))
    async with over_the_chat(running, store) as (pilot, _, screen):
        await press(pilot, "r")
        own = screen._own
        await pilot.press("enter")
        await until(pilot, lambda: running.changes)
        assert running.changes == [(own, False)]


async def test_nothing_is_loaded_again_for_nothing(store: Conversations) -> None:
    running = FakeRunning(make_explorer=make)
    async with over_the_chat(running, store) as (pilot, chat, _):
        await press(pilot, "right", "left", "enter")
        await until(pilot, lambda: pilot.app.screen is chat)
    assert not running.changes


async def test_an_answer_is_stopped_only_when_asked_twice(store: Conversations) -> None:
    """What is written of it is kept; on the next step the question is asked anew."""
    never = threading.Event()
    running = FakeRunning([["Half an ans", never]], make_explorer=make)
    app = make_app(running, store)
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Go", wait=False)
        await until(pilot, lambda: "Half an ans" in shown(pilot))
        await pilot.press("f3")
        await explorer_screen(pilot)
        await press(pilot, "left", "enter", "left", "enter")
        await until(pilot, lambda: "Enter again stops it" in shown(pilot))
        assert screen.generating
        assert not running.changes
        await pilot.press("enter")
        await until(pilot, lambda: running.changes and is_idle(screen) and app.screen is screen)
        await until(pilot, lambda: shows(pilot, "Half an ans", "stopped"))


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_change_that_comes_to_nothing_is_told(
    store: Conversations, cancelled: bool
) -> None:
    """Cancelled or out of memory: the old settings, one sentence, the conversation whole."""
    sentence = "Out of memory. The model is loaded again as it was."
    running = FakeRunning([["One."], ["Two."]], make_explorer=make)
    running.change_hold = threading.Event() if cancelled else None
    running.change_said = "" if cancelled else sentence
    before = running.settings
    async with over_the_chat(running, store, "First?") as (pilot, screen, _):
        await press(pilot, "left", "enter")
        if cancelled:
            await until(pilot, lambda: "Esc cancels" in shown(pilot))
            await pilot.press("escape")
            sentence = "It was cancelled."
        await until(pilot, lambda: sentence in shown(pilot))
        assert running.settings == before
        await ask(pilot, "Second?")
        await until(pilot, lambda: shows(pilot, "One.", "Two."))
        assert is_idle(screen)


async def test_a_plan_is_taken_over_by_enter_and_by_number(store: Conversations) -> None:
    """Into the dials, not yet into memory."""
    where = machine(replace(gpu(12), source="measured"))
    running = FakeRunning(make_explorer=lambda: make(QWEN_30B_A3B, where))
    async with over_the_chat(running, store) as (pilot, _, screen):
        await until(pilot, lambda: "kvchat's own" in shown(pilot))
        offers = {key: c.settings for key, c in screen._offers}
        assert {"r", "1", "2"} <= {*offers}
        await press(pilot, "2")
        assert screen._settings == offers["2"]
        assert len(screen._explorer.dials) == 6  # type: ignore[union-attr]
        await press(pilot, *["down"] * 7, "enter")
        assert screen._settings == offers["1"]
        assert pilot.app.screen is screen
        assert screen._row == 0
    assert not running.changes


async def test_a_gpu_is_left_out_and_loaded_without(store: Conversations) -> None:
    """Its bar goes; the choice says which GPUs are used."""
    where = machine(*(replace(gpu(8, n), source="measured") for n in range(2)))
    running = FakeRunning(make_explorer=lambda: make(where=where, n_ctx=4096))
    async with over_the_chat(running, store) as (pilot, _, screen):
        rows = [d.label for d in screen._explorer.dials]  # type: ignore[union-attr]
        await press(pilot, *["down"] * rows.index("GPUs"))
        await until(pilot, lambda: shows(pilot, "◂ all", "GPU0 ", "GPU1 "))
        await press(pilot, "left", "left")
        await until(pilot, lambda: shows(pilot, "without GPU1 ▸"))
        await until(pilot, lambda: "\n   GPU1 █" not in shown(pilot) and settled(screen))
        await press(pilot, "enter")
        await until(pilot, lambda: running.changes)
    ((settings, keep),) = running.changes
    assert isinstance(settings, OnGpus)
    assert (settings.gpus, keep) == (("GPU0",), True)


async def test_only_the_newest_step_is_weighed(store: Conversations) -> None:
    """Keys that come while one is weighed are answered once, by the last."""
    explorer = make()
    asked: list[Settings] = []
    hold = threading.Event()
    weigh = explorer.weighed

    def weighed(settings: Settings) -> Any:
        asked.append(settings)
        hold.wait(20)
        return weigh(settings)

    explorer.weighed = weighed  # type: ignore[method-assign]
    app = make_app(FakeRunning(make_explorer=lambda: explorer), store)
    async with app.run_test(size=SIZE) as pilot:
        await chat_screen(pilot)
        await pilot.press("f3")
        await until(pilot, lambda: asked)
        screen = app.screen
        assert isinstance(screen, ExplorerScreen)
        await pilot.press("left", "left", "left", "enter", "right")
        hold.set()
        await until(pilot, lambda: settled(screen))
        assert asked == [explorer.start, screen._settings]
        assert app.screen is screen  # Enter was for what was shown then


async def test_what_is_chosen_before_a_load_is_loaded(store: Conversations) -> None:
    """--choose: the explorer first, then the model with what was chosen, then the chat."""
    launcher = FakeLauncher(FakeRunning(), make_explorer=make)
    async with before_a_load(launcher, store) as (pilot, screen):
        assert launcher.chosen is None
        await press(pilot, "left")
        choice = screen._settings
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, ChatScreen))
    assert launcher.chosen == (choice, True)


async def test_after_a_load_that_failed_one_chooses_again(store: Conversations) -> None:
    error = EngineError("out_of_memory", "There was not enough memory.")
    launcher = FakeLauncher(FakeRunning(), error=error, make_explorer=make)
    async with before_a_load(launcher, store) as (pilot, _):
        await press(pilot, "left", "enter")
        await until(pilot, lambda: shows(pilot, "There was not enough memory.", "F3 chooses"))
        await pilot.press("f3")
        await explorer_screen(pilot)
        launcher.error = None
        await press(pilot, "enter")
        await chat_screen(pilot)
    assert isinstance(pilot.app, KvchatApp)
    assert pilot.app.error is None


@pytest.mark.parametrize("key", ["escape", "q", "f3", "ctrl+c"])
async def test_leaving_before_a_load_loads_nothing(store: Conversations, key: str) -> None:
    launcher = FakeLauncher(FakeRunning(), make_explorer=make)
    async with before_a_load(launcher, store) as (pilot, _):
        await pilot.press(key)
        await until(pilot, lambda: pilot.app.return_code is not None)
    assert launcher.chosen is None
    assert isinstance(pilot.app, KvchatApp)
    assert (pilot.app.return_code, pilot.app.error) == (0, None)


async def test_gpus_that_are_only_described_are_not_loaded_to(store: Conversations) -> None:
    launcher = FakeLauncher(FakeRunning(), make_explorer=lambda: make(where=machine(gpu(24))))
    async with before_a_load(launcher, store) as (pilot, _):
        await press(pilot, "enter")
        await until(pilot, lambda: "not loaded: such GPUs are only described" in shown(pilot))
        assert isinstance(pilot.app.screen, ExplorerScreen)
    assert launcher.chosen is None


async def test_a_file_that_cannot_be_explored_says_why(store: Conversations) -> None:
    """And leaving has its exit status."""

    def failing() -> Explorer:
        raise FileError("truncated", "/models/tiny.gguf", "tiny.gguf is incomplete.")

    app = KvchatApp(
        FakeLauncher(FakeRunning(), make_explorer=failing), store, Sampling(), choose=True
    )
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "tiny.gguf is incomplete." in shown(pilot))
        await pilot.press("right", "down", "enter", "r", "1")
        await pilot.press("escape")
        await until(pilot, lambda: app.return_code is not None)
    assert app.return_code == 3


@pytest.mark.parametrize("size", [(40, 12), (60, 16), (80, 24), (200, 50)])
async def test_it_stands_at_every_size(store: Conversations, size: tuple[int, int]) -> None:
    """Dials, verdict and the keys are there, and no line is wider than the screen."""
    launcher = FakeLauncher(FakeRunning(), make_explorer=make)
    async with before_a_load(launcher, store, size) as (pilot, screen):
        for text in ("context", "K cache", "V cache", "GPU layers", "batch", "Enter load"):
            assert text in shown(pilot)
        await press(pilot, *["right"] * 12)
        await until(pilot, lambda: "does not fit" in shown(pilot))
        assert all(len(line) <= size[0] for line in shown(pilot).splitlines())
        assert (screen.query_one("#fit-chart").size.height > 0) is bool(screen._reached)


# ---------------------------------------------------------------- lines


def test_a_column_is_as_high_as_its_speed() -> None:
    """In eighths of a cell, with the mark at its own height, and contexts as there is room."""
    points = [(4096, 40.0), (8192, 20.0), (16_384, 5.0)]
    rows = fit.chart(points, (8192, 30.0), 5)(24)
    drawn = ["".join(p if isinstance(p, str) else p[0] for p in row).rstrip() for row in rows]
    assert drawn == [
        "40 ┤█████",
        "   │█████ ●",
        "   │█████ █████",
        "   │█████ █████ ▄▄▄▄▄",
        "    4k    8k    16k",
    ]
    (label,) = fit.chart(points, (8192, 30.0), 5)(8)[-1]
    assert label[0] == "    4k"  # the others would be cut
    assert fit.chart(points, (8192, 30.0), 5)(5) == []
    assert fit.chart([], (8192, 30.0), 5)(24) == []


def test_what_is_beyond_a_device_has_the_colour_of_errors() -> None:
    explorer = make(n_ctx=131_072, type_k="f16", type_v="f16")
    candidate = explorer.exactly(explorer.weighed(explorer.start))
    bar, ram, *_ = fit.memory(explorer.machine, candidate)(80)
    styles = [{piece[1] for piece in row[1:]} for row in (bar, ram)]
    assert {"$error", "bold $text-error"} <= styles[0]
    assert "$error" not in styles[1]
