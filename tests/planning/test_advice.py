"""What would help: each piece of advice is held against the plan that it promises."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.giants import AYA_35B, GEMMA_27B, LLAMA_8B, QWEN_30B_A3B, giant, gpu, machine
from tests.support.giants import unified as unified_machine
from tuner.gguf.types import GGML_NUMBERS
from tuner.machine.machine import Machine, Process
from tuner.model.model import Model
from tuner.model.quantizations import MIXES, in_mix
from tuner.planning import Plan, Solver, make_plan
from tuner.planning.advice import Advice, OtherQuantization, advise
from tuner.planning.from_disk import ASSUMED_DISK
from tuner.planning.speed import Calibration
from tuner.report.advice import advice_lines
from tuner.report.json import report_json
from tuner.units import GIB, MIB, size_text
from tuner.wishes import Wishes


def advised(model: Model, where: Machine, wishes: Wishes | None = None) -> tuple[Plan, Advice]:
    solver = Solver(model, where)
    plan = make_plan(model, where, wishes or Wishes(), solver=solver)
    return plan, advise(plan, solver)


def made(model: Model, other: OtherQuantization) -> Model:
    return in_mix(model, next(mix for mix in MIXES if mix.name == other.name))


# ------------------------------------------------------------------ another quantization


@pytest.mark.parametrize(("name", "gib"), [(GEMMA_27B, 16), (QWEN_30B_A3B, 12)])
def test_a_smaller_quantization_is_whole_and_the_largest_that_is(name: str, gib: float) -> None:
    """A plan of that file, made for itself, is whole with half of the context that a chat may
    want, as fast as was said; one of the next larger file is not."""
    model, where = giant(name), machine(gpu(gib))
    plan, advice = advised(model, where)
    assert plan.chosen.settings.n_gpu_layers < model.n_items or plan.chosen.settings.n_cpu_moe
    assert advice.larger is None
    told = advice.smaller
    assert told is not None
    assert told.whole
    whole = Wishes(None, False, "q8_0", "q8_0", model.n_items, 0)
    its = make_plan(made(model, told), where, whole).chosen
    assert its.fits
    assert (its.settings, its.speed) == (told.candidate.settings, told.candidate.speed)
    enough = Solver(model, where).objective(Wishes()).wished_context // 2
    assert told.candidate.settings.n_ctx >= enough
    names = [mix.name for mix in MIXES]
    larger = in_mix(model, MIXES[names.index(told.name) - 1])
    assert not make_plan(larger, where, replace(whole, n_ctx=enough)).chosen.fits
    (line,) = advice_lines(plan, advice)
    assert line.startswith(f"As {told.name}, about {size_text(told.size_bytes)}, ")
    assert "whole on GPU0" in line


def test_a_smaller_quantization_may_be_what_the_context_needs() -> None:
    """All layers are on the GPU, and the context was cut for it."""
    plan, advice = advised(giant(GEMMA_27B), machine(gpu(17)))
    assert plan.chosen.settings.n_gpu_layers == plan.model.n_items
    assert advice.smaller is not None
    assert advice.smaller.candidate.settings.n_ctx > plan.chosen.settings.n_ctx
    assert "room for more context" in advice_lines(plan, advice)[0]


def test_room_for_a_larger_quantization_is_told() -> None:
    """And there is nothing smaller to want."""
    model, where = giant(LLAMA_8B), machine(gpu(24))
    plan, advice = advised(model, where)
    assert advice.smaller is None
    assert advice.larger is not None
    assert advice.larger.name == "Q8_0"
    assert make_plan(made(model, advice.larger), where, Wishes()).chosen.fits
    assert "more precise" in advice_lines(plan, advice)[0]
    assert advised(made(model, advice.larger), where)[1] == Advice()


def test_layers_that_the_user_put_elsewhere_stay_there() -> None:
    """Nor is a machine without a GPU told of what would be whole on one."""
    model = giant(GEMMA_27B)
    for wishes in (Wishes(n_gpu_layers=20), Wishes(n_cpu_moe=0, n_gpu_layers=9)):
        assert advised(model, machine(gpu(16)), wishes)[1].smaller is None
    assert advised(model, machine())[1] == Advice()


def test_weights_as_they_were_trained_are_not_quantized_again() -> None:
    """gpt-oss is MXFP4 from its makers: there is no better or smaller file of it."""
    model = giant(QWEN_30B_A3B)
    native = GGML_NUMBERS["mxfp4"]
    layers = tuple(
        replace(x, experts=tuple(replace(t, ggml_type=native) for t in x.experts))
        for x in model.tensors.layers
    )
    mxfp4 = replace(model, tensors=replace(model.tensors, layers=layers))
    assert advised(model, machine(gpu(12)))[1].smaller is not None
    for gib in (12, 80):
        assert advised(mxfp4, machine(gpu(gib)))[1] == Advice()


def test_two_bits_are_for_large_models_alone() -> None:
    """Nothing is said rather than that an 8B model would fit with two."""
    assert advised(giant(LLAMA_8B), machine(gpu(3.2)))[1].smaller is None
    told = advised(giant(AYA_35B), machine(gpu(16)))[1].smaller
    assert told is not None
    assert told.name == "IQ2_M"


# ------------------------------------------------------------------ nothing fits


def test_where_nothing_fits_the_largest_file_that_would_is_told() -> None:
    model, where = giant(GEMMA_27B), machine(gpu(4), ram=10)
    plan, advice = advised(model, where)
    assert not plan.chosen.fits
    assert advice.smaller is not None
    assert not advice.smaller.whole
    assert make_plan(made(model, advice.smaller), where, Wishes()).chosen.fits
    assert any("would fit" in line for line in advice_lines(plan, advice))


def test_a_dense_model_reads_from_disk_what_has_no_room() -> None:
    """Every weight is used for each token, so what is missing is read for each; the GPU is within
    its budget, and nothing but the file's pages is lacking."""
    where = machine(gpu(4), ram=12)
    plan, advice = advised(giant(AYA_35B), where)
    disk = advice.from_disk
    assert disk is not None
    least, its = plan.chosen.settings, disk.candidate.settings
    assert (its.n_ctx, its.type_k, its.type_v) == (least.n_ctx, least.type_k, least.type_v)
    host = disk.candidate.footprint.host
    assert disk.missing == host.total - where.host.budget
    looked_up = sum(t.n_bytes for t in plan.model.tensors.input)
    assert disk.missing - looked_up <= disk.per_token <= disk.missing
    assert disk.candidate.footprint.uses[0].total <= where.gpus[0].budget
    seconds = 1 / disk.candidate.speed.decode_tps + disk.per_token / ASSUMED_DISK
    assert disk.decode_tps == pytest.approx(1 / seconds)
    assert any("a token every" in line for line in advice_lines(plan, advice))


