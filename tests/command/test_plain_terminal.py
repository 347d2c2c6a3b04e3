"""The chat in lines on a terminal: it needs no escapes, and gives back what it took."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("terminals and signals of POSIX", allow_module_level=True)

from tests.support.terminal import kvchat
from tuner.errors import ExitCode

CTRL_C, CTRL_D = "\x03", "\x04"
IMPORTED = """
import atexit, sys
atexit.register(lambda: print("drew" if "textual" in sys.modules else "drew nothing"))
"""


def test_a_dumb_terminal_gets_lines_alone(tiny_model: Path) -> None:
    """Without a flag: what is typed while the model loads is answered then, Ctrl+C stops, Ctrl+D
    leaves; no escape in any of it, and no screen was imported for it."""
    script = {"text": "word " * 2000, "delay": 0.02, "load_seconds": 1}
    with kvchat(str(tiny_model), term="dumb", before=IMPORTED, **script) as chat:
        chat.until(lambda: "loading" in chat.shown)
        chat.press("Hello\n")
        chat.until(lambda: "wordword" in chat.shown)
        chat.press(CTRL_C)
        chat.until(lambda: "stopped,andkept" in chat.shown)
        chat.press(CTRL_D)
        assert chat.ends(4) == ExitCode.OK
        assert "\x1b" not in chat.output
        assert "drewnothing" in chat.shown


def test_a_signal_gives_the_terminal_back(tiny_model: Path) -> None:
    """Also while a line is edited, for which the terminal is in another state."""
    with kvchat(str(tiny_model), "--plain") as chat:
        chat.until(lambda: "You:" in chat.shown)
        chat.press("half a li")
        chat.until(lambda: "halfali" in chat.shown)
        chat.process.send_signal(signal.SIGHUP)
        assert chat.ends(3) == ExitCode.INTERRUPTED


def test_an_answer_that_hangs_is_left_by_a_signal(tiny_model: Path) -> None:
    with kvchat(str(tiny_model), "--plain", text="word " * 2000, delay=0.02) as chat:
        chat.until(lambda: "You:" in chat.shown)
        chat.press("Hello\r")
        chat.until(lambda: "wordword" in chat.shown)
        chat.worker.suspend()
        chat.process.send_signal(signal.SIGTERM)
        assert chat.ends(4) == ExitCode.INTERRUPTED
