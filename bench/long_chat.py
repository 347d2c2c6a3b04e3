"""What a long chat does to memory.

    python -m bench.long_chat [--turns 1000] [--demo]

Runs the real program headless, asks so many questions, and prints every 100 turns the resident
memory of the program and of the model process, the files and threads that both have, the widgets on
the screen, and those that memory holds. Answers come by script (lists, headings, code), or with
--demo from the embedded model, eight tokens each; where its context is full a new chat begins, and
the last ones stay in the model process's RAM (docs/engine.md). At the end it prints by how much the
program grew a turn after the first 100, which should be little more than what was said and where it
is shown (a few KiB); the widgets must be no more than then by half; exit status 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
from pathlib import Path

import psutil

from tests.support.chat_fakes import FakeLauncher, FakeRunning, chat_screen, is_idle, until
from tui.app import KvchatApp
from tui.storage import Conversations
from tui.widgets import Prompt
from tuner.demo import demo_model_path
from tuner.engine.protocol import Message, Sampling
from tuner.launch import Launcher
from tuner.settings import Settings
from tuner.units import KIB, MIB
from tuner.wishes import LaunchRequest, Wishes

STEP = 100  # turns between two lines
ANSWER = (
    "## A heading\n\nSome *words* of `code`.\n\n- one\n- two\n- three\n\n```python\nx = 1\n```\n"
)


class _Forgetful(list[tuple[Message, ...]]):
    """What the scripted model was asked, which is not to count as the chat's memory."""

    def append(self, value: tuple[Message, ...]) -> None:
        pass


def _line(app: KvchatApp, turn: int) -> tuple[int, int]:
    """Prints a line; the widgets that memory holds and the program's bytes."""
    process = psutil.Process()
    children = process.children(recursive=True)
    worker = sum(child.memory_info().rss for child in children)
    files = process.num_fds() + sum(child.num_fds() for child in children)
    threads = process.num_threads() + sum(child.num_threads() for child in children)
    resident = process.memory_info().rss
    gc.unfreeze()  # what is frozen is not listed
    gc.collect()
    from textual.widget import Widget  # noqa: PLC0415 - beside its only use

    alive = sum(isinstance(one, Widget) for one in gc.get_objects())
    print(
        f"{turn:6} turns   program {resident / MIB:6.1f} MiB"
        f"   model process {worker / MIB:6.1f} MiB"
        f"   files {files:4} threads {threads:3}"
        f"   widgets {len(app.screen.query('*')):5} shown {alive:6} alive",
        flush=True,
    )
    return alive, resident


async def run(turns: int, demo: bool) -> int:
    with tempfile.TemporaryDirectory() as folder:
        store = Conversations.open(Path(folder) / "conversations.db")
        scripted = FakeRunning(
            [[ANSWER] for _ in range(turns)], settings=Settings(n_ctx=100 * (turns + 1))
        )
        scripted.prompts = _Forgetful()
        fake = FakeLauncher(scripted)
        request = LaunchRequest(demo_model_path(), Wishes(n_ctx=2048), use_profile=False)
        app = KvchatApp(
            Launcher(request) if demo else fake,
            store,
            Sampling(temperature=0, max_tokens=8),
        )
        async with app.run_test(size=(100, 40)) as pilot:
            screen = await chat_screen(pilot)
            assert screen.running_model is not None
            lines: list[tuple[int, int]] = []
            for turn in range(1, turns + 1):
                used = screen.running_model.settings.n_ctx - 64
                if demo and (getattr(screen.chat.last_answer, "n_ctx_used", 0) or 0) > used:
                    await pilot.press("ctrl+n")
                n_messages = len(screen.chat.path)
                screen.query_one(Prompt).text = f"Question number {turn}?"
                await pilot.press("enter")
                await until(pilot, lambda n=n_messages: len(screen.chat.path) >= n + 2)  # type: ignore[misc]
                await until(pilot, lambda: is_idle(screen), 120)
                if turn % STEP == 0:
                    lines.append(_line(app, turn))
            await pilot.press("ctrl+q")
        store.close()
    if len(lines) < 2:  # noqa: PLR2004
        return 0
    (first_alive, first), (last_alive, last) = lines[0], lines[-1]
    per_turn = (last - first) / (STEP * (len(lines) - 1))
    print(f"the program grew by {per_turn / KIB:.1f} KiB a turn")
    return int(last_alive > 1.5 * first_alive)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--turns", type=int, default=1000)
    parser.add_argument("--demo", action="store_true")
    args = parser.parse_args(argv)
    return asyncio.run(run(args.turns, args.demo))


if __name__ == "__main__":
    sys.exit(main())
