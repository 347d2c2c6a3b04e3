"""How long a key takes to reach the terminal while an answer streams, and how long it takes until
one can be pressed.

    python -m bench.ui_latency [--baseline REF] [--case NAME ...] [--seconds 8]

Runs the real program on a terminal of its own (a pty), its model process by script, and types into
it: from each key to the bytes on the terminal that show it. Keys come at any moment, 35 to 105 ms
apart. Cases are a rate in tokens a second, the messages that the conversation has already, and what
streams; `idle` types where nothing does. What keeps a key waiting is what the screen's thread does
without a pause: the longest and the third longest of these steps are told in CPU time, which other
programs do not lengthen. Beside these: the CPU time of the program while it streams, and while
nothing happens at all, in percent of a core, with and without its model process.

Case `open` starts the program anew, with its real model process and an empty conversation: seconds
until the prompt is drawn, until a letter typed then is on the terminal, and its CPU time until
then. The modules are compiled, as those of an installation are.

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

from tests.support.gguf_files import tiny_llama

ROOT = Path(__file__).resolve().parents[1]
SIZE = (40, 120)  # rows and columns
APART = (0.035, 0.105)  # seconds from one key to the next
LETTERS = "".join(map(chr, range(0x410, 0x450)))  # in no answer; the prompt has each once
IDLE_SECONDS = 5.0
PATIENCE = 30.0  # seconds, for anything to appear
CLEAR = "\x15"  # Ctrl+U
OPEN = "open"  # the case
STARTS = 7  # of it

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
            f" ({self.idle_cpu_all:.2f} % with the model process)"
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
def on_terminal(tree: Path, args: list[str], folder: str) -> Iterator[Terminal]:
    """A Python program of a tree on a terminal of its own; `folder` is the user's."""
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
    process = subprocess.Popen(
        [sys.executable, *args], cwd=tree, env=environment(tree, folder), stdin=slave, stdout=slave,
        stderr=slave, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    try:
        yield Terminal(process, master, Path(folder) / "steps.json")
    finally:
        process.kill()
        process.wait()
        os.close(master)


def environment(tree: Path, folder: str) -> dict[str, str]:
    """Of a program of a tree, whose modules are compiled at its first start."""
    homes = ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "HOME")
    own = ("KVCHAT_DATA_DIR", "KVCHAT_CONFIG_DIR", "KVCHAT_LOG_DIR")
    env = {**os.environ, **dict.fromkeys((*homes, *own), folder), "TERM": "xterm-256color"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**env, "PYTHONPATH": str(tree)}


@contextmanager
def started(tree: Path, case: Case, seconds: float) -> Iterator[Terminal]:
    """The program of a tree, with a conversation of so many messages."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-c", _FILL, folder, str(case.n_messages)],
            input=MIXED[:1200].encode(), cwd=tree, env=environment(tree, folder), check=True,
            capture_output=True,
        )  # fmt: skip
        text = TEXTS[case.text]
        n_chars = int(4 * max(case.rate, 1) * (seconds + 4))
        text = (text * (n_chars // len(text) + 1))[:n_chars]
        delay = 1 / case.rate if case.rate else 0.01
        steps = str(Path(folder) / "steps.json")
        values = {"TEXT": repr(text), "DELAY": repr(delay), "STEPS": repr(steps)}
        code = _PROGRAM
        for name, value in values.items():
            code = code.replace(name, value)
        args = ["-c", code, f"{folder}/tiny.gguf", "--resume", "c", "--no-profile"]
        with on_terminal(tree, args, folder) as terminal:
            yield terminal


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
        terminal.read_until("Write a message")
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


@dataclass(frozen=True)
class Start:
    """Seconds until the prompt is drawn, and until a key is; CPU seconds until then."""

    prompt: float
    key: float
    cpu: float


def starts(tree: Path) -> list[Start]:
    """The program of a tree, started some times after a first that compiles it."""
    found: list[Start] = []
    with tempfile.TemporaryDirectory() as folder:
        tiny_llama(Path(folder) / "tiny.gguf", {})
        args = ["-m", "tui.start", f"{folder}/tiny.gguf", "--no-profile"]
        for _ in range(STARTS + 1):
            began = time.perf_counter()
            with on_terminal(tree, args, folder) as terminal:
                terminal.read_until("Write a message")
                prompt = time.perf_counter() - began
                terminal.press(LETTERS[0])
                terminal.read_until(LETTERS[0])
                key = time.perf_counter() - began
                found.append(Start(prompt, key, terminal.cpu_seconds()[0]))
    return found[1:]


def start_line(name: str, found: list[Start]) -> str:
    """The median of each, and the longest."""
    prompt = [start.prompt for start in found]
    key = [start.key for start in found]
    cpu = statistics.median(start.cpu for start in found)
    return (
        f"{name:<24} starts {len(found)}   prompt {statistics.median(prompt):.2f}, at most"
        f" {max(prompt):.2f} s   a key {statistics.median(key):.2f}, at most {max(key):.2f} s"
        f"   {cpu:.2f} s of CPU"
    )


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
    names = [OPEN, *(case.name for case in CASES)]
    parser.add_argument("--case", action="append", choices=names)
    parser.add_argument("--seconds", type=float, default=8.0, help="of typing in each case")
    args = parser.parse_args(argv)
    cases = [case for case in CASES if not args.case or case.name in args.case]
    with tree_of(args.baseline or "HEAD") as baseline:
        if not args.case or OPEN in args.case:
            if args.baseline:
                print(start_line(f"{OPEN}, {args.baseline}", starts(baseline)), flush=True)
            print(start_line(OPEN, starts(ROOT)), flush=True)
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
