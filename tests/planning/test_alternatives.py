"""What else is offered beside the choice."""

from __future__ import annotations

import pytest

from tests.support.giants import AYA_35B, GEMMA_27B, LLAMA_8B, QWEN_30B_A3B, giant, gpu, machine
from tuner.planning import Candidate, make_plan
from tuner.wishes import Wishes

CARDS = ((6,), (12,), (23,), (8, 6))  # GiB; over two, several ways of loading look alike


def worth(c: Candidate) -> tuple[float, int, float]:
    """What a user notices, more being better."""
    return round(c.speed.decode_tps, 1), c.settings.n_ctx, -c.quality.loss


@pytest.mark.parametrize("name", [LLAMA_8B, AYA_35B, QWEN_30B_A3B, GEMMA_27B])
@pytest.mark.parametrize("gibs", CARDS, ids=str)
def test_each_alternative_has_something_that_no_other_has(
    name: str, gibs: tuple[float, ...]
) -> None:
    """None is beaten by the choice or by another one, none looks like another, and the fastest
    comes first."""
    where = machine(*(gpu(gib, i) for i, gib in enumerate(gibs)))
    plan = make_plan(giant(name), where, Wishes())
    shown = [worth(c) for c in (plan.chosen, *plan.alternatives)]
    assert len(set(shown)) == len(shown)
    for a in shown[1:]:
        for b in shown:
            assert a == b or any(x > y for x, y in zip(a, b, strict=True)), (a, b)
    speeds = [c.speed.decode_tps for c in plan.alternatives]
    assert speeds == sorted(speeds, reverse=True)
    assert all(c.note.startswith("--") for c in plan.alternatives)


def test_what_the_user_fixed_is_not_offered_otherwise() -> None:
    """With the types and the context fixed, only another preference is left."""
    wishes = Wishes(n_ctx=8192, type_k="f16", type_v="f16")
    plan = make_plan(giant(LLAMA_8B), machine(gpu(6)), wishes)
    assert all(c.note.startswith("--prefer") for c in plan.alternatives)
    free = make_plan(giant(LLAMA_8B), machine(gpu(6)), Wishes())
    assert {c.note.split()[0] for c in free.alternatives} > {"--prefer"}
