"""What is timed, in which order, and what is left out; without a model."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tuner.engine.protocol import MeasureSpeed
from tuner.engine.speed_run import SpeedRun


class Recorded:
    """An engine that takes no time and remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[str | int] = []
        self.tokens: set[int] = set()

    def compute(self, tokens: Sequence[int]) -> None:
        self.calls.append(len(tokens))
        self.tokens.update(tokens)

    def clear(self) -> None:
        self.calls.append("clear")


def run(request: MeasureSpeed, n_ctx: int = 4096) -> tuple[SpeedRun, Recorded, list[float]]:
    engine, told = Recorded(), list[float]()
    measured = SpeedRun(engine, request, chunk=64, n_ctx=n_ctx, n_vocab=50, tell=told.append)
    measured.run()
    return measured, engine, told


def test_a_short_prompt_then_each_depth_in_turn() -> None:
    """The short prompt has an empty cache each time it is read; the cache is then filled in chunks
    up to each depth, and what was decoded on the way counts as filled."""
    measured, engine, told = run(MeasureSpeed(100, (0, 200), 8, 60.0))
    assert engine.calls == [
        *["clear", 64, 36] * 3, "clear", *[1] * 8, *[64, 64, 64], *[1] * 8,
    ]  # fmt: skip
    assert [(t.depth, t.n_tokens) for t in measured.prompts] == [(0, 100), (8, 192)]
    assert [(t.depth, t.n_tokens) for t in measured.decodes] == [(0, 8), (200, 8)]
    assert all(t.seconds > 0 for t in (*measured.prompts, *measured.decodes))
    assert told == sorted(told)


def test_what_takes_too_long_is_left_out() -> None:
    """Without any time left the short prompt is read once, an empty cache is decoded from in any
    case, and nothing is filled."""
    measured, engine, _ = run(MeasureSpeed(10, (0, 200), 32, 1e-9))
    assert engine.calls == ["clear", 10, "clear", *[1] * 4]
    assert len(measured.prompts) == len(measured.decodes) == 1


@pytest.mark.parametrize(("n_ctx", "reached"), [(207, 1), (208, 2)])
def test_no_depth_is_beyond_the_context(n_ctx: int, reached: int) -> None:
    """What is decoded there must have room, too."""
    measured, *_ = run(MeasureSpeed(10, (0, 200), 8, 60.0), n_ctx)
    assert len(measured.decodes) == reached


def test_tokens_are_the_vocabulary_s_and_differ() -> None:
    """Experts are chosen by tokens: all the same would read fewer than a chat does."""
    _, engine, _ = run(MeasureSpeed(100, (0,), 8, 60.0))
    assert engine.tokens == set(range(50))
