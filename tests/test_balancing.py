"""When a loaded model moves, as the memory beside it comes and goes: all but the hardware."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.giants import LLAMA_8B, giant_path
from tests.support.launches import ASK, launcher, run
from tuner.launch import Look
from tuner.launch.balancing import Balancer
from tuner.launch.running import Running
from tuner.machine.machine import Machine
from tuner.profiles.actual import after_growth
from tuner.sampling import Sampling
from tuner.units import GIB, MIB
from tuner.wishes import Rebalance

pytestmark = pytest.mark.usefixtures("pretend")


class Day:
    """A loaded 8B model on a GPU of 8 GiB, of which others take some, hour after hour."""

    def __init__(self, running: Running, mode: Rebalance, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.running, self.mode = 0.0, running, mode
        self.balancer = Balancer(lambda: self.now)
        self.machine = running.plan.machine
        self.look_at(running)
        monkeypatch.setattr(Running, "machine_now", lambda *_, **__: self.machine)

    def look_at(self, running: Running) -> None:
        """Its scripted engine says nothing of how much it takes; the plan does."""
        self.running = running
        running.actual = replace(running.actual, footprint=running.plan.chosen.footprint)

    def taken(self, size: float) -> None:
        """So many GiB of the GPU are, by other programs."""
        card = self.running.plan.machine.gpus[0]
        self.machine = replace(
            self.machine, gpus=(replace(card, free=int(card.total - size * GIB)),)
        )

    def looks(self, seconds: int, *, busy: bool = False, chosen: bool = False) -> list[Look]:
        """Every two of these seconds."""
        found = []
        for _ in range(0, seconds, 2):
            self.now += 2
            look = self.balancer.look(self.running, self.mode, chosen=chosen, busy=busy, least=0)
            found.append(look)
        return found


@pytest.fixture
def running(tmp_path: Path) -> Running:
    loaded = run(launcher(giant_path(LLAMA_8B), tmp_path).start())[1]
    loaded.close()
    return loaded


def moves(looks: list[Look]) -> list[Look]:
    return [look for look in looks if look.settings is not None]


def test_nothing_moves_while_nothing_is_taken(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = Day(running, Rebalance.FULL, monkeypatch)
    assert day.looks(300) == [Look()] * 150


def test_a_smaller_plan_once_memory_is_taken_for_seconds(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not while an answer is written, and only said where nothing is to move."""
    day = Day(running, Rebalance.SHRINK, monkeypatch)
    day.looks(10)
    day.taken(2)
    assert not moves(day.looks(20, busy=True))
    (look, *_) = moves(day.looks(2))
    assert look.settings is not None
    assert look.tight == "GPU0"
    assert look.why.startswith("Other programs need GPU0: ")
    assert not look.offered
    weighed = running.tuning.solver.on(day.machine).weigh(
        look.settings, running.tuning.solver.objective(running.tuning.wishes)
    )
    assert running.tuning.solver.on(day.machine).exactly(weighed).fits
    off = Day(running, Rebalance.OFF, monkeypatch)
    off.looks(10)
    off.taken(2)
    said = off.looks(20)
    assert said[-1] == Look("GPU0")
    assert not moves(said)


def test_what_a_long_prompt_took_is_not_free_for_others(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the model's own: what others have left is less by that."""
    day = Day(running, Rebalance.SHRINK, monkeypatch)
    day.looks(10)
    running.actual = after_growth(running.actual, (GIB,))
    card = day.machine.gpus[0]
    left = running.actual.footprint.uses[0].total + 200 * MIB
    day.machine = replace(day.machine, gpus=(replace(card, free=left),))
    assert day.looks(10) == [Look()] * 5
    day.machine = replace(day.machine, gpus=(replace(card, free=left - 100 * MIB),))
    assert day.looks(10)[-1].tight == "GPU0"


@pytest.mark.parametrize(
    ("mode", "chosen", "n_moves"),
    [(Rebalance.FULL, False, 1), (Rebalance.SHRINK, False, 1), (Rebalance.FULL, True, 0)],
)
def test_a_better_plan_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Rebalance, chosen: bool, n_moves: int
) -> None:
    """By the user's own wishes, whatever runs; taken, or offered once; not where the user chose
    what runs."""
    start = launcher(giant_path(LLAMA_8B), tmp_path)
    first = run(start.start())[1]
    small = replace(first.plan.chosen.settings, n_ctx=4096, n_gpu_layers=8)
    running = run(first.try_out(small, None))[1]
    running.close()
    day = Day(running, mode, monkeypatch)
    card = running.plan.machine.gpus[0]
    day.machine = replace(day.machine, gpus=(replace(card, total=16 * GIB, free=15 * GIB),))
    found = moves(day.looks(120, chosen=chosen))
    assert len(found[:1]) == n_moves
    if found:
        assert found[0].settings is not None
        assert found[0].settings.n_gpu_layers > small.n_gpu_layers
        assert found[0].offered is (mode is Rebalance.SHRINK)
        assert mode is Rebalance.FULL or len(found) == 1


@pytest.mark.parametrize("loaded_again", [False, True])
def test_a_move_that_fails_is_tried_ever_less(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded_again: bool
) -> None:
    """Each try costs a load, or two: what stays as it was, or is loaded again as it was, is not to
    be moved again every few seconds."""
    day = Day(running, Rebalance.SHRINK, monkeypatch)
    other = run(launcher(giant_path(LLAMA_8B), tmp_path).start())[1]
    other.close()
    day.looks(10)
    day.taken(2)
    n_moves = 0
    for _ in range(1800):
        found = day.looks(2)
        n_moves += len(moves(found))
        if moves(found) and loaded_again:
            day.look_at((other, running)[n_moves % 2])
    assert 3 <= n_moves <= 8


def test_a_move_is_not_followed_by_another_at_once(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is loaded then is what is looked at."""
    day = Day(running, Rebalance.FULL, monkeypatch)
    day.looks(10)
    day.taken(2)
    (look, *_) = moves(day.looks(10))
    assert look.settings is not None
    monkeypatch.setattr("tuner.machine.measure.measure", lambda **_: day.machine)
    again: Machine = day.machine
    moved = run(launcher(giant_path(LLAMA_8B), tmp_path).start(look.settings))[1]
    moved.close()
    assert moved.plan.machine.gpus[0].free == again.gpus[0].free
    day.look_at(moved)
    assert not moves(day.looks(300))


def test_a_gpu_that_only_the_engine_knows_is_asked_for_between_answers(tmp_path: Path) -> None:
    """By the process that has it open; while that answers, what it said last counts."""
    starts = launcher(giant_path(LLAMA_8B), tmp_path, text="word " * 400, vram_free=GIB // 2)
    running = run(starts.start())[1]
    try:
        running.actual = replace(running.actual, footprint=running.plan.chosen.footprint)
        ours = running.actual.footprint.uses[0].total

        def free() -> int:
            return running.machine_now(waits=False).gpus[0].free

        stream = running.generate(ASK, Sampling())
        next(stream)
        assert free() == 8 * GIB, "as it was measured"
        running.stop()
        assert list(stream)
        assert free() == GIB // 2 + ours
        stream = running.generate(ASK, Sampling())
        next(stream)
        assert free() == GIB // 2 + ours
        running.stop()
        assert list(stream)
    finally:
        running.close()
    assert free() == GIB // 2 + ours, "nobody is there to ask"
