"""The report that a person gets to read."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from tests.support.giants import AYA_35B, GEMMA_27B, LLAMA_8B, QWEN_30B_A3B, giant, gpu, machine
from tuner.cells import cells
from tuner.errors import FileError, KvchatError
from tuner.machine.machine import Process
from tuner.memory.footprint import ENGINE_KINDS, KINDS, DeviceUse, Footprint
from tuner.planning.advice import Advice
from tuner.planning.later import Later
from tuner.planning.plan import Candidate, Plan
from tuner.planning.planner import make_plan
from tuner.profiles.actual import Actual
from tuner.report.bars import TAKEN
from tuner.report.overview import overview_text
from tuner.report.text import report_parts, report_text
from tuner.units import GIB, MIB
from tuner.wishes import Wishes


def plan_of(name: str = AYA_35B, *gibs: float, wishes: Wishes | None = None) -> Plan:
    where = machine(*(gpu(g, i) for i, g in enumerate(gibs or (24.0,))))
    return make_plan(giant(name), where, wishes or Wishes())


PLANS = [
    (AYA_35B, (24.0,)), (QWEN_30B_A3B, (12.0,)), (GEMMA_27B, (12.0, 12.0)), (LLAMA_8B, (2.5,)),
]  # fmt: skip


@cache
def named(name: str, gibs: tuple[float, ...], words: str) -> Plan:
    """A plan where everything has a long name."""
    plan = plan_of(name, *gibs)
    card = replace(plan.machine.gpus[0], name=words * 3)
    where = replace(plan.machine, gpus=(card, *plan.machine.gpus[1:]))
    model = replace(plan.model, name=words * 2, path=Path(f"/models/{words}.gguf"))
    warnings = (*plan.warnings, f"{words}: {words.replace(' ', '')}")
    return replace(plan, machine=where, model=model, warnings=warnings)


WORDS = ("A card with a name that goes on and on ", "模型的名字很长很长 ", "e\u0301" * 40)


@pytest.mark.parametrize(("name", "gibs"), PLANS)
@pytest.mark.parametrize("words", WORDS, ids=["ASCII", "wide", "marks"])
@pytest.mark.parametrize("width", [20, 29, 30, 39, 40, 50, 60, 72, 80, 100, 120])
def test_no_line_is_wider_than_asked(
    name: str, gibs: tuple[float, ...], words: str, width: int
) -> None:
    """The report and the overview fit the terminal, whatever the model and the machine are called,
    and say in a narrow one what they say in a wide one."""
    plan = named(name, gibs, words)
    actual = Actual(plan.chosen.footprint, plan.chosen.footprint, decode_tps=9.0)
    rows: list[tuple[str, Plan | KvchatError]] = [
        ("a", plan), (f"x/{words}.gguf", FileError("missing", "x", f"{words} is not there."))
    ]  # fmt: skip
    text = report_text(plan, width=width, actual=actual)
    for line in (*text.splitlines(), *overview_text(rows, width=width).splitlines()):
        assert cells(line) <= width
    said = "".join(text.split())
    for number in (f"{plan.chosen.settings.n_ctx:,}", f"{plan.chosen.quality.loss:.3f}"):
        assert number in said


@pytest.mark.parametrize(("n_ctx", "told"), [(1024, 0), (3798, 0), (3799, 1), (4096, 1)])
def test_a_turn_is_told_where_the_context_holds_one(n_ctx: int, told: int) -> None:
    """1,500 tokens read and 400 written, behind a context half full: in 3,799 tokens at least."""
    text = report_text(plan_of(wishes=Wishes(n_ctx=n_ctx)), width=80)
    assert text.count("1,500 tokens read") == told


def test_a_long_number_is_never_cut() -> None:
    """A column is as wide as its values: only names are shortened."""
    plan = plan_of()
    wide = replace(plan.chosen, settings=replace(plan.chosen.settings, n_ctx=1_048_576_000))
    plan = replace(plan, chosen=wide).offering(alternatives=(wide,))
    for width in (40, 80, 120):
        assert report_text(plan, width=width).count("1,048,576,000") == 3
        assert "1,048,576,000" in overview_text([("a", plan)], width=width)


def test_the_bar_shows_every_part_and_is_full_width() -> None:
    """Weights, cache, compute, overhead, reserve and free have a cell each, in this order."""
    lines = report_text(plan_of()).splitlines()
    bar = lines[next(i for i, line in enumerate(lines) if line.startswith("GPU0")) + 1].strip()
    assert len(bar) == 76
    assert re.fullmatch("█+▓+▒+░+-+·+", bar)


def test_other_programs_memory_is_in_the_bar() -> None:
    """What others hold is shown as theirs, not as free and not as ours."""
    where = machine(replace(gpu(24), free=20 * GIB))
    text = report_text(make_plan(giant(LLAMA_8B), where, Wishes()))
    assert "× in use 4.0 GiB" in text
    assert "20.0 GiB free of 24.0 GiB" in text


def test_who_holds_the_memory_is_named() -> None:
    """The largest other processes on a GPU, by name, and how many more there are."""
    holders = tuple(Process(i, f"program{i}", "GPU0", i * GIB) for i in range(1, 6))
    where = replace(machine(replace(gpu(24), free=9 * GIB)), processes=holders)
    text = " ".join(report_text(make_plan(giant(LLAMA_8B), where, Wishes())).split())
    assert "in use by program5 (5) 5.0 GiB, program4 (4) 4.0 GiB" in text
    assert "and 2 more" in text


def test_no_colour_unless_asked() -> None:
    """Plain text has no escape codes; colour has, and the same words."""
    plain = report_text(plan_of())
    coloured = report_text(plan_of(), color=True)
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain


def test_the_report_says_what_matters() -> None:
    """Settings, reasons, alternatives, speed and the warning about quality are all there."""
    text = report_text(plan_of())
    for words in (
        "35.0B parameters", "Q4_K_M", "GPU layers  41 of 41", "K q8_0, V q8_0", "tokens/s",
        "Why", "f16 would keep", "Also possible", "--kv f16",
    ):  # fmt: skip
        assert words in text


def test_experts_are_told_only_of_a_model_that_has_some() -> None:
    for name, has in ((LLAMA_8B, False), (QWEN_30B_A3B, True)):
        told = report_text(make_plan(giant(name), machine(gpu(24)), Wishes(n_cpu_moe=3)))
        assert ("in RAM for the first 3 layers" in told) == has


def test_a_setting_without_words_of_its_own_stands_in_the_column() -> None:
    plan = make_plan(giant(LLAMA_8B), machine(), Wishes(use_extra_bufts=False))
    assert "\n  other       use_extra_bufts False\n" in report_text(plan)


def test_a_low_cache_type_comes_with_a_warning() -> None:
    """Where q4_0 was chosen for the user, the report says what it may cost and how to avoid it."""
    plan = plan_of(AYA_35B, 23.0)
    assert plan.chosen.settings.type_k == "q4_0"
    assert "costs some quality" in report_text(plan)
    assert "costs some quality" not in report_text(plan_of(LLAMA_8B, 24.0))


def test_predicted_against_actual() -> None:
    """The comparison names both figures and how far apart they are."""
    plan = plan_of()
    gpu_use, host_use = plan.chosen.footprint.uses
    real = Footprint((replace(gpu_use, compute=gpu_use.compute * 2), host_use), "measured")
    actual = Actual(
        real,
        plan.chosen.footprint,
        decode_tps=plan.chosen.speed.decode_tps / 2,
        taken=(24 * GIB,),
    )
    text = report_text(plan, actual=actual)
    assert re.search(r"GPU0 +compute +\d+ MiB +\d+ MiB +-50\.0%", text)
    assert re.search(r"GPU0 +weights .* \+0\.0%", text)
    assert re.search(r"tokens/s +\d+ +\d+ +\+100%", text)
    assert "24.0 GiB" in text


def test_nothing_fits_is_said_in_the_report() -> None:
    """The title, the bytes missing and what would fit."""
    wishes = Wishes(n_ctx=131_072, type_k="f16", type_v="f16", n_gpu_layers=99)
    text = report_text(plan_of(LLAMA_8B, 8.0, wishes=wishes))
    assert "does not fit" in text
    assert "bytes)" in text
    assert "What would fit" in text


def test_the_overview_warns_of_another_engine_once() -> None:
    """It holds for every file alike."""
    where = replace(machine(gpu(24)), engine_version="99.0")
    rows: list[tuple[str, Plan | KvchatError]] = [
        (name, make_plan(giant(name), where, Wishes())) for name in (LLAMA_8B, AYA_35B)
    ]
    text = overview_text(rows)
    assert text.count("99.0") == 1
    assert all(len(line) <= 80 for line in text.splitlines())


def test_a_thin_slice_still_has_a_cell() -> None:
    """A compute buffer of a few MiB on a large card does not vanish from the bar."""
    plan = plan_of(LLAMA_8B, 80.0)
    assert plan.chosen.footprint.uses[0].compute < 600 * MIB
    assert "▒" in report_text(plan).split("\n")[4]


def test_every_kind_of_memory_is_shown_once() -> None:
    """What a plan takes is in the bar, and what the engine reports is in the comparison."""
    shown = [kind for part in TAKEN for kind in part.kinds]
    assert sorted(shown) == sorted(KINDS)
    plan = plan_of()
    use = DeviceUse("GPU0", **dict.fromkeys(KINDS, 2 * GIB))
    real = replace(use, **dict.fromkeys(KINDS, GIB))  # type: ignore[arg-type]
    host = plan.chosen.footprint.host
    actual = Actual(Footprint((real, host), "measured"), Footprint((use, host)))
    rows = re.findall(r"GPU0 +\S+ .*\+100\.0%", report_text(plan, actual=actual))
    assert len(rows) == len({p.label for p in TAKEN if set(p.kinds) <= set(ENGINE_KINDS)}) > 1


def test_the_choice_is_told_before_anything_else_is_looked_for() -> None:
    """What a plan offers, and what would help, is asked for only after the parts before it."""
    asked: list[str] = []
    plan = plan_of()
    alternatives = plan.alternatives

    def later() -> tuple[Candidate, ...]:
        asked.append("alternatives")
        return alternatives

    def advise() -> Advice:
        asked.append("advice")
        return Advice()

    plan = replace(plan, offers=replace(plan.offers, alternatives=Later(later)))
    parts = report_parts(plan, advise=advise)
    chosen = next(parts)
    assert "Chosen" in chosen
    assert "Why" in chosen
    assert asked == []
    assert "Also possible" in next(parts)
    assert asked == ["alternatives"]
    rest = "".join(parts)
    assert asked == ["alternatives", "advice"]
    assert report_text(plan).startswith(chosen)
    assert report_text(plan).endswith(rest)
