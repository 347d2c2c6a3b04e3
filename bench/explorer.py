"""How long a step of the fit explorer takes, from the key to the screen that shows what it gives.

    python bench/explorer.py [MODEL.gguf ...] [--steps 60] [--gpus 1]

Runs the real program headless over a scripted chat, with the real arithmetic for each model
(without one: four of the tests' headers) on a machine of cards with 12 GiB; turns each dial to and
fro, and prints the milliseconds until the quick figures and the exact ones are drawn (of the quick
ones also those of CPU time, which other programs do not lengthen), and the CPU time of the longest
thing that the screen's thread did without a pause.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from textual import events

sys.path.append(str(Path(__file__).resolve().parents[1]))

from tests.support.chat_fakes import FakeRunning, chat_screen, make_app, until
from tests.support.explorers import explorer_of
from tests.support.giants import (
    AYA_35B,
    GEMMA_27B,
    LLAMA_8B,
    QWEN_30B_A3B,
    giant_path,
    gpu,
    machine,
)
from tui.screens.explorer import ExplorerScreen
from tui.storage import Conversations
from tuner.model.model import read_model

GOAL_MS = 50.0
BLOCKED_MS = 20.0


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


async def press(screen: ExplorerScreen, key: str) -> tuple[float, float, float] | None:
    """Milliseconds until the quick and the exact figures are drawn, and of CPU time until the quick
    ones are; None at the end of a dial."""
    before, began, cpu = screen._settings, time.perf_counter(), time.process_time()
    screen.app.post_message(events.Key(key, None))
    while screen._settings == before:
        await asyncio.sleep(0)
        if time.perf_counter() - began > 1:
            return None
    quick = await drawn(screen, exact=False)
    cpu = time.process_time() - cpu
    exact = await drawn(screen, exact=True)
    return 1000 * (quick - began), 1000 * (exact - began), 1000 * cpu


async def drawn(screen: ExplorerScreen, *, exact: bool) -> float:
    """When what the dials say has been answered and is on the screen."""
    while True:
        weighed = screen._weighed
        if weighed and weighed.settings == screen._settings and (weighed.exact or not exact):
            break
        await asyncio.sleep(0.001)
    refreshed = asyncio.Event()
    screen.call_after_refresh(refreshed.set)
    await refreshed.wait()
    return time.perf_counter()


async def measure(path: Path, n_gpus: int, n_steps: int) -> None:
    model = read_model(path)
    where = machine(*(replace(gpu(12, i), source="measured") for i in range(n_gpus)))

    steps: list[tuple[float, float, float]] = []
    longest: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        store = Conversations.open(Path(folder) / "conversations.db")
        app = make_app(FakeRunning(make_explorer=lambda: explorer_of(model, where)), store)
        async with app.run_test(size=(120, 40)) as pilot:
            await chat_screen(pilot)
            await pilot.press("f3")
            await until(pilot, lambda: isinstance(app.screen, ExplorerScreen))
            screen = app.screen
            assert isinstance(screen, ExplorerScreen)
            await until(pilot, lambda: screen._own is not None, 60)
            await asyncio.sleep(2)
            assert screen._explorer is not None
            each = max(2, n_steps // len(screen._explorer.dials))
            with each_step(longest):
                for _ in screen._explorer.dials:
                    for n in range(each):
                        key = "left" if n < each // 2 else "right"
                        if taken := await press(screen, key):
                            steps.append(taken)
                    await pilot.press("down")
        store.close()
    quick, exact, cpu = zip(*steps, strict=True)
    print(
        f"{model.name[:24]}, GPUs: {n_gpus}, steps: {len(steps)}, over {GOAL_MS:.0f} ms: "
        f"{sum(step > GOAL_MS for step in quick)}\n"
        f"  quick {line(quick)}   CPU {line(cpu)}   exact {line(exact)}\n"
        f"  screen's thread: {max(longest):.1f} ms at most, over {BLOCKED_MS:.0f} ms "
        f"{sum(step > BLOCKED_MS for step in longest)} times",
        flush=True,
    )


def line(taken: Sequence[float]) -> str:
    return f"median {statistics.median(taken):5.1f} ms, most {max(taken):5.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--gpus", type=int, default=1)
    options = parser.parse_args()
    usual = map(giant_path, (LLAMA_8B, AYA_35B, QWEN_30B_A3B, GEMMA_27B))
    for path in options.models or usual:
        asyncio.run(measure(path, options.gpus, options.steps))


if __name__ == "__main__":
    main()
