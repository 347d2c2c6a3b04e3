"""Faults for `bench/faults.py` in what the model process does: a real engine with tiny models of
every memory, at moments that a seed chooses. POSIX only."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import psutil

from bench.kills import LostError
from tests.support.tiny_models import hybrid, model, recurrent, windowed
from tuner.demo import demo_model_path
from tuner.engine.client import EngineClient
from tuner.engine.patience import Patience
from tuner.engine.protocol import Done, Message, Sampling, Text
from tuner.errors import KvchatError
from tuner.launch import Launcher, Ready
from tuner.launch.running import Running
from tuner.settings import Settings
from tuner.wishes import LaunchRequest, Wishes

FAULTS = 6  # in one conversation
MOST_SECONDS = 10.0  # from a fault to its being told, or to an end as if there were none
HASTE = 0.25  # of the usual patience, so that a process that is stopped is not waited for so long
LONGEST = 2.0  # seconds until a fault
TEXT = "Tell me of the fox, and of the dog that does not mind. "
SAMPLING = Sampling(temperature=0, max_tokens=12)
SHAPES: tuple[dict[str, Any], ...] = (
          {}, {"type_k": "q8_0", "type_v": "q8_0"}, {"n_ctx": 2048}, {"type_v": "q8_0"},
          {"n_ubatch": 64})  # fmt: skip


class Play:
    """One conversation. The demo model is one in four, since it is slow."""

    def __init__(self, seed: int, folder: Path) -> None:
        self._chance = chance = random.Random(seed)
        kind = chance.choice((None, windowed, hybrid, recurrent))
        path = model(folder / "model.gguf", kind) if kind else demo_model_path()
        client = EngineClient(folder / "engine.log", patience=Patience().times(HASTE))
        request = LaunchRequest(path, Wishes(n_ctx=1024), threads=1, use_profile=False)
        self._launcher = Launcher(request, client)
        self._state = folder / "conversation.state"
        self._talk: list[Message] = []
        self.healed = 0  # faults after which nothing had to be loaded by hand
        self._running = self._load()

    def run(self) -> None:
        """Raises LostError where something is lost, hangs or is left over."""
        try:
            for _ in range(FAULTS):
                self._one()
        finally:
            pid = self._running._client.pid
            self._launcher.close()
            left = [psutil.Process(pid)] if pid is not None and psutil.pid_exists(pid) else []
            if psutil.wait_procs(left, timeout=3)[1]:
                raise LostError("the model process is left over")

    def _one(self) -> None:
        """Something is done, and meanwhile something goes wrong; then a question is answered."""
        do = self._chance.choice(
            (self._answer, self._answer, self._reshape, self._save, self._restore, self._reload)
        )
        fault = self._fault()
        timer = threading.Timer(self._chance.uniform(0, LONGEST) ** 2 / LONGEST, fault)
        self._since = inf
        timer.start()
        with contextlib.suppress(KvchatError):  # one sentence, which is what there is to be told
            do()
        took = time.monotonic() - self._since
        timer.cancel()
        timer.join()
        self._continue()
        if took > MOST_SECONDS:
            raise LostError(f"{do.__name__} took {took:.0f} s from the fault on")
        if not self._launcher.client.alive:
            self._running = self._load()
        else:
            self.healed += 1
        if self._chance.random() < 0.5:  # noqa: PLR2004
            self._running.restore_state(self._state)
        if not self._talk or self._talk[-1].role == "assistant":
            self._ask()
        said = self._said()
        self._talk.append(Message("assistant", said or "…"))

    def _fault(self) -> Callable[[], object]:
        pid = self._launcher.client.pid
        damage = partial(self._damage, self._chance.randrange(1 << 30))
        signals = (signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV)
        ways: list[Callable[[], object]] = [partial(_signal, pid, one) for one in signals]
        ways += [damage, self._launcher.cancel, self._full_disk]
        fault = self._chance.choice(ways)

        def happens() -> None:
            self._since = time.monotonic()
            fault()

        return happens

    def _continue(self) -> None:
        """A process that was stopped, and not ended for it, goes on."""
        _signal(self._launcher.client.pid, signal.SIGCONT)

    def _damage(self, at: int) -> None:
        """One byte of the state that is on the disk, or its end."""
        try:
            data = bytearray(self._state.read_bytes())
        except FileNotFoundError:
            return
        if data:
            data[at % len(data)] ^= 0xFF
        self._state.write_bytes(data[: at % (2 * len(data) + 1)])

    def _full_disk(self) -> None:
        """Nothing more can be written by the model process, from now on."""
        pid = self._launcher.client.pid
        if pid is not None and hasattr(psutil.Process, "rlimit"):
            psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (4096, 4096))

    # ------------------------------------------------------------ what is done

    def _ask(self) -> None:
        words = TEXT * self._chance.randint(1, 4)
        self._talk.append(Message("user", f"{len(self._talk)}: {words}"[:200]))
        if len(self._talk) > 8:  # noqa: PLR2004 - the context is small
            del self._talk[:4]

    def _said(self) -> str:
        said, done = "", None
        for event in self._running.generate(self._talk, SAMPLING):
            if isinstance(event, Text):
                said += event.text
            elif isinstance(event, Done):
                done = event
        if done is None or done.n_reused >= done.n_prompt:
            raise LostError(f"an answer without an end, or of nothing: {done}")
        return said

    def _answer(self) -> None:
        self._ask()
        if len(self._talk) > 1 and self._talk[-2].role == "user":
            self._talk.insert(-1, Message("assistant", "…"))
        self._talk.append(Message("assistant", self._said() or "…"))

    def _reshape(self) -> None:
        self._change(self._chance.choice(SHAPES))

    def _change(self, changes: dict[str, Any]) -> None:
        settings = replace(self._running.settings, **changes)
        self._running = _ready(self._running.change(settings, keep=None), self._running)

    def _reload(self) -> None:
        settings: Settings = self._running.settings
        way = self._launcher.start(), self._running, settings, self._launcher.request
        self._running = _ready(self._launcher._instead(*way), self._running)

    def _save(self) -> None:
        self._running.save_state(self._state, 1 << 30)

    def _restore(self) -> None:
        self._running.restore_state(self._state)

    def _load(self) -> Running:
        for event in self._launcher.start():
            if isinstance(event, Ready):
                return event.running
        raise LostError("a load without an end")


def _ready(events: object, before: Running) -> Running:
    for event in events:  # type: ignore[attr-defined]
        if isinstance(event, Ready):
            before = event.running
    return before


def _signal(pid: int | None, number: int) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def play_engine(seed: int) -> str:
    """Lets things go wrong while a model loads, reads, answers, changes its cache, saves and
    restores what it has read: each time that is told within seconds, the model is there again, and
    the conversation goes on."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name)
        for each in ("CONFIG", "DATA", "LOG"):
            os.environ[f"KVCHAT_{each}_DIR"] = str(folder / each.lower())
        play = Play(seed, folder)
        play.run()
    return f"{FAULTS} faults of the engine: {play.healed} without a load by hand, nothing lost"
