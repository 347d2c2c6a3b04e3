"""--choose on a terminal: the fit explorer before a load."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("terminals of POSIX", allow_module_level=True)

from tests.support.gguf_files import tiny_llama
from tests.support.terminal import Terminal, kvchat
from tuner.profiles.profiles import Profiles


def answered(terminal: Terminal) -> None:
    """The model is loaded: it has answered."""
    terminal.until(lambda: "Writeamessage" in terminal.shown)
    terminal.press("Hello\r")
    terminal.until(lambda: "Hello,world" in terminal.shown)


def test_what_is_chosen_is_loaded_and_kept(tmp_path: Path) -> None:
    """The next launch has it without asking."""
    path = str(tiny_llama(tmp_path / "tiny.gguf"))
    with kvchat(path, "--choose", "--threads", "1") as terminal:
        terminal.until(lambda: "kvchat'sown" in terminal.shown)
        terminal.press("\x1b[D")
        terminal.until(lambda: terminal.shown.rindex("fits") > terminal.shown.index("own"))
        terminal.press("\r")
        answered(terminal)
        terminal.press("\x11")
        assert terminal.ends(10) == 0
    (profile,) = Profiles().list()
    assert profile.explored == profile.settings
    with kvchat(path, "--threads", "1") as terminal:
        answered(terminal)
        terminal.press("\x11")
        assert terminal.ends(10) == 0
    assert [p.settings for p in Profiles().list()] == [profile.explored]


def test_leaving_loads_nothing(tmp_path: Path) -> None:
    path = str(tiny_llama(tmp_path / "tiny.gguf"))
    with kvchat(path, "--choose") as terminal:
        terminal.until(lambda: "kvchat'sown" in terminal.shown)
        terminal.press("\x1b")
        assert terminal.ends(10) == 0
    assert not Profiles().list()
