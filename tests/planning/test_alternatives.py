"""What else is offered beside the choice."""

from __future__ import annotations

import pytest

from tests.support.giants import AYA_35B, GEMMA_27B, LLAMA_8B, QWEN_30B_A3B, giant, gpu, machine
from tests.support.headers import real_model
from tuner.planning import Candidate, Solver, make_plan
from tuner.planning.solver import MORE_WORK, MOST_WORK
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


@pytest.mark.parametrize("name", [LLAMA_8B, QWEN_30B_A3B, GEMMA_27B])
def test_one_gib_more_never_announces_less(name: str) -> None:
    """Over sizes of a card: whatever is told of is better in something and worse in nothing."""
    told = 0
    for gib in range(4, 20):
        plan = make_plan(giant(name), machine(gpu(gib)), Wishes())
        more = plan.one_more_gib
        if more is None:
            continue
        told += 1
        assert worth(more) != worth(plan.chosen)
        assert all(a >= b for a, b in zip(worth(more), worth(plan.chosen), strict=True)), gib
        assert more.speed.prompt_tps > 0.98 * plan.chosen.speed.prompt_tps
    assert told > 8


def test_what_the_user_fixed_is_not_offered_otherwise() -> None:
    """With the types and the context fixed, only another preference is left."""
    wishes = Wishes(n_ctx=8192, type_k="f16", type_v="f16")
    plan = make_plan(giant(LLAMA_8B), machine(gpu(6)), wishes)
    assert all(c.note.startswith("--prefer") for c in plan.alternatives)
    free = make_plan(giant(LLAMA_8B), machine(gpu(6)), Wishes())
    assert {c.note.split()[0] for c in free.alternatives} > {"--prefer"}


@pytest.mark.parametrize(
    ("name", "gibs"),
    [("Llama-4-Scout.gguf", (24,)), ("Qwen3-Next-80B.gguf", (12, 8)), (AYA_35B, (12, 8))],
)
def test_what_a_plan_takes_is_bounded(name: str, gibs: tuple[float, ...]) -> None:
    """Of the models whose searches would take longest, too: the choice, and what is offered
    beside it as far as there is time."""
    where = machine(*(gpu(gib, i) for i, gib in enumerate(gibs)))
    solver = Solver(real_model(name), where)
    plan = make_plan(real_model(name), where, Wishes(), solver=solver)
    work = solver.fitting.estimator.compute.replays.work.steps
    assert plan.chosen.fits
    assert plan.fallbacks
    assert 0 < work < 1.2 * (MOST_WORK + 3 * MORE_WORK)


def test_a_search_in_a_hurry_teaches_nothing_wrong() -> None:
    """It may find nothing; who has time finds what is there."""
    solver = Solver(giant(LLAMA_8B), machine(gpu(6)))
    assert solver.hurried(-1).best(Wishes()) is None
    assert solver.best(Wishes()) == Solver(giant(LLAMA_8B), machine(gpu(6))).best(Wishes())


def test_a_search_is_content_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what fits, if not with the best."""
    best = Solver(giant(AYA_35B), machine(gpu(12))).best(Wishes())
    monkeypatch.setattr("tuner.planning.solver.MOST_WORK", 20_000)
    first = Solver(giant(AYA_35B), machine(gpu(12))).best(Wishes())
    assert first is not None
    assert best is not None
    assert first.fits
    assert first.score <= best.score