def test_of_experts_only_the_share_that_is_used_is_read() -> None:
    """Eight of 128: what is missing of the experts counts a sixteenth."""
    plan, advice = advised(giant(QWEN_30B_A3B), machine(gpu(4), ram=14))
    assert not plan.chosen.fits
    disk = advice.from_disk
    assert disk is not None
    assert 0 < disk.per_token <= disk.missing * 8 / 128
    assert disk.decode_tps > 1


def test_of_memory_that_is_shared_the_host_s_part_is_read() -> None:
    """What a GPU takes of the RAM are no pages of the file that could be dropped, so it is told of
    a load with every layer on the host, and nothing where the user wants layers on the GPU. What
    the pool lacks that both draw from is read, not what the host's own limit lacks."""
    where = unified_machine(8, 12)
    plan, advice = advised(giant(AYA_35B), where)
    assert not plan.chosen.fits
    disk = advice.from_disk
    assert disk is not None
    assert disk.candidate.settings.n_gpu_layers == 0
    [pool] = [limit for limit in where.limits if len(limit.devices) > 1]
    assert disk.missing == sum(disk.candidate.footprint.totals) - pool.budget
    looked_up = sum(t.n_bytes for t in plan.model.tensors.input)
    assert disk.missing - looked_up <= disk.per_token <= disk.missing
    assert any("a token every" in line for line in advice_lines(plan, advice))
    assert advised(giant(AYA_35B), where, Wishes(n_gpu_layers=9))[1].from_disk is None


