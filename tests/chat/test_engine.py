"""The chat with the real engine client and a model process that follows a script."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.chat_fakes import (
    FakeLauncher,
    FakeRunning,
    ask,
    chat_screen,
    is_idle,
    shown,
    until,
)
from tests.support.scripted_worker import scripted_worker
from tui.app import KvchatApp
from tui.ports import Ready, Stage
from tui.storage import Conversations
from tuner.engine.client import EngineClient
from tuner.engine.patience import LIMITS, Limits, Patience
from tuner.engine.protocol import Generate, Load, Message, Progress, Sampling


@dataclass
class ClientRunning(FakeRunning):
    """The scripted facts of a model, with a real client for the work."""

    client: EngineClient | None = None

    def load(self) -> Iterator[Any]:
        assert self.client is not None
        for event in self.client.load(Load("/models/tiny.gguf", self.settings, 1)):
            if isinstance(event, Progress):
                yield Stage("loading", event.fraction)
        yield Ready(self)  # type: ignore[arg-type]

    def generate(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        continue_last: bool = False,
        think: str = "",
        may_move: bool = False,
        rest_returns: bool = False,
    ) -> Iterator[Any]:
        assert self.client is not None
        return self.client.generate(
            Generate(tuple(messages), sampling, continue_last, think, may_move, rest_returns)
        )

    def count_tokens(self, messages: Sequence[Message], think: str = "") -> int:
        assert self.client is not None
        return self.client.count_tokens(messages, think)

    def stop(self) -> None:
        assert self.client is not None
        self.client.stop()

    def close(self) -> None:
        assert self.client is not None
        self.client.close()

    def kill(self) -> None:
        assert self.client is not None
        self.client.kill()

    @property
    def alive(self) -> bool:
        return self.client is not None and self.client.alive


class ClientLauncher(FakeLauncher):
    def start(self) -> Iterator[Any]:
        return self.running.load()  # type: ignore[attr-defined,no-any-return]

    def cancel(self) -> None:
        self.running.stop()

    def kill(self) -> None:
        self.running.kill()


async def test_stream_stop_crash_reload_through_the_real_client(tmp_path: Path) -> None:
    """A whole answer, a stopped one, the death of the process, and life after it, by itself."""
    command = scripted_worker(text="Answer {n}: {last}", delay=0.01)
    long = "**word** " * 300  # seconds of an answer: the stop and the signal come in its midst
    client = EngineClient(log_path=tmp_path / "engine.log", command=command)
    running = ClientRunning(client=client, log_path=tmp_path / "engine.log")
    store = Conversations.open(tmp_path / "conversations.db")
    app = KvchatApp(ClientLauncher(running), store, Sampling())
    async with app.run_test(size=(80, 30)) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "**word** word")
        await until(pilot, lambda: "Answer 1: word word" in shown(pilot))
        await ask(pilot, long, wait=False)
        await until(pilot, lambda: "Answer 2: word" in shown(pilot))
        await pilot.press("escape")
        await until(pilot, lambda: "stopped" in shown(pilot) and is_idle(screen))
        await ask(pilot, long, wait=False)
        await until(pilot, lambda: "Answer 3: word" in shown(pilot))
        assert client.pid is not None
        os.kill(client.pid, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
        await until(pilot, lambda: "loaded again" in shown(pilot))
        await ask(pilot, "Four")
        await pilot.press("ctrl+q")
    states = [(m.role, m.state) for m in store.messages(store.list()[0].id)]
    assert states == [
        ("user", "complete"), ("assistant", "complete"), ("user", "complete"),
        ("assistant", "stopped"), ("user", "complete"), ("assistant", "error"),
        ("user", "complete"), ("assistant", "complete"),
    ]  # fmt: skip
    store.close()


async def test_a_hang_is_told_and_a_reload_can_be_stopped(tmp_path: Path) -> None:
    """The answer that does not get on is kept as far as it came; Esc ends a reload that takes too
    long, and another one works."""
    quick = Patience({name: Limits(1.5, 1.5) for name in LIMITS} | {"start": Limits(20, 20)}, 1, 1)
    command = scripted_worker(text="Half of it, and no more", stuck_in="generate")
    client = EngineClient(tmp_path / "engine.log", command=command, patience=quick)
    running = ClientRunning(client=client, log_path=tmp_path / "engine.log")
    store = Conversations.open(tmp_path / "conversations.db")
    app = KvchatApp(ClientLauncher(running), store, Sampling())
    async with app.run_test(size=(80, 30)) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Go", wait=False)
        await until(pilot, lambda: "Half of" in shown(pilot))
        client._command = scripted_worker(load_seconds=10)
        await until(pilot, lambda: "did not get on for 1.5" in " ".join(shown(pilot).split()))
        await until(pilot, lambda: "loading 10%" in shown(pilot))
        await pilot.press("escape")
        await until(pilot, lambda: "cancelled" in shown(pilot))
        client._command = scripted_worker(text="All of it")
        client.close()
        await pilot.press("f5")
        await until(pilot, lambda: "loaded again" in shown(pilot))
        await ask(pilot, "Again")
        assert is_idle(screen)
        await pilot.press("ctrl+q")
    said = [m.content for m in store.messages(store.list()[0].id)]
    assert said[1].startswith("Half of")
    assert said[3] == "All of it"
    store.close()


async def test_a_new_chat_after_a_hang(tmp_path: Path) -> None:
    """Ctrl+N waits for the process that does not stop until it is ended, then begins anew, and the
    model comes back."""
    quick = Patience({name: Limits(20, 20) for name in LIMITS}, stop=1, stop_at_work=2)
    command = scripted_worker(text="Half of it, and no more", stuck_in="generate", deaf="1")
    client = EngineClient(tmp_path / "engine.log", command=command, patience=quick)
    running = ClientRunning(client=client, log_path=tmp_path / "engine.log")
    store = Conversations.open(tmp_path / "conversations.db")
    app = KvchatApp(ClientLauncher(running), store, Sampling())
    async with app.run_test(size=(80, 30)) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Go", wait=False)
        await until(pilot, lambda: "Half of" in shown(pilot))
        first = screen.chat
        await pilot.press("ctrl+n")
        await until(pilot, lambda: screen.chat is not first)
        assert not screen.generating
        await until(pilot, lambda: "loaded again" in shown(pilot))
        await pilot.press("ctrl+q")
    store.close()
