"""How long a key takes to reach the terminal while an answer streams.

    python -m bench.ui_latency [--baseline REF] [--case NAME ...] [--seconds 8]

Runs the real program on a terminal of its own (a pty), its model process by script, and types into
it: from each key to the bytes on the terminal that show it. Keys come at any moment, 35 to 105 ms
apart. Cases are a rate in tokens a second, the messages that the conversation has already, and what
streams; `idle` types where nothing does. What keeps a key waiting is what the screen's thread does
without a pause: the longest and the third longest of these steps are told in CPU time, which other
programs do not lengthen. Beside these: the CPU time of the program while it streams, and while
nothing happens at all, in percent of a core, with and without its model process.

`--baseline` runs each case with the program of that commit, too, right before, and prints the
ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import random
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fcntl import ioctl
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
SIZE = (40, 120)  # rows and columns
APART = (0.035, 0.105)  # seconds from one key to the next
LETTERS = "".join(map(chr, range(0x410, 0x450)))  # in no answer; the prompt has each once
IDLE_SECONDS = 5.0
PATIENCE = 30.0  # seconds, for anything to appear
CLEAR = "\x15"  # Ctrl+U

TABLE = "| name | value | of what |\n|---|--:|:-:|\n" + "".join(
    f"| row {n} | {n * n} | some words of `row {n}` |\n" for n in range(300)
)
FENCE = "```python\n" + "".join(
    f"def function_{n}(x: int) -> int:\n    return x * {n}  # note\n\n" for n in range(300)
)
MIXED = (
    "## A section with a heading\n\n"
    + "Some *words* of a paragraph with `code` in it and **more** of them. " * 6
    + "\n\n"
    + "".join(f"- item {n} with a few words\n  - and a nested one\n" for n in range(8))
    + "\n"
    + "".join(TABLE.splitlines(keepends=True)[:10])
    + "\n"
    + "".join(FENCE.splitlines(keepends=True)[:180])
    + "```\n\n"
    + "again and again " * 120
    + "\n\n"
)
TEXTS = {"mixed": MIXED, "table": TABLE, "fence": FENCE}

_FILL = """
import sys
from pathlib import Path
from tests.support.gguf_files import tiny_llama
from tui.storage import Conversation, Conversations, StoredMessage
folder, n = Path(sys.argv[1]), int(sys.argv[2])
tiny_llama(folder / "tiny.gguf", {})
text = sys.stdin.read()
store = Conversations.open(None)
said = [
    StoredMessage(f"m{i}", f"m{i - 1}" if i else None, "assistant" if i % 2 else "user",
                  text if i % 2 else f"Question {i}?", float(i))
    for i in range(n)
]
store.save(Conversation("c", "t", 1.0, 1.0, None, f"m{n - 1}" if n else None), said)
store.close()
"""
_PROGRAM = """
import asyncio, json, signal, sys, time
from pathlib import Path
steps = []
run = asyncio.Handle._run
def timed(handle):
    began = time.thread_time()
    run(handle)
    steps.append(1000 * (time.thread_time() - began))
def tell(*_):
    part = Path(STEPS).with_suffix(".part")
    part.write_text(json.dumps(sorted(steps)))
    part.rename(STEPS)
    steps.clear()
asyncio.Handle._run = timed
signal.signal(signal.SIGUSR1, tell)
from tests.support.scripted_worker import scripted_worker
from tuner.launch import launcher
from tuner.engine.client import EngineClient
launcher.EngineClient = lambda: EngineClient(command=scripted_worker(text=TEXT, delay=DELAY))
from tui.start import main
sys.exit(main())
"""


@dataclass(frozen=True)
class Case:
    """What is measured. `rate`: tokens/s of four characters; 0: nothing streams."""

    name: str
    rate: int = 200
    n_messages: int = 20
    text: str = "mixed"


CASES = [
    Case("idle", rate=0),
    Case("100/s", rate=100),
    Case("200/s"),
    Case("500 messages", n_messages=500),
    Case("2000 messages", n_messages=2000),
    Case("a table", text="table"),
    Case("a long fence", text="fence"),
]


@dataclass
class Found:
    """Milliseconds of each key, and of CPU time of each thing that the screen's thread did without
    a pause, in order; CPU in percent of a core."""

    keys: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    cpu: float = 0.0
    idle_cpu: float = 0.0
    idle_cpu_all: float = 0.0
    open_seconds: float = 0.0

    @property
    def p50(self) -> float:
        return statistics.median(self.keys)

    @property
    def p95(self) -> float:
        return statistics.quantiles(self.keys, n=20)[18]

    def line(self, name: str) -> str:
        return (
            f"{name:<24} keys {len(self.keys):4}   p50 {self.p50:5.1f}   p95 {self.p95:5.1f}   most"
            f" {max(self.keys):5.1f} ms   longest steps {self.steps[-3]:4.1f} {self.steps[-1]:4.1f}"
            f" ms of CPU   CPU {self.cpu:4.1f} %   at rest {self.idle_cpu:.2f} %"
            f" ({self.idle_cpu_all:.2f} % with the model process)   open {self.open_seconds:.2f} s"
        )


class Terminal:
    """A running program and the other end of its terminal."""

    def __init__(self, process: subprocess.Popen[bytes], master: int, steps: Path):
        self.process = process
        self._master = master
        self._steps = steps

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def read_until(self, text: str, seconds: float = PATIENCE) -> float:
        """Seconds until these characters came."""
        began, wanted, data = time.perf_counter(), text.encode(), b""
        while wanted not in data:
            left = began + seconds - time.perf_counter()
            if left <= 0 or self.process.poll() is not None:
                raise RuntimeError(f"{text!r} did not appear")
            if select.select([self._master], [], [], left)[0]:
                data = data[-256:] + os.read(self._master, 1 << 16)
        return time.perf_counter() - began

    def read_for(self, seconds: float) -> int:
        """Reads for so long; how many bytes came."""
        n, end = 0, time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            if select.select([self._master], [], [], left)[0]:
                n += len(os.read(self._master, 1 << 16))
        return n

    def steps(self) -> list[float]:
        """The steps of the screen's thread since the last call, in order."""
        self._steps.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        end = time.perf_counter() + PATIENCE
        while not self._steps.exists() and time.perf_counter() < end:
            self.read_for(0.02)
        found: list[float] = json.loads(self._steps.read_text())
        return found

    def cpu_seconds(self) -> tuple[float, float]:
        """CPU time of the program, and of it and its model process."""
        program = psutil.Process(self.process.pid)
        times = [process.cpu_times() for process in (program, *program.children(recursive=True))]
        each = [one.user + one.system for one in times]
        return each[0], sum(each)


