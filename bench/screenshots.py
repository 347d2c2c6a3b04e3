"""The pictures of README: docs/img/*.svg, made by the program itself.

    python bench/screenshots.py [--only chat,messages,explorer,report]

The chat and its messages are a real conversation with the demo model on this machine, at
temperature 0, so that only speeds differ from one run to the next. The explorer and the report are
the real arithmetic for a model that is too large for most machines, by the header among the tests'
data and for hardware that is only described.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from textual.pilot import Pilot

sys.path.append(str(Path(__file__).resolve().parents[1]))

from tests.support.chat_fakes import FakeRunning, ask, chat_screen, is_idle, make_app, until
from tests.support.explorers import explorer_of
from tests.support.giants import QWEN_30B_A3B, giant
from tui.app import KvchatApp
from tui.screens.explorer import ExplorerScreen
from tui.storage import Conversations
from tuner.demo import demo_model_path
from tuner.launch import Launcher
from tuner.machine.stated import stated
from tuner.machine.stated_gpus import parse_gpus
from tuner.planning import Plan, make_plan
from tuner.report.text import report_text
from tuner.sampling import Sampling
from tuner.wishes import LaunchRequest, Wishes

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "img"
SIZE = (92, 28)
MOST_BYTES = 60_000
SECONDS = 120.0  # for an answer
QUESTIONS = (
    "Write a Python function that says whether a number is prime.",
    "Why is the sky blue? Answer in two sentences.",
)
# Where the fonts of a picture come from: the reader's own will do.
_FONTS = re.compile(r"@font-face\s*\{.*?\}\s*", re.DOTALL)


def save(pilot: Pilot[None], name: str) -> None:
    """Writes what is on the screen. Raises SystemExit where it is too large."""
    svg = _FONTS.sub("", pilot.app.export_screenshot(title="kvchat"))
    svg = "\n".join(line.strip() for line in svg.splitlines() if line.strip()) + "\n"
    size = len(svg.encode())
    if size > MOST_BYTES:
        raise SystemExit(f"{name}.svg has {size:,} bytes, more than {MOST_BYTES:,}.")
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.svg").write_text(svg, encoding="utf-8")
    print(f"docs/img/{name}.svg  {size:,} bytes")


@dataclass
class Described(FakeRunning):
    """A model that is too large for this machine, planned for another."""

    plan: Plan | None = None

    def report_text(self, width: int) -> str:
        assert self.plan is not None
        return report_text(self.plan, width=width)


async def of_the_demo(folder: Path, only: list[str]) -> None:
    """The chat, then the same with the cursor on a code block."""
    launcher = Launcher(LaunchRequest(demo_model_path(), Wishes()))
    store = Conversations.open(folder / "conversations.db")
    app = KvchatApp(launcher, store, sampling=Sampling(temperature=0.0, max_tokens=220))
    async with app.run_test(size=SIZE) as pilot:
        screen = await chat_screen(pilot)
        for question in QUESTIONS[::-1]:
            await ask(pilot, question, wait=False)
            await until(pilot, lambda: is_idle(screen) and screen.chat.last_answer, SECONDS)
        status = screen._lines.status
        await until(pilot, lambda: status.status and status.status.ram, SECONDS)
        if "chat" in only:
            save(pilot, "chat")
        await pilot.press("ctrl+up")
        await pilot.pause(0.5)
        if "messages" in only:
            save(pilot, "messages")
        await app.action_quit()
    store.close()


async def of_a_large_model(folder: Path, only: list[str]) -> None:
    """The fit explorer and the fit report."""
    model = giant(QWEN_30B_A3B)
    where = stated(parse_gpus(["RTX 3060:12GiB"]), ram=64 << 30, cores=8)
    running = Described(make_explorer=lambda: explorer_of(model, where))
    running.plan = make_plan(model, where, Wishes())
    store = Conversations.open(folder / "others.db")
    async with make_app(running, store).run_test(size=SIZE) as pilot:
        chat = await chat_screen(pilot)
        if "explorer" in only:
            await pilot.press("f3")
            await until(pilot, lambda: isinstance(pilot.app.screen, ExplorerScreen))
            explorer = pilot.app.screen
            assert isinstance(explorer, ExplorerScreen)
            await until(pilot, lambda: explorer._own, SECONDS)
            await pilot.app.workers.wait_for_complete()  # the chart is whole
            await pilot.pause()
            save(pilot, "explorer")
            await pilot.press("escape")
            await until(pilot, lambda: pilot.app.screen is chat)
        if "report" in only:
            await pilot.press("f2")
            await pilot.pause(1.0)
            save(pilot, "report")
    store.close()


async def main(only: list[str]) -> None:
    """Makes them in a folder of their own: nobody's profiles or conversations are read."""
    with tempfile.TemporaryDirectory() as name:
        for variable in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
            os.environ[variable] = name
        if {"chat", "messages"} & set(only):
            await of_the_demo(Path(name), only)
        if {"explorer", "report"} & set(only):
            await of_a_large_model(Path(name), only)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="chat,messages,explorer,report")
    asyncio.run(main(parser.parse_args().only.split(",")))
