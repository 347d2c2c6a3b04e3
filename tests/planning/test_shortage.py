"""Wishes that contradict the memory: what is said of them is true, in bytes and in flags."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields, replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.giants import AYA_35B, GEMMA_27B, LLAMA_8B, QWEN_30B_A3B, giant, gpu, machine
from tui.command import options
from tuner.machine.machine import Machine
from tuner.planning.budgets import Budgets
from tuner.planning.planner import make_plan
from tuner.planning.shortage import GIVEN_UP, WITHOUT
from tuner.units import GIB, MIB
from tuner.wishes import Wishes


def asked_by(flags: str) -> Wishes:
    """Flags as the command line takes them."""
    return options.wishes(options.parser().parse_args(shlex.split(flags)))


def test_every_wish_that_a_user_fixes_can_be_given_up() -> None:
    """Where nothing fits, each is relaxed in turn; flash attention alone stays."""
    fixable = {f.name for f in fields(Wishes) if f.default is None}
    assert {name for names in GIVEN_UP for name in names} == fixable - {"flash_attn"}


@pytest.mark.parametrize(
    "wishes",
    [
        Wishes(n_ctx=131_072, type_k="f16", type_v="f16"),
        Wishes(type_k="q8_0", type_v="q4_0", n_gpu_layers=33, n_cpu_moe=4),
        Wishes(n_ubatch=1024, tensor_split=(3.0, 1.5), flash_attn="on"),
        Wishes(type_v="q8_0"),
        Wishes(),
    ],
)
def test_flags_are_those_that_the_command_line_takes(wishes: Wishes) -> None:
    assert asked_by(" ".join(wishes.flags)) == wishes


def test_the_flags_that_want_too_much_are_named_with_the_bytes() -> None:
    wishes = Wishes(n_ctx=131_072, type_k="f16", type_v="f16", n_gpu_layers=33)
    plan = make_plan(giant(LLAMA_8B), machine(gpu(8)), wishes)
    over = plan.chosen.footprint.uses[0].total - plan.machine.gpus[0].budget
    told, ways = plan.reasons
    assert told.startswith("--ctx 131072, --gpu-layers 33 and --kv f16 together need ")
    assert told.endswith(f" ({over:,} bytes) more than GPU0 has.")
    notes = [c.note for c in plan.alternatives]
    assert WITHOUT in notes
    for note in notes:
        assert (note in ways) == (note != WITHOUT)


def test_without_a_wish_nothing_is_blamed() -> None:
    plan = make_plan(giant(AYA_35B), machine(gpu(2), ram=4), Wishes())
    assert plan.reasons[0].startswith("Nothing fits: ")
    assert plan.alternatives == ()
    assert len(plan.reasons) == 1


wishes_of_any_kind = st.builds(
    Wishes,
    n_ctx=st.sampled_from([None, 8192, 65_536, 131_072]),
    type_k=st.sampled_from([None, "f16", "q8_0"]),
    type_v=st.sampled_from([None, "f16", "q4_0"]),
    n_gpu_layers=st.sampled_from([None, 0, 20, 99]),
    n_cpu_moe=st.sampled_from([None, None, 0]),
    n_ubatch=st.sampled_from([None, None, 2048]),
)


@given(
    name=st.sampled_from([LLAMA_8B, GEMMA_27B, QWEN_30B_A3B]),
    gibs=st.lists(st.sampled_from([3.0, 6.0, 9.0]), min_size=0, max_size=2),
    ram=st.sampled_from([8.0, 14.0, 40.0]),
    wishes=wishes_of_any_kind,
)
@example(
    name=LLAMA_8B, gibs=[6.0, 3.0], ram=8.0,
    wishes=Wishes(n_ctx=131_072, type_k="f16", type_v="f16", n_gpu_layers=99),
)  # fmt: skip
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
def test_what_is_said_to_fit_does(name: str, gibs: list[float], ram: float, wishes: Wishes) -> None:
    """Asked for with the flags that the sentence names, the rest as it was, a plan fits; and the
    bytes that it says are missing are."""
    where = machine(*(gpu(gib, i) for i, gib in enumerate(gibs)), ram=ram)
    plan = make_plan(giant(name), where, wishes)
    if plan.chosen.fits:
        return
    said = [int(x.replace(",", "")) for x in re.findall(r"\(([\d,]+) bytes\)", plan.reasons[0])]
    assert sum(said) == plan.chosen.lacking(Budgets.of(where)) > 0
    for way in plan.alternatives:
        assert fits_with(name, where, plan.wishes, way.note), way.note


def fits_with(name: str, where: Machine, wishes: Wishes, note: str) -> bool:
    """Whether a plan fits with these flags in place of what they name in the wishes."""
    new = asked_by("" if note == WITHOUT else note)
    kept = wishes.without(*(n for names in GIVEN_UP for n in names)) if note == WITHOUT else wishes
    changed = {name: getattr(new, name) for name in new.fixed}
    return make_plan(giant(name), where, replace(kept, **changed)).chosen.fits


def test_a_smaller_reserve_is_told_where_that_is_what_is_missing() -> None:
    """With that very flag the same settings fit, and with a MiB more they do not."""
    wishes = Wishes(n_ctx=4096, type_k="f16", type_v="f16", n_gpu_layers=33, n_ubatch=128)
    model = giant(LLAMA_8B)
    needs = make_plan(model, machine(gpu(24)), wishes).chosen.footprint.uses[0].total
    where = machine(gpu((needs + 100 * MIB) / GIB))
    (told,) = (why for why in make_plan(model, where, wishes).reasons if "--reserve" in why)
    reserve = int(re.findall(r"--reserve (\d+)MiB", told)[0]) * MIB
    for kept, fits in ((reserve, True), (reserve + MIB, False)):
        tried = replace(where, gpus=(replace(where.gpus[0], reserve=kept),))
        assert make_plan(model, tried, wishes).chosen.fits == fits
    short = machine(gpu((needs - 100 * MIB) / GIB))
    assert not any("--reserve" in why for why in make_plan(model, short, wishes).reasons)
