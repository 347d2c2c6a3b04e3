"""What was predicted, held against what came."""

from __future__ import annotations

from dataclasses import replace

from tests.support.giants import LLAMA_8B, giant, gpu, machine
from tuner.planning.planner import make_plan
from tuner.profiles.actual import differences
from tuner.wishes import Wishes


def test_a_difference_over_two_percent_is_recorded() -> None:
    """Only what is off by more, with its sign."""
    plan = make_plan(giant(LLAMA_8B), machine(gpu(8)), Wishes())
    guess = plan.chosen.footprint
    gpu_use, host_use = guess.uses
    real = replace(
        guess,
        uses=(
            replace(gpu_use, compute=gpu_use.compute * 2, kv_cache=int(gpu_use.kv_cache * 1.01)),
            replace(host_use, weights=int(host_use.weights * 0.99)),
        ),
    )
    assert differences(guess, real) == {"GPU0 compute": -0.5}
