"""Leaving always ends, within a second or two, with the terminal as it was and no process left."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

if sys.platform == "win32":
    pytest.skip("terminals and signals of POSIX", allow_module_level=True)

from tests.support.terminal import Terminal, kvchat
from tuner.errors import ExitCode

CTRL_C, CTRL_Q = "\x03", "\x11"
LONG: dict[str, Any] = {"text": "word " * 2000, "delay": 0.02}
WAYS: dict[str, Any] = {
    "Ctrl+C twice": CTRL_C, "Ctrl+Q": CTRL_Q, "SIGTERM": signal.SIGTERM,
    "SIGHUP": signal.SIGHUP, "SIGINT": signal.SIGINT,
}  # fmt: skip


def leave(chat: Terminal, way: str) -> None:
    act = WAYS[way]
    if isinstance(act, signal.Signals):
        chat.process.send_signal(act)
        return
    chat.press(act)
    if "twice" in way:
        time.sleep(0.3)
        chat.press(act)


def loading(chat: Terminal) -> None:
    """A load that is under way, its process stopped."""
    chat.until(lambda: "loadingthemodel" in chat.shown)
    chat.worker.suspend()


def answering(chat: Terminal) -> None:
    """An answer that is being written, its process stopped."""
    chat.until(lambda: "Writeamessage" in chat.shown)
    chat.press("Hello\r")
    chat.until(lambda: "wordword" in chat.shown)
    chat.worker.suspend()


@pytest.mark.parametrize("way", WAYS)
def test_a_load_that_hangs_can_be_left(way: str, tiny_model: Path) -> None:
    with kvchat(str(tiny_model), load_seconds=20) as chat:
        loading(chat)
        leave(chat, way)
        assert chat.ends(3.0) == ExitCode.INTERRUPTED


@pytest.mark.parametrize("way", ["Ctrl+Q", "Ctrl+C twice", "SIGTERM", "SIGHUP"])
def test_an_answer_that_hangs_can_be_left(way: str, tiny_model: Path) -> None:
    with kvchat(str(tiny_model), **LONG) as chat:
        answering(chat)
        leave(chat, way)
        if way == "Ctrl+C twice":  # stops the answer: its process is ended; then twice to quit
            chat.until(lambda: "wasended" in chat.shown)
            leave(chat, way)
        chat.ends(3.5)


def test_a_hang_is_mourned_and_the_model_loaded_again(tiny_model: Path) -> None:
    """Nobody does anything: the chat says what happened, the model comes back, and Ctrl+Q ends as
    always."""
    with kvchat(str(tiny_model), **LONG) as chat:
        answering(chat)
        chat.until(lambda: "didnotanswerfor1.5secondsandwasended" in chat.shown, 10)
        chat.until(lambda: "loadedagain" in chat.shown)
        chat.press(CTRL_Q)
        assert chat.ends(4) == ExitCode.OK


def test_a_thread_that_hangs_does_not_keep_the_program(tiny_model: Path) -> None:
    """What measures the machine may wait for a driver for ever."""
    before = (
        "import time\nfrom tuner import tuning\n"
        "tuning.measure.measure = lambda *a, **k: time.sleep(600)"
    )
    with kvchat(str(tiny_model), before=before) as chat:
        chat.until(lambda: "measuring" in chat.shown)
        leave(chat, "Ctrl+C twice")
        assert chat.ends(5) == ExitCode.INTERRUPTED


def test_a_screen_that_hangs_ends_by_signal(tiny_model: Path) -> None:
    """The thread of the screen is busy for ever: the terminal is given back all the same."""
    before = (
        "import time\nfrom tui.screens.chat import ChatScreen\n"
        "def hang(self):\n    while True: time.sleep(0.01)\n"
        "ChatScreen.action_report = hang"
    )
    with kvchat(str(tiny_model), before=before) as chat:
        chat.until(lambda: "Writeamessage" in chat.shown)
        chat.press("\x1bOQ")  # F2
        chat.read(0.5)
        chat.process.send_signal(signal.SIGTERM)
        assert chat.ends(4) == ExitCode.INTERRUPTED


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("when", ["load", "answer"])
def test_the_first_interrupt_ends_one_shot(name: str, when: str, tiny_model: Path) -> None:
    """Whether the process answers or hangs."""
    script: dict[str, Any] = {"load_seconds": 20} if when == "load" else LONG
    with kvchat(str(tiny_model), "-p", "Hello", **script) as chat:
        if when == "load":
            chat.until(lambda: "loadingthemodel" in chat.shown)
        else:
            chat.until(lambda: "wordword" in chat.shown)
        chat.worker.suspend()
        chat.process.send_signal(getattr(signal, name))
        assert chat.ends(1.5) == ExitCode.INTERRUPTED


@pytest.mark.parametrize(
    ("flag", "stage"), [("--bench", "timingthechoice"), ("--measure", "measuring")]
)
def test_an_interrupt_ends_a_measurement(flag: str, stage: str, tiny_model: Path) -> None:
    """Also where the process hangs."""
    with kvchat(str(tiny_model), flag, measure_seconds=20) as chat:
        chat.until(lambda: stage in chat.shown)
        chat.worker.suspend()
        chat.process.send_signal(signal.SIGINT)
        assert chat.ends(1.5) == ExitCode.INTERRUPTED


def test_one_shot_notices_a_hang(tiny_model: Path) -> None:
    with kvchat(str(tiny_model), "-p", "Hello", **LONG) as chat:
        chat.until(lambda: "wordword" in chat.shown)
        chat.worker.suspend()
        assert chat.ends(5) == ExitCode.ENGINE
        assert "didnotanswerfor1.5secondsandwasended" in chat.shown
