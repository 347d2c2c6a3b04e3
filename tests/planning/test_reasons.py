"""What the user is told of a plan: each thing once, and none that is not so."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest

from tests.support.giants import AYA_35B, GEMMA_27B, LLAMA_8B, QWEN_30B_A3B, giant, gpu, machine
from tuner.machine.machine import Machine
from tuner.planning.alternatives import next_context
from tuner.planning.planner import make_plan
from tuner.planning.reasons import reasons_for, warnings_for
from tuner.planning.solver import Solver
from tuner.units import tps_text
from tuner.wishes import Wishes

GIANTS = (LLAMA_8B, AYA_35B, QWEN_30B_A3B, GEMMA_27B)
MACHINES = {
    "CUDA": machine(gpu(24)),
    "ROCm": machine(gpu(24, backend="ROCm")),
    "Metal": machine(gpu(24, backend="Metal")),
    "no GPU": machine(),
}


def say_the_same(a: str, b: str) -> bool:
    """Two sentences that state the same number, or for the most part the same words."""
    numbers = [set(re.findall(r"\d{3,}", text.replace(",", ""))) for text in (a, b)]
    words = [set(re.findall(r"[a-z_]{4,}", text.lower())) for text in (a, b)]
    common = len(words[0] & words[1]) / max(1, min(map(len, words)))
    return bool(numbers[0] & numbers[1]) or common > 0.5


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (
            "The context of 200000 tokens is larger than the 131072 that the model was trained "
            "for: answers degrade beyond them.",
            "The context of 200,000 tokens is longer than the 131,072 that the model was trained "
            "for: answers may fall apart beyond that.",
        ),
        ("llama.cpp runs grok without flash attention.", "grok runs without flash attention."),
    ],
)
def test_the_measure_of_sameness_finds_what_is_the_same(a: str, b: str) -> None:
    assert say_the_same(a, b)


@pytest.mark.parametrize("name", GIANTS)
@pytest.mark.parametrize("where", MACHINES.values(), ids=MACHINES)
def test_no_two_warnings_say_the_same(name: str, where: Machine) -> None:
    """Over contexts, cache types, layers and experts, whoever chose them: each fact once."""
    model, solver = giant(name), Solver(giant(name), where)
    for n_ctx, (k, v), layers, moe, flash in itertools.product(
        (512, 40_000, 131_072, 1_000_000),
        (("f16", "f16"), ("q8_0", "q5_1"), ("q4_0", "q4_0")),
        (0, 10, 99),
        (0, 5),
        ("on", "off"),
    ):
        wishes = Wishes(n_ctx, False, k, v, layers, moe, flash_attn=flash).for_model(model)
        found = solver.calculate(wishes)
        for asked in (wishes, Wishes()):
            told = warnings_for(model, found, where, asked)
            for a, b in itertools.combinations(told, 2):
                assert not say_the_same(a, b), (a, b)
            beyond = [text for text in told if "trained for" in text]
            assert len(beyond) == (n_ctx > model.n_ctx_train)


@pytest.mark.parametrize("name", GIANTS)
def test_a_plan_warns_once_of_a_context_beyond_training(name: str) -> None:
    """Where it fits and where it does not, with both numbers as people read them."""
    model = giant(name)
    n_ctx = model.n_ctx_train + 1024
    for gib in (4, 80):
        told = make_plan(model, machine(gpu(gib)), Wishes(n_ctx=n_ctx)).warnings
        (beyond,) = [text for text in told if "trained for" in text]
        assert f"{n_ctx:,}" in beyond
        assert f"{model.n_ctx_train:,}" in beyond


def test_a_model_that_does_not_say_its_training_is_not_warned_of() -> None:
    """There is no number to be beyond of."""
    model = replace(giant(LLAMA_8B), n_ctx_train=0)
    told = make_plan(model, machine(gpu(24)), Wishes(n_ctx=40_000)).warnings
    assert not any("trained" in text for text in told)


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        (Wishes(n_gpu_layers=20), "--gpu-layers has"),
        (Wishes(tensor_split=(1, 1)), "--tensor-split has"),
        (Wishes(n_gpu_layers=20, tensor_split=(1, 1)), "--gpu-layers and --tensor-split have"),
    ],
)
def test_what_has_no_effect_without_a_gpu_is_what_was_asked(wishes: Wishes, told: str) -> None:
    """No flag is named that nobody gave."""
    (warning,) = make_plan(giant(LLAMA_8B), machine(), replace(wishes, n_ctx=4096)).warnings
    assert warning == f"No GPU is in use, so {told} no effect."


def test_experts_that_a_model_has_not_wait_for_nothing() -> None:
    """--n-cpu-moe of a model without experts makes the very plan without it."""
    plan, usual = (
        make_plan(giant(LLAMA_8B), machine(gpu(24)), Wishes(n_cpu_moe=n)) for n in (3, None)
    )
    assert plan.reasons == usual.reasons
    assert replace(plan.chosen.settings, n_cpu_moe=0) == usual.chosen.settings


def test_experts_asked_of_a_model_without_are_told_of() -> None:
    told = make_plan(giant(LLAMA_8B), machine(), Wishes(n_cpu_moe=4, n_ctx=4096)).warnings
    assert told == ("This model has no experts, so --n-cpu-moe has no effect.",)


def test_another_batch_has_its_reason() -> None:
    """Where the solver took it, not where the user did."""
    seen = set()
    for gib in (1.3, 2.0, 3.0, 4.0, 6.0, 8.0):
        plan = make_plan(giant(LLAMA_8B), machine(gpu(gib)), Wishes(n_ctx=16_384))
        n_ubatch = plan.chosen.settings.n_ubatch
        said = f"n_ubatch {n_ubatch} instead of 512" in " ".join(plan.reasons)
        assert said == (n_ubatch != 512)
        seen.add(n_ubatch)
    wished = make_plan(giant(LLAMA_8B), machine(gpu(24)), Wishes(n_ubatch=128))
    assert "instead of 512" not in " ".join(wished.reasons)
    assert len(seen) > 1


@pytest.mark.parametrize("gib", [6, 8, 12, 16, 20, 23, 24, 48])
@pytest.mark.parametrize("name", [LLAMA_8B, AYA_35B])
def test_what_f16_would_do_is_what_it_does(name: str, gib: float) -> None:
    """The reason for the cache types is held against the best plan with an f16 cache."""
    where = machine(gpu(gib))
    plan = make_plan(giant(name), where, Wishes())
    why = " ".join(plan.reasons)
    s = plan.chosen.settings
    if s.type_k == s.type_v == "f16":
        assert "The cache stays in f16" in why
        return
    other = Solver(giant(name), where).best(Wishes(type_k="f16", type_v="f16"))
    assert other is not None
    layers = f"keep {other.settings.n_gpu_layers} of"
    context = f"give {other.settings.n_ctx:,} tokens of context"
    assert (layers in why) == (other.settings.n_gpu_layers != s.n_gpu_layers)
    assert (context in why) == (other.settings.n_ctx != s.n_ctx)


def reasons(name: str, where: Machine, wishes: Wishes | None = None) -> str:
    plan = make_plan(giant(name), where, wishes or Wishes())
    assert plan.chosen.fits
    return " ".join(plan.reasons)


def test_where_the_layers_are_is_said() -> None:
    """On one GPU, on several by name, without their experts, in part, or on none."""
    assert "All 33 layers are on the GPU:" in reasons(LLAMA_8B, machine(gpu(24)))
    two = machine(gpu(16), gpu(16, 1))
    assert "All 41 layers are on GPU0 and GPU1:" in reasons(AYA_35B, two)
    assert "but for the experts of" in reasons(QWEN_30B_A3B, machine(gpu(12)))
    assert "one more would need" in reasons(LLAMA_8B, machine(gpu(4)))
    assert "every layer runs on the CPU" in reasons(LLAMA_8B, machine())


def test_why_the_context_is_what_it_is() -> None:
    """All of it, what is left over, what a chat gets, or what memory allows."""
    assert "all that the model was trained for" in reasons(LLAMA_8B, machine(gpu(80)))
    assert "Memory left over goes to the context" in reasons(LLAMA_8B, machine(gpu(10)))
    assert "16,384 do not fit" in reasons(LLAMA_8B, machine(ram=6.0))
    assert "The context is" not in reasons(LLAMA_8B, machine(gpu(24)), Wishes(n_ctx=9000))


@pytest.mark.parametrize("n_ubatch", [128, 2048])
def test_what_a_batch_does_to_prompts_is_said_in_both_numbers(n_ubatch: int) -> None:
    """Where experts stay in RAM prompts are many times faster with a large one."""
    solver = Solver(giant(QWEN_30B_A3B), machine(gpu(8)))
    settings = solver.calculate(Wishes(8192, False, "q8_0", "q8_0", 49, 40)).settings
    objective = solver.objective(Wishes())
    usual, other = (solver.weigh(replace(settings, n_ubatch=n), objective) for n in (512, n_ubatch))
    (told,) = (x for x in reasons_for(solver, Wishes(), other) if x.startswith("n_ubatch"))
    assert f"at {tps_text(other.speed.prompt_tps)} tokens/s instead of " in told
    assert told.endswith(f"{tps_text(usual.speed.prompt_tps)}.")
    assert not any(x.startswith("n_ubatch") for x in reasons_for(solver, Wishes(), usual))
    faster = other.speed.prompt_tps > usual.speed.prompt_tps
    assert faster == (n_ubatch > 512)


def test_a_number_that_stays_the_same_is_not_said() -> None:
    """Deep in a long context it is attention that prompts wait for, whatever the batch."""
    solver = Solver(giant(LLAMA_8B), machine(gpu(8)))
    settings = solver.calculate(Wishes(8192, False, "q8_0", "q8_0", 33)).settings
    candidate = solver.weigh(replace(settings, n_ubatch=1024), solver.objective(Wishes()))
    (told,) = (x for x in reasons_for(solver, Wishes(), candidate) if x.startswith("n_ubatch"))
    assert told.endswith("once for each batch.")


@pytest.mark.parametrize(
    ("where", "limit"),
    [
        (machine(gpu(10)), "GPU0 has no room for more"),
        (machine(ram=16), "half of what RAM was left stays free for other programs"),
    ],
    ids=["card", "RAM"],
)
def test_what_ends_the_context_is_what_does(where: Machine, limit: str) -> None:
    """A step more is over the budget that the sentence names, and over no other."""
    solver = Solver(giant(LLAMA_8B), where)
    plan = make_plan(giant(LLAMA_8B), where, Wishes(), solver=solver)
    (told,) = (text for text in plan.reasons if "context" in text and "cache" not in text)
    s = plan.chosen.settings
    assert told.endswith(f"{s.n_ctx:,} tokens, and {limit}.")
    more = solver.fitting.estimator.footprint(s.with_context(s.n_ctx + 256))
    assert solver.fitting.fits(more) == ("half" in limit)


def test_a_context_that_was_cut_is_held_against_the_next_one_too() -> None:
    """Not only against all that a chat may want."""
    where = machine(gpu(12))
    plan = make_plan(giant(AYA_35B), where, Wishes())
    n_ctx = plan.chosen.settings.n_ctx
    wished = Solver(plan.model, where).objective(Wishes()).wished_context
    assert n_ctx < wished
    (told,) = (text for text in plan.reasons if text.startswith("The context is"))
    named = [int(x.replace(",", "")) for x in re.findall(r"[\d,]{4,}", told)]
    assert named == [*dict.fromkeys((n_ctx, next_context(n_ctx, wished), wished))]


@pytest.mark.parametrize(
    ("n_ctx", "more"), [(4096, 8192), (5120, 8192), (7680, 16384), (20_000, 32_768), (1, 1)]
)
def test_the_next_context_is_round_and_clearly_more(n_ctx: int, more: int) -> None:
    assert next_context(n_ctx, 32_768 if n_ctx > 1 else 1) == more


def test_where_f16_does_not_fit_at_all_it_is_said() -> None:
    """There is no plan to compare with."""
    why = reasons(LLAMA_8B, machine(ram=12), Wishes(n_ctx=65_536))
    assert "with f16 nothing fits" in why


@pytest.mark.parametrize("gib", [2.0, 4.0, 6.0, 8.0, 20.0])
@pytest.mark.parametrize("name", [LLAMA_8B, AYA_35B])
def test_the_batch_is_explained_in_one_place(name: str, gib: float) -> None:
    """Its own sentence names n_ubatch, that of the cache types does not."""
    why = make_plan(giant(name), machine(gpu(gib)), Wishes()).reasons
    named = [text for text in why if "n_ubatch" in text]
    assert all(text.startswith("n_ubatch") for text in named)
    assert len(named) <= 1


def test_what_was_not_looked_for_to_the_end_is_not_said_to_be_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A reason takes only so much work; without an answer it makes no claim."""
    where = machine(gpu(24))
    plan = make_plan(giant(AYA_35B), where, Wishes())
    said = " ".join(plan.reasons)
    assert "f16 would" in said
    monkeypatch.setattr("tuner.planning.reasons.WHY_WORK", 1)
    hurried = make_plan(giant(AYA_35B), where, Wishes())
    assert hurried.chosen == plan.chosen
    why = " ".join(hurried.reasons)
    assert "f16" not in why
    assert f"The context is {plan.chosen.settings.n_ctx:,} tokens." in why


