"""What the first long prompt takes is planned for, and what nobody knows of it bounds a batch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.giants import LLAMA_8B, QWEN_30B_A3B, giant, gpu, machine
from tuner.machine.machine import Machine
from tuner.machine.overheads import Shown
from tuner.machine.usable import Beside, beside_key, with_reserve
from tuner.memory.beside import growth_on
from tuner.memory.estimator import Estimator
from tuner.planning import Plan, make_plan
from tuner.report.json import report_json
from tuner.report.text import report_text
from tuner.settings import Settings
from tuner.units import GIB, MIB
from tuner.wishes import Wishes


def _machine(backend: str, known: Beside | None = None, reserve: int | None = None) -> Machine:
    card = gpu(8, backend=backend)
    beside = {beside_key(card): known} if known else {}
    return machine(with_reserve(card, reserve, beside))


def _batch(plan: Plan) -> int:
    return plan.chosen.settings.n_ubatch


def test_larger_batches_with_experts_wait_until_vulkan_has_shown_their_cost() -> None:
    """Elsewhere they are chosen, since experts in RAM are copied once per batch; here they are with
    a growth that was measured, no larger than that, and it is counted."""
    model = giant(QWEN_30B_A3B)
    usual = _batch(make_plan(model, _machine("CUDA"), Wishes()))
    assert usual > 1024
    bound = make_plan(model, _machine("Vulkan"), Wishes())
    assert _batch(bound) == 512
    (why,) = (reason for reason in bound.reasons if "n_ubatch stays at 512" in reason)
    assert "has not shown" in why
    assert not [text for text in bound.warnings if "n_ubatch" in text]
    shown = Beside(shown=(Shown(1024, 300 * MIB),))
    known = make_plan(model, _machine("Vulkan", shown), Wishes())
    assert _batch(known) == 1024
    assert known.chosen.footprint.uses[0].growth == 300 * MIB
    assert not [reason for reason in known.reasons if "stays at" in reason]
    dense = make_plan(giant(LLAMA_8B), _machine("Vulkan"), Wishes(n_gpu_layers=20))
    assert _batch(dense) > 512


def test_a_batch_that_was_asked_for_is_kept_with_a_warning_and_its_growth_counted() -> None:
    model, where = giant(QWEN_30B_A3B), _machine("Vulkan")
    plan = make_plan(model, where, Wishes(n_ubatch=2048))
    assert plan.chosen.fits
    assert _batch(plan) == 2048
    assert plan.chosen.footprint.uses[0].growth == 1872 * MIB
    (warning,) = (text for text in plan.warnings if "n_ubatch 2048" in text)
    assert "Vulkan may take 1.8 GiB more of GPU0" in warning


@pytest.mark.parametrize("backend", ["CUDA", "Vulkan"])
def test_growth_is_counted_alike_by_the_search_and_by_the_footprint(backend: str) -> None:
    """At every batch, on each GPU, and by the bounds of the search no more."""
    model = giant(QWEN_30B_A3B)
    first = _machine(backend).gpus[0]
    where = machine(first, replace(first, id="GPU1", engine_name=f"{backend}1"))
    estimator = Estimator(model, where)
    for n_ubatch in (128, 512, 2048):
        settings = Settings(
            4096, n_gpu_layers=40, n_cpu_moe=20, n_ubatch=n_ubatch, tensor_split=(20.0, 20.0)
        )
        uses = estimator.footprint(settings).uses
        growth = growth_on(first, model, n_ubatch).usual
        assert [use.growth for use in uses] == [growth, growth, 0]
        totals = [use.total for use in uses]
        assert estimator.totals(settings) == totals
        assert [estimator.total(i, settings) for i in range(3)] == totals
        assert all(a <= b for a, b in zip(estimator.fixed, totals, strict=True))


def test_the_report_says_what_is_assumed_and_what_the_most_would_leave() -> None:
    """The reserve takes up the spread; without one it is said that it does not."""
    plan = make_plan(giant(LLAMA_8B), _machine("CUDA"), Wishes(n_ctx=8192))
    text = " ".join(report_text(plan).split())
    assert (
        "overhead: driver 350 MiB (assumed, up to 410 MiB), then 130 MiB (assumed, up to 190 MiB) "
        "with the first long prompt; the most would leave"
    ) in text
    use, (gpu0, _) = plan.chosen.footprint.uses[0], report_json(plan)["plan"]["footprint"]
    assert (gpu0["growth"], gpu0["growth_source"]) == (130 * MIB, "assumed")
    assert gpu0["at_most"] == use.total + 120 * MIB
    assert (
        sum(gpu0[kind] for kind in ("weights", "kv_cache", "compute", "overhead", "growth"))
        == (gpu0["total"])
    )
    assert gpu0["at_most"] <= plan.machine.gpus[0].free
    full = make_plan(giant(LLAMA_8B), _machine("CUDA", reserve=0), Wishes())
    assert "the most would lack" in " ".join(report_text(full).split())
    measured = Beside(287 * MIB, (Shown(4096, 98 * MIB),))
    known = make_plan(giant(LLAMA_8B), _machine("CUDA", measured), Wishes())
    assert (
        "overhead: driver 287 MiB (measured), then 98 MiB (measured) with the first long prompt "
    ) in " ".join(report_text(known).split())
    assert known.chosen.footprint.uses[0].beside == 385 * MIB
    assert full.machine.gpus[0].free == 8 * GIB