@contextmanager
def started(tree: Path, case: Case, seconds: float) -> Iterator[Terminal]:
    """The program of a tree, with a conversation of so many messages."""
    with tempfile.TemporaryDirectory() as folder:
        homes = ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "HOME")
        env = {
            **os.environ, **dict.fromkeys(homes, folder), "TERM": "xterm-256color",
            "PYTHONPATH": str(tree),
        }  # fmt: skip
        for name in ("KVCHAT_DATA_DIR", "KVCHAT_CONFIG_DIR", "KVCHAT_LOG_DIR"):
            env[name] = folder
        subprocess.run(
            [sys.executable, "-c", _FILL, folder, str(case.n_messages)],
            input=MIXED[:1200].encode(), cwd=tree, env=env, check=True, capture_output=True,
        )  # fmt: skip
        text = TEXTS[case.text]
        n_chars = int(4 * max(case.rate, 1) * (seconds + 4))
        text = (text * (n_chars // len(text) + 1))[:n_chars]
        delay = 1 / case.rate if case.rate else 0.01
        steps = Path(folder) / "steps.json"
        values = {"TEXT": repr(text), "DELAY": repr(delay), "STEPS": repr(str(steps))}
        code = _PROGRAM
        for name, value in values.items():
            code = code.replace(name, value)
        master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
        args = [f"{folder}/tiny.gguf", "--resume", "c", "--no-profile"]
        process = subprocess.Popen(
            [sys.executable, "-c", code, *args], cwd=tree, env=env, stdin=slave, stdout=slave,
            stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        try:
            yield Terminal(process, master, steps)
        finally:
            process.kill()
            process.wait()
            os.close(master)


def typed(terminal: Terminal, seconds: float) -> list[float]:
    """Milliseconds of each key that is typed in so many seconds."""
    uneven = random.Random(0)
    found: list[float] = []
    end = time.perf_counter() + seconds
    letters = iter("")
    while time.perf_counter() < end:
        letter = next(letters, "")
        if not letter:
            terminal.press(CLEAR)
            terminal.read_for(0.2)
            letters = iter(LETTERS)
            continue
        terminal.press(letter)
        found.append(1000 * terminal.read_until(letter))
        terminal.read_for(uneven.uniform(*APART))
    return found


def measure(tree: Path, case: Case, seconds: float) -> Found:
    """One case with the program of a tree."""
    found = Found()
    with started(tree, case, seconds) as terminal:
        found.open_seconds = terminal.read_until("Write a message")
        terminal.read_for(3.0)  # the model is there, all is drawn
        before = terminal.cpu_seconds()
        terminal.read_for(IDLE_SECONDS)
        after = terminal.cpu_seconds()
        found.idle_cpu = 100 * (after[0] - before[0]) / IDLE_SECONDS
        found.idle_cpu_all = 100 * (after[1] - before[1]) / IDLE_SECONDS
        typed(terminal, 0.5)
        if case.rate:
            terminal.press(f"{CLEAR}Go\r")
            terminal.read_for(1.5)
        before, began = terminal.cpu_seconds(), time.perf_counter()
        terminal.steps()
        found.keys = typed(terminal, seconds)
        found.steps = terminal.steps()
        after, ended = terminal.cpu_seconds(), time.perf_counter()
        found.cpu = 100 * (after[0] - before[0]) / (ended - began)
    return found


@contextmanager
def tree_of(ref: str) -> Iterator[Path]:
    """The files of a commit."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", ref], cwd=ROOT, check=True, capture_output=True
        ).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        yield Path(folder)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--baseline", metavar="REF", help="a commit to compare with")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES])
    parser.add_argument("--seconds", type=float, default=8.0, help="of typing in each case")
    args = parser.parse_args(argv)
    cases = [case for case in CASES if not args.case or case.name in args.case]
    with tree_of(args.baseline or "HEAD") as baseline:
        for case in cases:
            before = measure(baseline, case, args.seconds) if args.baseline else None
            now = measure(ROOT, case, args.seconds)
            if before is not None:
                print(before.line(f"{case.name}, {args.baseline}"), flush=True)
            print(now.line(case.name), flush=True)
            if before is not None:
                print(
                    f"{'':24} ratio   p50 {now.p50 / before.p50:.2f}   p95"
                    f" {now.p95 / before.p95:.2f}   CPU {now.cpu / before.cpu:.2f}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
