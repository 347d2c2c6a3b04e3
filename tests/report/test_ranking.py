"""Several files, held against each other."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from tests.report.test_report import plan_of
from tests.support.giants import AYA_35B, GEMMA_27B, LLAMA_8B, QWEN_30B_A3B
from tuner.errors import FileError
from tuner.planning import Plan
from tuner.planning.quality import CacheQuality
from tuner.report.overview import overview_text
from tuner.report.ranking import RULE, Result, ranked
from tuner.units import seconds_text, size_text, tps_text
from tuner.wishes import Wishes

TOO_MUCH = Wishes(n_ctx=8_192, type_k="f16", type_v="f16", n_gpu_layers=99)


@cache
def results() -> tuple[tuple[str, Result], ...]:
    """In no order: two that fit, two that do not, two that cannot be used."""
    return (
        ("missing", FileError("missing", "missing", "missing is not there.")),
        ("far too large", plan_of(AYA_35B, 12.0, wishes=TOO_MUCH)),
        ("slow", plan_of(AYA_35B, 24.0)),
        ("too large", plan_of(AYA_35B, 16.0, wishes=TOO_MUCH)),
        ("fast", plan_of(LLAMA_8B, 24.0)),
        ("damaged", FileError("malformed", "damaged", "damaged is damaged.")),
    )


def places(found: list[tuple[str, Result]]) -> list[str]:
    return [row.path for row in sorted(ranked(found), key=lambda row: row.rank)]


def test_the_best_comes_first_and_what_is_of_no_use_last() -> None:
    """By what chooses a plan; then by how little is missing; then as they were given. Each has a
    place of its own, and the order given stays that of the answer."""
    rows = ranked(results())
    assert [row.path for row in rows] == [path for path, _ in results()]
    assert sorted(row.rank for row in rows) == [1, 2, 3, 4, 5, 6]
    best_first = ["fast", "slow", "too large", "far too large", "missing", "damaged"]
    assert places(list(results())) == best_first


def test_the_order_given_does_not_matter() -> None:
    """But for those that have nothing to be compared by."""
    usable = [one for one in results() if isinstance(one[1], Plan)]
    for seed in range(10):
        shuffled = random.Random(seed).sample(usable, len(usable))
        assert places(shuffled) == ["fast", "slow", "too large", "far too large"]


def test_as_fast_with_more_context_is_better() -> None:
    """Where what chooses plans makes no difference."""
    plan = plan_of(LLAMA_8B, 24.0)
    settings = replace(plan.chosen.settings, n_ctx=plan.chosen.settings.n_ctx + 256)
    longer = replace(plan, chosen=replace(plan.chosen, settings=settings))
    assert places([("shorter", plan), ("longer", longer)]) == ["longer", "shorter"]


def quantization(
    name: str, bits: float, plan: Plan | None = None, *, fits: bool = True, **settings: Any
) -> Plan:
    """The plan of an 8B model as a file of so many bits per weight."""
    plan = plan or plan_of(LLAMA_8B, 24.0)
    size = int(plan.model.n_params * bits / 8)
    model = replace(
        plan.model, name=f"Llama 3.1 8B {name}", quantization=name, size_bytes=size,
        fingerprint=name,
    )  # fmt: skip
    chosen = replace(plan.chosen, fits=fits, settings=replace(plan.chosen.settings, **settings))
    types = chosen.settings.type_k, chosen.settings.type_v
    chosen = replace(chosen, quality=CacheQuality.of(model.hparams).of_pair(*types))
    return replace(plan, model=model, chosen=chosen)


Q4, Q6, Q8 = ("Q4_K_M", 4.9), ("Q6_K", 6.6), ("Q8_0", 8.5)


@pytest.mark.parametrize(
    ("plans", "taken"),
    [
        ((quantization, Q4, Q6, Q8), "Q8_0"),
        ((quantization, Q8, Q4), "Q8_0"),
        ((quantization, Q6, ("F16", 16.0), Q4), "Q6_K"),  # nobody notices what is beyond Q8_0
        ((quantization, ("F16", 16.0), ("BF16", 16.1)), "F16"),
        ((quantization, Q4), ""),  # nothing to choose from
    ],
)
def test_of_several_quantizations_the_largest_is_taken(plans: tuple[Any, ...], taken: str) -> None:
    make, *kinds = plans
    rows = ranked([(name, make(name, bits)) for name, bits in kinds])
    assert [row.path for row in rows if row.take] == [taken] * bool(taken)


@pytest.mark.parametrize(
    "worse",
    [
        {"n_gpu_layers": 30}, {"n_ctx": 4_096}, {"type_v": "q4_0"},
        {"fits": False},
    ],
    ids=str,
)  # fmt: skip
def test_the_largest_is_not_taken_at_any_price(worse: dict[str, Any]) -> None:
    """Not where part of it waits for the CPU, or context or cache was given up for it."""
    rows = ranked([("Q4", quantization(*Q4)), ("Q8", quantization(*Q8, **worse))])
    assert [row.path for row in rows if row.take] == ["Q4"]
    both = [("Q4", quantization(*Q4, **worse)), ("Q8", quantization(*Q8, **worse))]
    assert not any(row.take for row in ranked(both))


def test_a_short_context_that_was_asked_for_is_enough() -> None:
    wished = plan_of(LLAMA_8B, 24.0, wishes=Wishes(n_ctx=2_048))
    rows = ranked([("Q4", quantization(*Q4, wished)), ("Q8", quantization(*Q8, wished))])
    assert [row.path for row in rows if row.take] == ["Q8"]


def test_other_models_are_no_quantizations_of_it() -> None:
    """Another name or another shape is another model, however alike the files are; the same file
    twice is no choice either."""
    one = quantization(*Q4)
    named = replace(quantization(*Q8), model=replace(quantization(*Q8).model, name="Hermes 3 8B"))
    assert not any(row.take for row in ranked([("a", one), ("b", named), ("a again", one)]))
    shapes = [(name, plan_of(name, 48.0)) for name in (AYA_35B, GEMMA_27B, QWEN_30B_A3B)]
    assert not any(row.take for row in ranked(shapes))


@pytest.mark.parametrize(
    "names",
    [
        ("Llama-3.1-8B-Q4_K_M", "Llama-3.1-8B-IQ3_XXS"), ("Llama 3.1 8B", "Llama-3.1-8b-bf16"),
        ("llama_3.1_8B.Q5_K_S", "Llama 3.1 8B F16"), ("gpt oss 20b", "gpt-oss-20b-MXFP4"),
    ],
)  # fmt: skip
def test_names_are_compared_without_their_quantization(names: tuple[str, str]) -> None:
    pairs = zip(names, (Q4, Q8), strict=True)
    plans = [quantization(*kind) for _, kind in pairs]
    named = [
        (name, replace(plan, model=replace(plan.model, name=name)))
        for name, plan in zip(names, plans, strict=True)
    ]
    assert [row.take for row in ranked(named)] == [False, True]


def test_names_with_a_q_are_names() -> None:
    """Qwen3 and Q-former are no quantizations."""
    plans = [
        (name, replace(plan, model=replace(plan.model, name=name)))
        for name, plan in (("Qwen3 8B", quantization(*Q4)), ("Qwen2 8B", quantization(*Q8)))
    ]
    assert not any(row.take for row in ranked(plans))


def test_the_table_is_in_order_and_says_by_which() -> None:
    """A line per file in 80 columns, the best first, with its place; the rule is below it."""
    lines = overview_text(results()).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert [line.split()[0] for line in lines[1:7]] == ["1", "2", "3", "4", "5", "6"]
    assert "33/33" in lines[1]
    assert "41/41" in lines[2]
    slow = results()[2][1]
    assert isinstance(slow, Plan)
    speed = slow.chosen.speed
    told = [seconds_text(speed.turn_seconds), tps_text(speed.decode_tps)]
    assert lines[2].split()[-3:] == " ".join(told).split()
    assert "does not fit by " in lines[3]
    assert "is not there" in lines[5]
    assert " ".join(lines[7:]).strip() == RULE


def test_what_to_take_is_marked_and_explained() -> None:
    """Only where there is something to take."""
    q4, q8 = quantization(*Q4), quantization(*Q8)
    several: list[tuple[str, Result]] = [("Q4", q4), ("Q8", q8)]
    marked = [line for line in overview_text(several).splitlines() if line[3:4] == "*"]
    assert len(marked) == 1
    assert size_text(q8.model.size_bytes) in marked[0]
    assert "* Of several quantizations" in overview_text(several)
    assert "* Of several" not in overview_text(results())


def test_a_file_is_named_once() -> None:
    """What is wrong with it has the room that its path would take."""
    path = "/models/of/mine/broken.gguf"
    rows = [*results(), (path, FileError("missing", path, f"{path} does not exist."))]
    (line,) = [line for line in overview_text(rows).splitlines() if "broken" in line]
    assert line.split(maxsplit=2)[1:] == ["broken.gguf", "does not exist."]
