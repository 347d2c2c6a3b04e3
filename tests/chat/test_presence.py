"""Which conversations other kvchats have open."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.chat_fakes import (
    FakeLauncher,
    FakeRunning,
    ask,
    chat_screen,
    make_app,
    shown,
    shows,
    until,
)
from tests.support.terminal import ROOT
from tui.storage import Conversations, Presence

pytest.importorskip("fcntl")

OTHER = """
import sys
from pathlib import Path
from tui.storage import Presence
print(Presence(Path(sys.argv[1])).enter(sys.argv[2]), flush=True)
sys.stdin.read()
"""


@contextmanager
def another(path: Path, conversation_id: str) -> Iterator[subprocess.Popen[str]]:
    """Another process with a conversation open."""
    command = [sys.executable, "-c", OTHER, str(path), conversation_id]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline().strip() in ("True", "False")
            yield other
        finally:
            other.kill()


def test_who_has_it_open_is_known_until_that_ends(tmp_path: Path) -> None:
    """Also of several, and whichever came first; a killed one is gone. The file says nothing and
    is the user's alone."""
    path = tmp_path / "conversations.db"
    here = Presence(path)
    assert not here.enter("a")
    with another(path, "a") as second:
        assert here.enter("a")
        assert not here.enter("b")  # and no longer at a
        with another(path, "a") as third:
            assert here.enter("a")
            second.kill()
            second.wait()
            assert here.enter("a")
            third.kill()
            third.wait()
        assert not here.enter("a")
    here.leave()
    with another(path, "a"):
        assert not here.enter("b")
        assert here.enter("a")
    here.close()
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size == 0
    assert file.stat().st_mode & 0o077 == 0


def test_where_nothing_can_be_locked_nothing_is_known(tmp_path: Path) -> None:
    here = Presence(tmp_path / "nowhere" / "conversations.db")
    assert not here.enter("a")
    here.leave()
    here.close()


async def test_it_is_said_when_a_conversation_is_opened(store: Conversations) -> None:
    """At once, and not only when something is sent; of another one nothing is said."""
    app = make_app(FakeRunning(), store)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Ours?")
        conversation = screen.chat.conversation.id
    with another(store.path, conversation):
        launcher = FakeLauncher(FakeRunning(), hold=threading.Event())
        app = make_app(launcher, store, resume=conversation)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: shows(pilot, "also open in another kvchat"))
            assert launcher.hold is not None
            launcher.hold.set()
            screen = await chat_screen(pilot)
            await pilot.pause()
            assert shown(pilot).count("also open in another kvchat") == 1
            await pilot.press("ctrl+n")
            await until(pilot, lambda: not screen.chat.path)
            await ask(pilot, "Mine?")
            assert "another kvchat" not in shown(pilot)