# ------------------------------------------------------------------ other programs


def beside(*processes: Process, gib: float = 8, n_gpus: int = 1) -> Machine:
    """GPUs on which these hold memory."""
    gpus = [gpu(gib, i) for i in range(n_gpus)]
    for i, one in enumerate(gpus):
        held = sum(p.used for p in processes if p.device == one.id)
        gpus[i] = replace(one, free=one.free - held)
    return replace(machine(*gpus), processes=processes)


def test_the_largest_program_closed_gives_the_plan_without_it() -> None:
    game = Process(7, "game", "GPU0", 3 * GIB)
    other = Process(9, "desktop", "GPU0", 300 * MIB)
    plan, advice = advised(giant(LLAMA_8B), beside(game, other))
    closed = advice.without_process
    assert closed is not None
    assert (closed.name, closed.pid, closed.used) == ("game", 7, (("GPU0", 3 * GIB),))
    alone = make_plan(giant(LLAMA_8B), beside(other), Wishes()).chosen
    assert closed.candidate.settings == alone.settings
    line = advice_lines(plan, advice)[0]
    assert line.startswith("With game (7) closed, which holds 3.0 GiB on GPU0: 33 of 33 layers")


def test_a_program_on_two_gpus_is_closed_on_both() -> None:
    held = [Process(7, "train", f"GPU{i}", 5 * GIB) for i in (0, 1)]
    small = Process(8, "viewer", "GPU0", GIB)
    _, advice = advised(giant(GEMMA_27B), beside(small, *held, gib=12, n_gpus=2))
    assert advice.without_process is not None
    assert advice.without_process.used == (("GPU0", 5 * GIB), ("GPU1", 5 * GIB))


def test_a_gpu_that_was_left_out_may_be_of_use_again() -> None:
    """Another program has all of it, so the plan is for the CPU alone."""
    full = replace(gpu(12), free=GIB // 2)
    game = Process(7, "game", "GPU0", 11 * GIB)
    where = replace(machine(), unusable=(full,), processes=(game,))
    plan, advice = advised(giant(LLAMA_8B), where)
    assert plan.chosen.settings.n_gpu_layers == 0
    closed = advice.without_process
    assert closed is not None
    assert closed.candidate.settings.n_gpu_layers == 33
    assert "33 of 33 layers" in advice_lines(plan, advice)[0]
    told = report_json(plan, advice)["advice"]["without_process"]
    assert [use["device"] for use in told["plan"]["footprint"]] == ["GPU0", "host"]
    known = Solver(giant(LLAMA_8B), where).calibrated(Calibration(2.0))
    measured = advise(plan, known).without_process
    assert measured is not None  # what is known of the model counts with the GPU too
    assert measured.candidate.speed.source == "measured"


def test_what_would_change_nothing_is_not_closed() -> None:
    """Nor does a hostile name reach the report as it is."""
    idle = Process(7, "idle", "GPU0", 64 * MIB)
    assert advised(giant(LLAMA_8B), beside(idle, gib=48))[1].without_process is None
    evil = Process(7, "a\x1b[2J\nb", "GPU0", 4 * GIB)
    plan, advice = advised(giant(LLAMA_8B), beside(evil))
    assert advice.without_process is not None
    assert advice_lines(plan, advice)[0].isprintable()
