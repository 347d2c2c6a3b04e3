"""How two plans differ, in words: nothing passed over, nothing made up."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from tests.support.giants import LLAMA_8B, QWEN_30B_A3B, giant, gpu, machine
from tuner.planning.differences import difference_text, differences
from tuner.planning.planner import make_plan
from tuner.planning.solver import Solver
from tuner.settings import Settings
from tuner.wishes import Wishes

SETTINGS = Settings(8192, "q8_0", "q8_0", 20, 3, 512)


def changed(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return (3.0, 1.0) if isinstance(value, tuple) else {"on": "off"}.get(value, "q4_0")


@pytest.mark.parametrize("name", [f.name for f in fields(Settings)])
def test_every_setting_is_told_of(name: str) -> None:
    """A field that differs is named, also one that is added later; only the split is not."""
    value = changed(getattr(SETTINGS, name))
    found = differences(giant(LLAMA_8B), SETTINGS, replace(SETTINGS, **{name: value}))
    if name == "tensor_split":
        assert found == ()
    else:
        (one,) = found
        shown = f"{value:,}" if name == "n_ctx" else str(value)
        shown = "as the file has them" if name == "use_extra_bufts" else shown
        assert shown in one.text
        assert one.clause == f"{one.verb} {one.text}"
        assert one.verb


def test_equal_settings_do_not_differ() -> None:
    assert differences(giant(LLAMA_8B), SETTINGS, SETTINGS) == ()


def test_speed_is_told_where_it_is_noticed() -> None:
    """More than a percent of it."""
    model = giant(LLAMA_8B)
    a = make_plan(model, machine(gpu(24)), Wishes()).chosen

    def at(factor: float) -> str:
        speed = replace(a.speed, decode_tps=a.speed.decode_tps * factor)
        return difference_text(model, a, replace(a, speed=speed))

    assert at(1.0) == at(1.005) == at(0.995) == ""
    assert "tokens/s" in at(1.02)
    assert "tokens/s" in at(0.98)


def test_the_parts_are_those_of_the_plan_that_is_named() -> None:
    """What the second plan has, as a list, in the words of the report."""
    model = giant(QWEN_30B_A3B)
    solver = Solver(model, machine(gpu(12)))
    wishes = Wishes(n_gpu_layers=49, type_k="f16", type_v="f16", n_ctx=8192)
    a = solver.calculate(replace(wishes, n_cpu_moe=30))
    b = solver.calculate(replace(wishes, n_cpu_moe=20, n_ctx=16_384, type_v="q8_0"))
    parts = difference_text(model, a, b).split(", about ")[0]
    assert parts == (
        "the experts of 20 layers in RAM instead of 30, 16,384 tokens of context, "
        "cache K f16, V q8_0"
    )
