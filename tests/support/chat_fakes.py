"""A launcher and a running model that follow a script, for tests of the chat without an engine."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from tui.app import KvchatApp
from tui.ports import LaunchEvent, Look, Planned, Ready, Retry, Stage
from tui.screens.chat import ChatScreen
from tui.storage import Conversations
from tui.widgets import Prompt
from tuner.engine.protocol import (
    Done,
    Message,
    PromptProgress,
    Sampling,
    StateRestored,
    StateSaved,
    Text,
    WasThought,
)
from tuner.errors import EngineCancelled, EngineError, KvchatError, NoFitError
from tuner.machine.vitals import Vitals
from tuner.planning import Explorer
from tuner.settings import Settings
from tuner.units import GIB, MIB


@dataclass(frozen=True)
class FakeModel:
    name: str = "Tiny Llama"
    quantization: str = "Q4_K_M"
    n_ctx_train: int = 8192
    fingerprint: str = "f00d"


@dataclass
class FakeRunning:
    """Answers with `answers` in turn: each a list of text pieces, of the engine's own events (a
    Text that is thought, WasThought, PromptProgress), of errors to raise, or of threading events to
    wait for (so that a test decides when the rest comes)."""

    answers: list[list[Any]] = field(default_factory=list)
    reason: str = "end"
    thought_seconds: float = 0.0
    n_reused: int = 0  # of every prompt
    read_again: str = ""
    model: FakeModel = field(default_factory=FakeModel)
    settings: Settings = field(default_factory=lambda: Settings(n_ctx=4096, type_k="q8_0"))
    sampling: Sampling = field(default_factory=Sampling)
    warnings: tuple[str, ...] = ()
    log_path: Path | None = Path("/logs/engine.log")
    now: Vitals = field(default_factory=lambda: Vitals({}, (8 * GIB, 64 * GIB)))
    expects: float = 0.0  # tokens/s
    still: float = 0.0
    prompts: list[tuple[Message, ...]] = field(default_factory=list)
    samplings: list[Sampling] = field(default_factory=list)
    thinks: list[str] = field(default_factory=list)
    moves: list[str] = field(default_factory=list)  # what may be done with what was read
    continued: list[bool] = field(default_factory=list)
    remembered: list[str] = field(default_factory=list)
    think: str = ""
    think_levels: tuple[str, ...] = ()
    usual_think: str = ""
    closed: bool = False
    looks: list[Look] = field(default_factory=list)  # at the memory, one after the other
    ran_out: list[str] = field(default_factory=list)  # the engine's words
    lives: bool = True
    in_place: bool = False
    goes_back: bool = True
    n_moved: int = 0
    saved: list[Path] = field(default_factory=list)  # states: a file of 1 KiB each
    restored: list[Path] = field(default_factory=list)
    save_hold: threading.Event | None = None  # a save waits for it
    no_state: str = ""  # why none can be restored
    make_explorer: Callable[[], Explorer] | None = None
    changes: list[tuple[Settings, bool | None]] = field(
        default_factory=list
    )  # whether to keep them
    tried: list[tuple[Settings, Settings | None]] = field(default_factory=list)
    change_said: str = ""  # a change ends with the old settings, after this
    change_hold: threading.Event | None = None  # a change waits for it, or for a stop

    def __post_init__(self) -> None:
        self._stop = threading.Event()

    @property
    def alive(self) -> bool:
        return self.lives

    def report_text(self, width: int) -> str:
        ruler = ("-" * width)[:-1] + "|"  # as wide as the report may be, its end to be seen
        return f"report for {width} columns [red]literal[/]\n{ruler}\n" + "\n".join(
            f"row {n}" for n in range(60)
        )

    def remember_think(self, level: str) -> None:
        self.remembered.append(level)

    def status(self) -> str:
        return "41/41 layers on GPU · K q8_0 V f16 · ctx 4096"

    def vitals(self) -> Vitals:
        return self.now

    def cache_bytes(self, n_tokens: int) -> tuple[int, int]:
        """1 MiB a token."""
        return n_tokens * MIB, self.settings.n_ctx * MIB

    def expected_tps(self, depth: int) -> float:
        return self.expects

    def count_tokens(self, messages: Sequence[Message], think: str = "") -> int:
        return sum(len(message.content) for message in messages)

    def generate(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        continue_last: bool = False,
        think: str = "",
        may_move: bool = False,
        rest_returns: bool = False,
    ) -> Iterator[PromptProgress | Text | WasThought | Done]:
        self._stop.clear()
        self.prompts.append(tuple(messages))
        self.samplings.append(sampling)
        self.thinks.append(think)
        self.moves.append("may move" * may_move + "returns" * rest_returns)
        self.continued.append(continue_last)
        script = self.answers.pop(0) if self.answers else ["An answer."]
        n_tokens = 0
        reason = self.reason
        for step in script:
            if isinstance(step, threading.Event):
                while not step.wait(0.005) and not self._stop.is_set():
                    pass
            if self._stop.is_set():
                reason = "stopped"
                break
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, str):
                step = Text(step, 1)  # noqa: PLW2901
            if isinstance(step, Text | PromptProgress | WasThought):
                n_tokens += step.n_tokens if isinstance(step, Text) else 0
                yield step
        n_prompt = self.count_tokens(messages)
        took, used = n_tokens / 50, n_prompt + n_tokens
        yield Done(
            reason,
            n_prompt,
            self.n_reused,
            n_tokens,
            0.1,
            took,
            used,
            thought_seconds=self.thought_seconds,
            read_again=self.read_again,
        )

    def look(self, *, busy: bool, least: int) -> Look:
        return self.looks.pop(0) if self.looks and not busy else Look()

    def shapes_text(self) -> str:
        return "f16 up to 4,096 tokens"

    def reshaped(self, n_ctx: int | None, types: tuple[str, str] | None, least: int) -> Settings:
        if n_ctx is not None and n_ctx > self.model.n_ctx_train:
            raise NoFitError("That many tokens do not fit.")
        type_k, type_v = types or (self.settings.type_k, self.settings.type_v)
        n_ctx = n_ctx or self.settings.n_ctx
        return replace(self.settings, n_ctx=n_ctx, type_k=type_k, type_v=type_v)

    def save_state(self, path: Path, most_bytes: int) -> StateSaved:
        if self.save_hold is not None:
            path.with_name(f"{path.name}.1.new").write_bytes(b"half")
            self.save_hold.wait(10)
            path.with_name(f"{path.name}.1.new").unlink(missing_ok=True)
        path.write_bytes(bytes(1024))
        self.saved.append(path)
        return StateSaved(300, 1024, 0.1)

    def restore_state(self, path: Path) -> StateRestored:
        self.restored.append(path)
        return StateRestored(0 if self.no_state else 300, 0.1, self.no_state)

    def stop(self) -> None:
        self._stop.set()

    def close(self) -> None:
        self._stop.set()
        self.closed = True

    def kill(self) -> None:
        self.close()
        self.lives = False

    def explorer(self) -> Explorer:
        return explored(self.make_explorer)

    def change(self, settings: Settings, *, keep: bool | None) -> Iterator[Stage | Retry | Ready]:
        self.changes.append((settings, keep))
        return self._loaded(settings, self.settings)

    def less(self, words: str) -> Iterator[Stage | Retry | Ready]:
        self.ran_out.append(words)
        return self._loaded(replace(self.settings, n_ctx=self.settings.n_ctx // 2), None)

    def try_out(
        self, settings: Settings, before: Settings | None
    ) -> Iterator[Stage | Retry | Ready]:
        self.tried.append((settings, before))
        return self._loaded(settings, before)

    def _loaded(
        self, settings: Settings, before: Settings | None
    ) -> Iterator[Stage | Retry | Ready]:
        self._stop.clear()
        yield Stage("loading the model", 0.25)
        said = self.change_said
        while self.change_hold is not None and not self.change_hold.wait(0.005):
            if self._stop.is_set():
                said = "It was cancelled. The model is loaded again as it was."
                break
        if said and before is None:
            raise EngineCancelled("the launch was cancelled")
        if said:
            yield Retry(said)
        self.settings = before if said and before is not None else settings
        self.lives = True
        yield Ready(self)  # type: ignore[arg-type]


def explored(make: Callable[[], Explorer] | None) -> Explorer:
    if make is None:
        raise EngineError("load_failed", "Nothing is known of this model.")
    return make()


@dataclass
class FakeLauncher:
    running: FakeRunning
    error: KvchatError | None = None
    hold: threading.Event | None = None  # the launch waits for it, or for a cancel
    path: Path = Path("/models/tiny.gguf")
    still: float = 0.0
    cancelled: threading.Event = field(default_factory=threading.Event)
    make_explorer: Callable[[], Explorer] | None = None
    chosen: tuple[Settings, bool | None] | None = None

    starts: int = 0

    def explorer(self) -> Explorer:
        return explored(self.make_explorer)

    def choose(self, settings: Settings, *, keep: bool | None) -> None:
        self.chosen = settings, keep
        self.running.settings = settings

    def start(self) -> Iterator[LaunchEvent]:
        self.starts += 1
        self.cancelled.clear()
        yield Stage("reading the header")
        yield Planned("41/41 layers on GPU · KV q8_0", self.running.settings.n_ctx, 4 * GIB)
        yield Stage("loading", 0.5)
        while self.hold is not None and not self.hold.wait(0.005):
            if self.cancelled.is_set():
                raise EngineCancelled("the launch was cancelled")
        if self.error is not None:
            raise self.error
        self.running.lives = True
        yield Ready(self.running)  # type: ignore[arg-type]  # as much of one as the chat needs

    def cancel(self) -> None:
        self.cancelled.set()
        self.running.stop()

    kill = cancel


def make_app(
    running: FakeRunning | FakeLauncher,
    store: Conversations,
    resume: str | None = None,
    **options: Any,
) -> KvchatApp:
    options.setdefault("sampling", Sampling())
    launcher = FakeLauncher(running) if isinstance(running, FakeRunning) else running
    return KvchatApp(launcher, store, resume=resume, **options)


async def until(pilot: Pilot[None], condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Lets the program run until the condition holds; fails if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"it never came to that; the screen:\n{shown(pilot)}")
        await asyncio.sleep(0.01)


async def chat_screen(pilot: Pilot[None]) -> ChatScreen:
    """The chat, once the model is loaded."""

    def there() -> bool:
        screen = pilot.app.screen
        return isinstance(screen, ChatScreen) and bool(screen.focused and screen.running_model)

    await until(pilot, there)
    screen = pilot.app.screen
    assert isinstance(screen, ChatScreen)
    return screen


async def ask(pilot: Pilot[None], text: str, wait: bool = True) -> None:
    """Types a message and sends it."""
    screen = pilot.app.screen
    assert isinstance(screen, ChatScreen)
    n_messages = len(screen.chat.path)
    screen.query_one(Prompt).text = text
    await pilot.press("enter")
    if wait:  # the question is there before its answer begins
        await until(pilot, lambda: len(screen.chat.path) != n_messages)
        await pilot.pause()
        await until(pilot, lambda: is_idle(screen))


def is_idle(screen: Any) -> bool:
    """The last answer is written and the prompt is empty."""
    return not screen.generating and not screen.query_one(Prompt).text


def shown(pilot: Pilot[None]) -> str:
    """The screen as text, a line per row."""
    _, height = pilot.app.size
    rows = pilot.app.screen._compositor.render_strips()
    return "\n".join("".join(s.text for s in strip) for strip in rows[:height])


def shows(pilot: Pilot[None], *texts: str) -> bool:
    return all(text in shown(pilot) for text in texts)
