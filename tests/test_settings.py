"""Copies of the settings keep every field, those of tomorrow too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import pytest

from tests.support.giants import LLAMA_8B, QWEN_30B_A3B, giant, gpu, machine
from tuner.machine.machine import Machine
from tuner.memory.estimator import Estimator
from tuner.planning import solver
from tuner.planning.planner import make_plan
from tuner.settings import FIELDS, Settings
from tuner.wishes import Wishes


@dataclass(frozen=True, slots=True)
class Wider(Settings):
    """Settings as they may be one day."""

    n_draft: int = 0


NOT_DEFAULTS = Wider(
    8192, "q8_0", "q5_1", 17, 3, 256, (2.0, 1.0), "off", True, False, n_draft=16
)  # fmt: skip


@pytest.mark.parametrize(
    ("copied", "changed"),
    [
        (lambda s: s.with_context(4096), {"n_ctx": 4096}),
        (lambda s: s.with_split((1.0, 5.0)), {"tensor_split": (1.0, 5.0)}),
    ],
)
def test_a_copy_keeps_every_other_field(
    copied: Callable[[Settings], Settings], changed: dict[str, Any]
) -> None:
    """The same as `dataclasses.replace`, for a field added by a class derived too."""
    stated = {f.name for f in fields(Wider) if getattr(NOT_DEFAULTS, f.name) != f.default}
    assert stated == {*FIELDS, "n_draft"}
    assert copied(NOT_DEFAULTS) == replace(NOT_DEFAULTS, **changed)


@pytest.mark.parametrize("name", [LLAMA_8B, QWEN_30B_A3B])
@pytest.mark.parametrize("where", [machine(gpu(10)), machine(gpu(6), gpu(4, 1)), machine()])
def test_a_field_added_survives_the_search(
    name: str, where: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set where a search begins, it is there in every footprint asked and every plan given."""
    monkeypatch.setattr(solver, "Settings", partial(Wider, n_draft=16))
    answer = Estimator.totals
    asked: set[int] = set()

    def listen(self: Estimator, settings: Settings, **how: Any) -> list[int]:
        asked.add(getattr(settings, "n_draft", 0))
        return answer(self, settings, **how)

    monkeypatch.setattr(Estimator, "totals", listen)
    plan = make_plan(giant(name), where, Wishes())
    found = [plan.chosen, *plan.alternatives, *plan.fallbacks]
    found += [plan.one_more_gib] if plan.one_more_gib else []
    assert {getattr(c.settings, "n_draft", 0) for c in found} == {16}
    assert asked == {16}