@pytest.mark.parametrize(
    ("model", "backend", "op", "said"),
    [
        ("mistral4-moe.gguf", "CUDA", "MUL_MAT_ID", "the last product of this model's experts"),
        ("mistral4-moe.gguf", "Metal", "", ""),
        ("jamba-dense.gguf", "Vulkan", "SSM_SCAN", "the recurrence of this model's states"),
        (LLAMA_8B, "Vulkan", "", ""),
    ],
)
def test_what_a_gpu_has_no_kernel_for_is_said(model: str, backend: str, op: str, said: str) -> None:
    """Of the layers on GPUs, and not of what is in RAM anyway."""
    for n_gpu_layers, n_cpu_moe in ((999, 0), (0, 0), (999, 999)):
        wishes = Wishes(n_ctx=4096, n_gpu_layers=n_gpu_layers, n_cpu_moe=n_cpu_moe)
        plan = make_plan(giant(model), machine(gpu(24, backend=backend)), wishes)
        there = bool(op) and n_gpu_layers > 0 and not (op == "MUL_MAT_ID" and n_cpu_moe)
        found = [text for text in plan.warnings if "no kernel" in text]
        assert plan.chosen.footprint.on_cpu == ((("GPU0", op),) if there else ())
        assert len(found) == (1 if there else 0)
        assert all(said in text and text.startswith(f"{backend} has") for text in found)


def test_only_a_gpu_with_such_a_layer_is_named() -> None:
    """The layer with experts is the first one's."""
    gpus = (gpu(24), gpu(24, 1, backend="Vulkan"))
    wishes = Wishes(n_ctx=4096, n_gpu_layers=999, tensor_split=(1.0, 1.0))
    plan = make_plan(giant("mistral4-moe.gguf"), machine(*gpus), wishes)
    (said,) = (text for text in plan.warnings if "no kernel" in text)
    assert said.startswith("CUDA has")
