"""How long a key takes to reach the screen while a long answer streams, against an idle chat.

    python bench/ui_latency.py [--tokens 4000] [--rate 100] [--pace 0.1]

Runs the real program headless with a scripted model that writes paragraphs, lists, tables, long
fences and one line without end at `--rate` tokens a second, types into the prompt, and prints the
time from each key to the end of the screen update that shows it, and how often and how long the
event loop was not free (during which no key could be taken in at all): by the clock, which other
programs' work moves too, and by the CPU time of what it did without a pause, which they do not.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from textual import events

sys.path.append(str(Path(__file__).resolve().parents[1]))

from tests.support.chat_fakes import FakeRunning, chat_screen, make_app
from tui.screens import ChatScreen
from tui.storage import Conversations
from tui.widgets import Prompt
from tuner.engine.protocol import Done, Message, Sampling, Text

BEAT_SECONDS = 0.002
BLOCKED_MS = 20.0
LINE_CHARS = 60  # typed before the prompt is cleared: it stays one line
PART = (
    "## A section with a heading\n\n"
    + "Some *words* of a paragraph with `code` in it and **more** of them. " * 6
    + "\n\n"
    + "".join(f"- item {n} with a few words\n  - and a nested one\n" for n in range(8))
    + "\n| name | value |\n|---|---|\n"
    + "".join(f"| row {n} | {n * n} |\n" for n in range(8))
    + "\n```python\n"
    + "".join(
        f"def function_{n}(x: int) -> int:\n    return x * {n}  # note\n\n" for n in range(60)
    )
    + "```\n\n"
    + "again and again " * 120
    + "\n\n"
)


class Streaming(FakeRunning):
    """Writes `tokens` tokens of four characters at `rate` a second."""

    tokens = 4000
    rate = 100.0

    def generate(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        continue_last: bool = False,
        think: str = "",
    ) -> Iterator[Any]:
        self._stop.clear()
        text = PART * (4 * self.tokens // len(PART) + 1)
        began = time.perf_counter()
        n = 0
        while n < self.tokens and not self._stop.is_set():
            due = min(self.tokens, int((time.perf_counter() - began) * self.rate) + 1)
            for at in range(n, due):
                yield Text(text[4 * at : 4 * at + 4], 1)
            n = due
            time.sleep(1 / min(self.rate, 200))
        yield Done("stopped" if self._stop.is_set() else "end", 1, 0, n, 0.1, n / self.rate, n)


async def type_keys(screen: ChatScreen, seconds: float, pace: float) -> list[float]:
    """Milliseconds from key to screen, for keys typed during so many seconds, `pace` seconds from
    the screen update to the next key on average (as uneven as people type)."""
    uneven = random.Random(0)
    prompt = screen.query_one(Prompt)
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        if len(prompt.text) > LINE_CHARS:
            prompt.clear()
        drawn = asyncio.Event()
        length = len(prompt.text)
        began = time.perf_counter()
        screen.app.post_message(events.Key("x", "x"))
        while len(prompt.text) == length:
            await asyncio.sleep(0)
        prompt.call_after_refresh(drawn.set)
        await drawn.wait()
        taken.append(1000 * (time.perf_counter() - began))
        await asyncio.sleep(pace * uneven.uniform(0.5, 1.5))
    return taken


async def watch(pauses: list[float]) -> None:
    """Milliseconds for which the event loop kept everything waiting, until it is cancelled."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(BEAT_SECONDS)
        pauses.append(1000 * (time.perf_counter() - began - BEAT_SECONDS))


@contextmanager
def each_step(steps: list[float]) -> Iterator[None]:
    """Milliseconds of CPU time of each thing that the event loop does without a pause."""
    run = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        steps.append(1000 * (time.thread_time() - began))

    asyncio.Handle._run = timed  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign]


def line(name: str, taken: list[float]) -> str:
    cuts = statistics.quantiles(taken, n=100)
    return (
        f"{name:<10} keys {len(taken):4}   median {statistics.median(taken):6.1f} ms"
        f"   95 % {cuts[94]:6.1f} ms   99 % {cuts[98]:6.1f} ms   most {max(taken):6.1f} ms"
    )


async def measure(tokens: int, rate: float, pace: float) -> None:
    running = Streaming()
    running.tokens, running.rate = tokens, rate
    with tempfile.TemporaryDirectory() as folder:
        store = Conversations.open(Path(folder) / "conversations.db")
        app = make_app(running, store)
        async with app.run_test(size=(120, 40)) as pilot:
            screen = await chat_screen(pilot)
            await type_keys(screen, 1.0, pace)  # warm up
            idle = await type_keys(screen, 4.0, pace)
            prompt = screen.query_one(Prompt)
            prompt.text = "Go"
            await pilot.press("enter")
            pauses: list[float] = []
            watcher = asyncio.create_task(watch(pauses))
            cpu = time.process_time()
            steps: list[float] = []
            with each_step(steps):
                busy = await type_keys(screen, tokens / rate, pace)
            cpu = (time.process_time() - cpu) * rate / tokens
            watcher.cancel()
            while screen.generating:
                await asyncio.sleep(0.05)
            after = await type_keys(screen, 4.0, pace)
        store.close()
    print(line("idle", idle))
    print(line("streaming", busy))
    print(line("after", after))
    blocked = [pause for pause in pauses if pause > BLOCKED_MS]
    print(
        f"streaming: loop blocked over {BLOCKED_MS:.0f} ms {len(blocked) * rate / tokens:.2f} times"
        f" a second, at most {max(pauses):.1f} ms; {100 * cpu:.0f} % of a core"
    )
    long = [step for step in steps if step > BLOCKED_MS]
    print(
        f"streaming: steps of over {BLOCKED_MS:.0f} ms of CPU time {len(long) * rate / tokens:.2f}"
        f" times a second, at most {max(steps):.1f} ms"
    )
    median = statistics.median(busy) / statistics.median(idle)
    high = statistics.quantiles(busy, n=100)[94] / statistics.quantiles(idle, n=100)[94]
    print(f"streaming / idle: median {median:.2f}   95 % {high:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--pace", type=float, default=0.1, help="seconds between keys")
    options = parser.parse_args()
    asyncio.run(measure(options.tokens, options.rate, options.pace))


if __name__ == "__main__":
    main()
