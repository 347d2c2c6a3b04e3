"""Copies of the settings keep every field, those of tomorrow too, and a wish reaches every plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import pytest

from tests.support.giants import LLAMA_8B, QWEN_30B_A3B, giant, gpu, machine
from tests.support.settings import ADDED, extended, unusual
from tuner import wishes
from tuner.machine.machine import Machine
from tuner.memory.estimator import Estimator
from tuner.planning import solver
from tuner.planning.plan import Plan
from tuner.planning.planner import make_plan
from tuner.settings import FIELDS, Settings
from tuner.wishes import Wishes

PLACES = [machine(gpu(10)), machine(gpu(6), gpu(4, 1)), machine()]

Wider: Any = extended()
NOT_DEFAULTS = Wider(**{name: getattr(unusual(), name) for name in FIELDS}, **{ADDED: 16})


def added_to(plan: Plan) -> set[int]:
    """The value of the added field in all plans of an answer."""
    found = [plan.chosen, *plan.alternatives, *plan.fallbacks]
    found += [plan.one_more_gib] if plan.one_more_gib else []
    return {getattr(c.settings, ADDED, 0) for c in found}


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
    assert stated == {*FIELDS, ADDED}
    assert copied(NOT_DEFAULTS) == replace(NOT_DEFAULTS, **changed)


@pytest.mark.parametrize("name", [LLAMA_8B, QWEN_30B_A3B])
@pytest.mark.parametrize("where", PLACES)
def test_a_field_added_survives_the_search(
    name: str, where: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set where a search begins, it is there in every footprint asked and every plan given."""
    monkeypatch.setattr(solver, "Settings", partial(Wider, **{ADDED: 16}))
    answer = Estimator.totals
    asked: set[int] = set()

    def listen(self: Estimator, settings: Settings, *of: Any, **how: Any) -> list[int]:
        asked.add(getattr(settings, ADDED, 0))
        return answer(self, settings, *of, **how)

    monkeypatch.setattr(Estimator, "totals", listen)
    assert added_to(make_plan(giant(name), where, Wishes())) == {16}
    assert asked == {16}


@dataclass(frozen=True, slots=True)
class WiderWishes(Wishes):
    """Wishes as they may be one day."""

    added_later: int | None = None


@pytest.mark.parametrize("where", PLACES)
def test_a_wish_added_reaches_every_plan(where: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that Wishes and Settings have in common needs no other word in the search."""
    monkeypatch.setattr(solver, "Settings", Wider)
    monkeypatch.setattr(wishes, "FIELDS", (*FIELDS, ADDED))
    assert ADDED in WiderWishes.__dataclass_fields__
    whole = WiderWishes(8192, False, "f16", "f16", 3, added_later=5)
    for fixed in (WiderWishes(added_later=5), whole):
        assert added_to(make_plan(giant(LLAMA_8B), where, fixed)) == {5}
    assert added_to(make_plan(giant(LLAMA_8B), where, WiderWishes())) == {0}
