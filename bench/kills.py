"""Kills for `bench/faults.py`: of the model process and of the program, on a terminal, at moments
that a seed chooses. The model answers by script. POSIX only."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.gguf_files import tiny_llama
from tests.support.terminal import Terminal, kvchat
from tui.storage import Conversations

KILLS = 4  # of the model process in one chat
SIGNALS = ("SIGKILL", "SIGSEGV", "SIGTERM", "SIGABRT", "SIGBUS", "SIGILL")
SECONDS = 40.0  # that anything may take on a busy machine
ORPHAN_SECONDS = 6.0
RELOAD = "\x1b[15~"  # F5
_WORDS = " ".join(f"w{n}" for n in range(40))


class LostError(AssertionError):
    """Something is gone, hangs, or is left over, and nothing was said."""


@contextmanager
def _home() -> Iterator[Path]:
    """A home of its own with a model in it."""
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        home = Path(folder)
        for name in ("CONFIG", "DATA", "LOG"):
            os.environ[f"KVCHAT_{name}_DIR"] = str(home / name.lower())
        tiny_llama(home / "tiny.gguf")
        yield home


def _ask(terminal: Terminal, text: str) -> None:
    terminal.press(text)
    terminal.until(lambda: text in terminal.shown, SECONDS)
    terminal.press("\r")


def _new(terminal: Terminal, since: int) -> str:
    """What came after so many characters of the output, without escapes and spaces."""
    fresh = Terminal(terminal.process, terminal._master)
    fresh.output = terminal.output[since:]
    return fresh.shown


def _comes(terminal: Terminal, since: int, word: str) -> None:
    """Waits for a word, after a model that comes back by itself, or by F5 where that is offered:
    what died twice without a whole answer does not."""
    offer = "F5loadsthemodelagain"
    terminal.until(lambda: {word, offer} & _words(terminal, since, word, offer), SECONDS)
    if word not in _new(terminal, since):
        terminal.press(RELOAD)
        terminal.until(lambda: word in _new(terminal, since), SECONDS)


def _words(terminal: Terminal, since: int, *words: str) -> set[str]:
    """Those that came."""
    return {word for word in words if word in _new(terminal, since)}


def play_worker(seed: int) -> str:
    """Kills the model process in the middle of an answer or between two, `KILLS` times in one
    chat; each time it comes back and goes on. At the end everything asked is on disk."""
    chance = random.Random(seed)
    asked = 0
    with _home() as home:
        text = f"begin {_WORDS} end-{{last}}"
        with kvchat(str(home / "tiny.gguf"), text=text, delay=0.02) as terminal:
            terminal.until(lambda: "RAM" in terminal.shown, SECONDS)  # it is loaded, and measured
            for _ in range(KILLS):
                mark = len(terminal.output)
                writing = chance.random() < 0.7  # noqa: PLR2004
                if writing:
                    asked += 1
                    _ask(terminal, f"ask{asked}")
                    terminal.until(lambda m=mark: "begin" in _new(terminal, m), SECONDS)  # type: ignore[misc]
                    mark = len(terminal.output)
                    time.sleep(chance.uniform(0, 0.5))
                worker = terminal.worker
                worker.send_signal(getattr(signal, chance.choice(SIGNALS)))
                psutil.wait_procs([worker], timeout=5)
                if writing:  # on a busy machine the answer may have ended before the kill came
                    signs = ("unexpectedly", "Alt+Ragain")
                    terminal.until(lambda m=mark, s=signs: _words(terminal, m, *s), SECONDS)  # type: ignore[misc]
                    writing = "unexpectedly" in _new(terminal, mark)
                if not writing:
                    asked += 1
                    _ask(terminal, f"ask{asked}")
                # A question that waited is answered now.
                _comes(terminal, mark, "loadedagain" if writing else f"end-ask{asked}")
            terminal.press("\x11")
            if terminal.ends(SECONDS) != 0:
                raise LostError("the chat ended with an error")
        _check_saved(asked)
    return f"{KILLS} kills of the model process: noticed, loaded again, nothing lost"


def play_chat(seed: int) -> str:
    """Kills the program itself in a chat. Nothing asked is lost, of the answer no more than what
    came in the last moments; no process is left over, and the next start has nothing to mend."""
    chance = random.Random(seed)
    with _home() as home:
        text = f"begin {_WORDS} {_WORDS} end{{n}}"
        with kvchat(str(home / "tiny.gguf"), text=text, delay=0.02) as terminal:
            terminal.until(lambda: "Writeamessage" in terminal.shown, SECONDS)
            asked = chance.randint(1, 2)
            for n in range(1, asked + 1):
                mark = len(terminal.output)
                _ask(terminal, f"ask{n}")
                terminal.until(lambda m=mark: "begin" in _new(terminal, m), SECONDS)  # type: ignore[misc]
                if n < asked:
                    terminal.until(lambda n=n: f"end{n}" in terminal.shown, SECONDS)  # type: ignore[misc]
            time.sleep(chance.uniform(0.1, 2.5))
            _kill_and_count(terminal)
        answers = _check_saved(asked)
        if asked > 1 and not answers[0].endswith("end1"):
            raise LostError("a whole answer")
    return "kill of the chat: nothing lost, nothing left over"


def play_one_shot(seed: int) -> str:
    """Kills `-p` at any moment: no process is left over."""
    chance = random.Random(seed)
    with (
        _home() as home,
        kvchat(str(home / "tiny.gguf"), "-p", "hi", text=_WORDS * 9, delay=0.02) as terminal,
    ):
        if chance.randrange(3):
            terminal.until(lambda: "w1" in terminal.shown, SECONDS)
        time.sleep(chance.uniform(0, 1.5))
        _kill_and_count(terminal)
    return "kill of -p: nothing left over"


def _kill_and_count(terminal: Terminal) -> None:
    children = psutil.Process(terminal.process.pid).children(recursive=True)
    os.kill(terminal.process.pid, signal.SIGKILL)
    terminal.process.wait()
    if psutil.wait_procs(children, timeout=ORPHAN_SECONDS)[1]:
        raise LostError("a process is left over")


def _check_saved(asked: int) -> list[str]:
    """The answers. Raises where a question is not on disk, or the file was damaged."""
    store = Conversations.open()
    if store.warning:
        raise LostError(store.warning)
    latest = store.latest()
    messages = store.messages(latest.id) if latest else []
    store.close()
    questions = [m.content for m in messages if m.role == "user"]
    if questions != [f"ask{n}" for n in range(1, asked + 1)]:
        raise LostError(f"questions: {questions} of {asked}")
    return [m.content for m in messages if m.role == "assistant"]
