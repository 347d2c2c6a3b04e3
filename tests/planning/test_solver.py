"""The solver's laws, and the case that the program exists for."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.gguf_files import Q8_0, Tensor, write_gguf
from tests.support.giants import AYA_35B, GEMMA_27B, LLAMA_8B, QWEN_30B_A3B, giant, gpu, machine
from tuner.gguf.header import read_header
from tuner.memory.estimator import Compute, Estimator
from tuner.memory.footprint import Footprint
from tuner.model.model import Model, describe
from tuner.planning.alternatives import dominates, fallbacks
from tuner.planning.budgets import Budgets
from tuner.planning.objective import FULL_UBATCH, LEAST_CONTEXT, WISHED_CONTEXT
from tuner.planning.plan import Candidate
from tuner.planning.planner import make_plan
from tuner.planning.solver import UBATCHES, Solver
from tuner.settings import Settings
from tuner.units import GIB, MIB
from tuner.wishes import PREFERENCES, Wishes

GIANTS = (LLAMA_8B, AYA_35B, QWEN_30B_A3B, GEMMA_27B)


def tiny_moe(folder: Path, n_layer: int = 3, n_ctx: int = 6144) -> Model:
    """A model small enough to try every way of loading it: experts, grouped heads, 3 layers."""
    tensors = [
        Tensor("token_embd.weight", (256, 4000), Q8_0),
        Tensor("output_norm.weight", (256,)),
        Tensor("output.weight", (256, 4000), Q8_0),
    ]
    for i in range(n_layer):
        tensors += [
            Tensor(f"blk.{i}.attn_norm.weight", (256,)),
            Tensor(f"blk.{i}.attn_q.weight", (256, 512), Q8_0),
            Tensor(f"blk.{i}.attn_k.weight", (256, 256), Q8_0),
            Tensor(f"blk.{i}.attn_v.weight", (256, 256), Q8_0),
            Tensor(f"blk.{i}.attn_output.weight", (512, 256), Q8_0),
            Tensor(f"blk.{i}.ffn_norm.weight", (256,)),
            Tensor(f"blk.{i}.ffn_gate_inp.weight", (256, 8)),
            *(
                Tensor(f"blk.{i}.ffn_{part}_exps.weight", shape, Q8_0)
                for part, shape in (
                    ("gate", (256, 4096, 8)), ("up", (256, 4096, 8)), ("down", (4096, 256, 8)),
                )
            ),
        ]  # fmt: skip
    metadata = {
        "general.architecture": "llama",
        "general.name": "tiny moe",
        "llama.block_count": n_layer,
        "llama.context_length": n_ctx,
        "llama.embedding_length": 256,
        "llama.feed_forward_length": 4096,
        "llama.attention.head_count": 8,
        "llama.attention.head_count_kv": 4,
        "llama.attention.key_length": 64,
        "llama.attention.value_length": 64,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.expert_count": 8,
        "llama.expert_used_count": 2,
        "llama.vocab_size": 4000,
        "tokenizer.ggml.model": "no_vocab",
    }
    return describe(read_header(write_gguf(folder / "tiny-moe.gguf", metadata, tensors)))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Solver:
    """One solver whose footprints serve every budget."""
    return Solver(tiny_moe(tmp_path_factory.mktemp("tiny")), machine(gpu(8)))


def limited(solver: Solver, free_mib: float, host_mib: float = 4096) -> Solver:
    """The solver on a GPU with so much free memory."""
    return solver.with_budgets(Budgets((int(free_mib * MIB) - 512 * MIB, int(host_mib * MIB))))


def brute_force(solver: Solver, wishes: Wishes) -> float | None:
    """The best score over every cell of the grid, each weighed on its own, with a checkpoint where
    the model needs one, and without."""
    both = dict.fromkeys((solver, solver.without_checkpoint))
    found = [_best_cell(one, wishes) for one in both]
    return max((score for score in found if score is not None), default=None)


def _best_cell(solver: Solver, wishes: Wishes) -> float | None:
    fitting, wished = solver.fitting, solver.objective(wishes).wished_context
    best: float | None = None
    for score, cell, totals in _cells(solver, wishes):
        beyond = cell.n_ctx > wished
        budgets = fitting.sparing_budgets(cell, wished) if beyond else fitting.budgets
        if (best is None or score > best) and budgets.hold(totals):
            best = score
    return best


_KNOWN: dict[tuple[Estimator, Wishes], list[tuple[float, Settings, list[int]]]] = {}


def _cells(solver: Solver, wishes: Wishes) -> list[tuple[float, Settings, list[int]]]:
    """Score, settings and bytes per device of every cell, whatever the budgets."""
    key = solver.fitting.estimator, wishes
    if key not in _KNOWN:
        _KNOWN[key] = list(_all_cells(solver, wishes))
    return _KNOWN[key]


def _all_cells(solver: Solver, wishes: Wishes) -> Iterator[tuple[float, Settings, list[int]]]:
    objective = solver.objective(wishes)
    moe = range(solver.model.moe_layers[-1] + 2) if solver.model.moe_layers else [0]
    for (k, v), u, n, m, ctx in itertools.product(
        list(solver.pairs(wishes)),
        UBATCHES,
        range(solver.n_items + 1),
        moe,
        solver.contexts(wishes),
    ):
        if 0 < m <= solver.n_items - n:
            continue  # names only layers that are on the CPU anyway
        if u not in solver.ubatches(wishes, solver.whole(n, m)):
            continue
        found = solver.weigh(Settings(ctx, k, v, n if solver.machine.gpus else 0, m, u), objective)
        yield found.score, found.settings, found.footprint.totals


@pytest.mark.parametrize("prefer", PREFERENCES)
def test_the_answer_is_that_of_brute_force(small: Solver, prefer: str) -> None:
    """Searching cleverly loses nothing against weighing every cell of the whole grid."""
    for free_mib in (925, 945, 985, 995, 1005, 1015, 1040):
        solver = limited(small, free_mib)
        wishes = Wishes(prefer=prefer)
        found = solver.best(wishes)
        expected = brute_force(solver, wishes)
        assert (found and round(found.score, 9)) == (expected and round(expected, 9)), free_mib


def test_the_brute_force_budgets_have_all_kinds_of_answers(small: Solver) -> None:
    """The budgets above make the solver decide: nothing, part and all of the model on the GPU."""
    found = [limited(small, mib).best(Wishes()) for mib in (935, 995, 1015)]
    assert len({(c.settings.n_gpu_layers, c.settings.n_cpu_moe) for c in found if c}) >= 3


@given(
    name=st.sampled_from(GIANTS),
    gibs=st.lists(st.floats(0.6, 30), min_size=1, max_size=2),
    ram=st.floats(2, 64),
    prefer=st.sampled_from(PREFERENCES),
    n_ctx=st.sampled_from([None, None, 2048, 16384]),
)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_never_over_budget(
    name: str, gibs: list[float], ram: float, prefer: str, n_ctx: int | None
) -> None:
    """Whatever is chosen leaves every device its reserve."""
    if len(gibs) > 1 and prefer == "context":
        prefer = "balanced"  # the search for the longest context over two GPUs takes seconds
    where = machine(*(gpu(g, i) for i, g in enumerate(gibs)), ram=ram)
    found = Solver(giant(name), where).best(Wishes(n_ctx=n_ctx, prefer=prefer))
    if found:
        for use, device in zip(found.footprint.uses, where.devices, strict=True):
            assert use.total <= device.free - device.reserve
        assert found.settings.n_ctx >= (n_ctx or min(LEAST_CONTEXT, giant(name).n_ctx_train))


@given(
    name=st.sampled_from(GIANTS),
    gib=st.floats(0.6, 30),
    more=st.floats(0.05, 6),
    prefer=st.sampled_from(PREFERENCES),
)
@settings(max_examples=20, deadline=None, derandomize=True)
def test_more_memory_never_gives_a_worse_plan(
    name: str, gib: float, more: float, prefer: str
) -> None:
    """The score never falls, and no plan is beaten in speed, context and precision at once."""
    wishes = Wishes(prefer=prefer)
    small_, large = (Solver(giant(name), machine(gpu(g))).best(wishes) for g in (gib, gib + more))
    if small_ is None:
        return
    assert large is not None
    assert large.score >= small_.score - 1e-9
    worse = (
        large.speed.turn_seconds > small_.speed.turn_seconds + 1e-6
        and large.settings.n_ctx < small_.settings.n_ctx
        and large.quality.loss > small_.quality.loss
    )
    assert not worse


@given(
    name=st.sampled_from(GIANTS),
    gib=st.floats(4, 26),
    n_ctx=st.sampled_from([None, 1000, 4096, 20000]),
    type_k=st.sampled_from([None, "f16", "q8_0", "q4_0"]),
    type_v=st.sampled_from([None, "f16", "q8_0", "q5_1"]),
    layers=st.sampled_from([None, 0, 1, 17]),
    n_ubatch=st.sampled_from([None, 64, 1024]),
)
@settings(max_examples=20, deadline=None, derandomize=True)
def test_a_fixed_wish_is_never_changed(
    name: str, gib: float, n_ctx: int | None, type_k: str | None, type_v: str | None,
    layers: int | None, n_ubatch: int | None,
) -> None:  # fmt: skip
    """The chosen plan, its alternatives and its fallbacks all keep what the user fixed."""
    wishes = Wishes(n_ctx, False, type_k, type_v, layers, n_ubatch=n_ubatch)
    plan = make_plan(giant(name), machine(gpu(gib)), wishes)
    kept = (plan.chosen, *plan.fallbacks, *(plan.alternatives if plan.chosen.fits else ()))
    for c in kept:
        s = c.settings
        for wish, is_ in (
            (n_ctx, s.n_ctx), (type_k, s.type_k), (type_v, s.type_v), (layers, s.n_gpu_layers),
            (n_ubatch, s.n_ubatch),
        ):  # fmt: skip
            assert wish is None or wish == is_


def test_the_plan_is_deterministic() -> None:
    """The same question has the same answer, to the last number."""
    where = machine(gpu(12), gpu(8, 1))
    plans = [make_plan(giant(LLAMA_8B), where, Wishes()) for _ in range(2)]
    assert plans[0] == plans[1]


# ------------------------------------------------------------------ cases that people have


def chosen(name: str, gib: float, **wishes: object) -> Candidate:
    found = Solver(giant(name), machine(gpu(gib))).best(Wishes(**wishes))  # type: ignore[arg-type]
    assert found is not None
    return found


def test_the_case_that_the_program_exists_for() -> None:
    """A 35B model on 24 GiB: a quantized cache keeps all 41 layers on the GPU where f16 does not,
    decoding is at least twice as fast for it, and the report says so."""
    plan = make_plan(giant(AYA_35B), machine(gpu(24)), Wishes())
    assert plan.chosen.settings.n_gpu_layers == 41
    assert {plan.chosen.settings.type_k, plan.chosen.settings.type_v} <= {"q8_0", "q4_0", "q5_1"}
    f16 = chosen(AYA_35B, 24, type_k="f16", type_v="f16")
    assert f16.settings.n_gpu_layers < 41
    assert plan.chosen.speed.decode_tps > 2 * f16.speed.decode_tps
    why = " ".join(plan.reasons)
    assert "All 41 layers are on the GPU" in why
    assert f"f16 would keep {f16.settings.n_gpu_layers} of 41 layers" in why


def test_experts_go_to_ram_before_whole_layers_do() -> None:
    """A mixture of experts that does not fit keeps every attention layer on the GPU."""
    found = chosen(QWEN_30B_A3B, 12)
    assert found.settings.n_gpu_layers >= 48
    assert found.settings.n_cpu_moe > 0


def test_a_model_that_fits_easily_stays_in_f16_with_all_its_context() -> None:
    """Nothing is given up where there is nothing to gain."""
    found = chosen(LLAMA_8B, 80)
    assert (found.settings.type_k, found.settings.type_v) == ("f16", "f16")
    assert (found.settings.n_gpu_layers, found.settings.n_ctx) == (33, 131_072)


@pytest.mark.parametrize("gib", [8, 16, 20, 21, 22, 22.5, 23, 24])
def test_low_types_only_where_they_put_the_whole_model_on_the_gpu(gib: float) -> None:
    """A cache below q8_0 is not spent on a few more layers."""
    found = chosen(AYA_35B, gib)
    low = not {found.settings.type_k, found.settings.type_v} <= {"f16", "q8_0"}
    assert found.settings.n_gpu_layers == 41 or not low


def test_low_types_are_not_used_for_context_beyond_the_wished_one() -> None:
    """q4_0 would give more tokens, but nobody asked for them at the price of quality."""
    found = chosen(LLAMA_8B, 10)
    assert found.settings.n_ctx > 16_384
    assert {found.settings.type_k, found.settings.type_v} <= {"f16", "q8_0"}


def test_context_nobody_asked_for_leaves_half_of_the_ram() -> None:
    """Without a GPU the context grows past the usual one only in RAM that others will not
    miss: half of what the usual one would leave; a wish may take it all."""
    where = machine(ram=24)
    solver = Solver(giant(LLAMA_8B), where)
    found = solver.best(Wishes())
    assert found is not None
    assert WISHED_CONTEXT < found.settings.n_ctx < 131_072
    usual = solver.weigh(found.settings.with_context(WISHED_CONTEXT), solver.objective(Wishes()))
    left = where.host.free - usual.footprint.host.total
    assert found.footprint.host.total <= usual.footprint.host.total + left // 2
    wished = solver.best(Wishes(n_ctx=130_000))
    assert wished is not None
    assert wished.footprint.host.total > usual.footprint.host.total + left // 2


def test_weights_in_ram_do_not_cut_a_cache_that_is_on_the_gpu() -> None:
    """Experts fill most of the RAM, the cache lies in the GPU's memory: it is cut by that alone."""
    model = giant(QWEN_30B_A3B)
    tight, wide = (Solver(model, machine(gpu(8), ram=ram)).best(Wishes()) for ram in (22, 128))
    assert tight is not None
    assert wide is not None
    assert tight.footprint.host.total > 0.5 * 22 * GIB
    assert tight.settings.n_ctx > WISHED_CONTEXT
    assert tight.settings.n_ctx >= 0.9 * wide.settings.n_ctx


def test_prompts_count_where_experts_stay_in_ram() -> None:
    """A larger batch reads prompts several times as fast there for a few per cent of decoding;
    where all weights are on the GPU the usual one will do."""
    found = chosen(QWEN_30B_A3B, 12)
    assert found.settings.n_ubatch >= 2048
    usual = chosen(QWEN_30B_A3B, 12, n_ubatch=512)
    assert found.speed.prompt_tps > 1.5 * usual.speed.prompt_tps
    assert found.speed.decode_tps > 0.9 * usual.speed.decode_tps
    assert found.speed.turn_seconds < usual.speed.turn_seconds
    assert chosen(LLAMA_8B, 24).settings.n_ubatch == FULL_UBATCH


@pytest.mark.parametrize("prefer", PREFERENCES)
@pytest.mark.parametrize("gib", [8, 12])
def test_no_preference_gives_up_prompts_for_a_little_decoding(gib: int, prefer: str) -> None:
    """Nor the other way round: what is several times slower in one for a few per cent of the
    other is never chosen, as long as the context is no other."""
    found = chosen(QWEN_30B_A3B, gib, prefer=prefer)
    s = found.settings
    for n_ubatch in UBATCHES:
        other = Solver(giant(QWEN_30B_A3B), machine(gpu(gib))).best(
            Wishes(s.n_ctx, False, s.type_k, s.type_v, n_ubatch=n_ubatch)
        )
        if other:
            gains = (
                other.speed.prompt_tps / found.speed.prompt_tps,
                other.speed.decode_tps / found.speed.decode_tps,
            )
            assert not (max(gains) > 2 and min(gains) > 0.95)


def test_preferences_mean_what_they_say() -> None:
    """context reaches furthest, quality keeps the most precision, speed is never slower."""
    by = {p: chosen(LLAMA_8B, 7, prefer=p) for p in PREFERENCES}
    assert by["context"].settings.n_ctx == max(c.settings.n_ctx for c in by.values())
    assert by["quality"].quality.loss == min(c.quality.loss for c in by.values())
    assert by["speed"].speed.decode_tps == max(c.speed.decode_tps for c in by.values())


def test_free_memory_counts_not_total() -> None:
    """A card that others have filled is not planned for as if it were empty."""
    card = gpu(24)
    busy = Solver(giant(LLAMA_8B), machine(replace(card, free=2 * GIB))).best(Wishes())
    alone = Solver(giant(LLAMA_8B), machine(card)).best(Wishes())
    assert busy
    assert alone
    assert busy.settings.n_gpu_layers < 15 < alone.settings.n_gpu_layers == 33


@pytest.mark.parametrize("prefer", ["balanced", "context"])
def test_layers_for_gpus_that_are_not_there_change_nothing(prefer: str) -> None:
    """Without a GPU a wish for layers on one costs neither context nor cache."""
    free = Wishes(prefer=prefer)
    plans = [
        Solver(giant(LLAMA_8B), machine(ram=6)).best(wishes)
        for wishes in (free, replace(free, n_gpu_layers=33))
    ]
    without, asked = [plan and replace(plan.settings, n_gpu_layers=0) for plan in plans]
    assert without == asked is not None


def test_layers_are_capped() -> None:
    """99 means all of them and is shown as what it is."""
    plan = make_plan(giant(LLAMA_8B), machine(gpu(24)), Wishes(n_gpu_layers=99))
    assert plan.chosen.settings.n_gpu_layers == 33


def test_two_gpus_share_what_one_cannot_hold() -> None:
    """35B on two 16 GiB cards: every layer on a GPU, both used, neither overfull."""
    where = machine(gpu(16), gpu(16, 1))
    found = Solver(giant(AYA_35B), where).best(Wishes())
    assert found is not None
    assert found.settings.n_gpu_layers == 41
    assert all(u.weights > GIB for u in found.footprint.uses[:2])
    assert found.fits


def test_a_model_that_fits_one_of_two_gpus_stays_on_the_fast_one() -> None:
    """No layer crosses to a slower card without need."""
    where = machine(gpu(24, bandwidth=300e9), gpu(24, 1, bandwidth=1000e9))
    found = Solver(giant(LLAMA_8B), where).best(Wishes(n_ctx=8192))
    assert found is not None
    assert found.footprint.uses[0].weights == 0 < found.footprint.uses[1].weights


# ------------------------------------------------------------------ nothing fits


def test_nothing_fits_says_by_how_much_and_what_would() -> None:
    """An impossible wish is answered with the bytes missing and plans that do fit."""
    wishes = Wishes(n_ctx=131_072, type_k="f16", type_v="f16", n_gpu_layers=33)
    plan = make_plan(giant(LLAMA_8B), machine(gpu(8)), wishes)
    over = plan.chosen.footprint.uses[0].total - plan.machine.gpus[0].budget
    assert not plan.chosen.fits
    assert f"{over:,} bytes" in plan.reasons[0]
    assert plan.alternatives
    assert all(c.fits for c in plan.alternatives)


def test_no_room_at_all() -> None:
    """A model larger than all memory there is."""
    plan = make_plan(giant(AYA_35B), machine(gpu(2), ram=4), Wishes())
    assert not plan.chosen.fits
    assert plan.alternatives == ()
    assert "short by" in plan.reasons[0]


def test_fallbacks_shrink_on_the_gpu() -> None:
    """Each rung of the ladder takes less GPU memory than the one before, the last none of the
    model's layers."""
    plan = make_plan(giant(LLAMA_8B), machine(gpu(12)), Wishes())
    totals = [c.footprint.uses[0].total for c in (plan.chosen, *plan.fallbacks)]
    assert len(totals) >= 4
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == len(totals)
    assert plan.fallbacks[-1].settings.n_gpu_layers == 0


@pytest.mark.parametrize("bandwidths", [(1008e9, 500e9), (400e9, 700e9)])
def test_fallbacks_exist_where_one_of_two_gpus_is_empty(bandwidths: tuple[float, float]) -> None:
    """Where the plan uses one of two GPUs, every rung of the ladder takes less of that one; the
    driver of the other, which cannot shrink, is in nobody's way."""
    cards = (
        gpu(gib, i, bandwidth=b) for i, (gib, b) in enumerate(zip((12, 8), bandwidths, strict=True))
    )
    solver, wishes = Solver(giant(LLAMA_8B), machine(*cards)), Wishes()
    chosen = solver.confirmed(wishes)[1]
    assert chosen is not None
    used, empty = sorted((0, 1), key=lambda g: -chosen.footprint.uses[g].weights)
    assert chosen.footprint.uses[empty].weights == 0
    offered = fallbacks(solver, wishes, chosen)
    totals = [c.footprint.uses[used].total for c in (chosen, *offered)]
    assert len(totals) == 6
    assert totals == sorted(totals, reverse=True)


def test_one_more_gib_is_worth_saying() -> None:
    """What the report promises for 1 GiB more fits a machine with it, and is better in what a user
    notices and worse in nothing."""
    plan = make_plan(giant(AYA_35B), machine(gpu(20)), Wishes())
    larger = Solver(giant(AYA_35B), machine(gpu(21)))
    promised, chosen = plan.one_more_gib, plan.chosen
    assert promised is not None
    assert larger.exactly(promised).fits
    assert dominates(promised, chosen)
    assert promised.speed.decode_tps > chosen.speed.decode_tps
    assert promised.settings.n_ctx >= chosen.settings.n_ctx


def test_alternatives_are_not_dominated() -> None:
    """Each alternative is better than the choice in speed, context or precision."""
    plan = make_plan(giant(LLAMA_8B), machine(gpu(8)), Wishes())
    mine = plan.chosen
    assert plan.alternatives
    for c in plan.alternatives:
        assert (
            c.speed.decode_tps > mine.speed.decode_tps
            or c.settings.n_ctx > mine.settings.n_ctx
            or c.quality.loss < mine.quality.loss
        )


def test_random_budgets_agree_with_brute_force(small: Solver) -> None:
    """The same as above over budgets nobody picked, the host's too."""
    rng = random.Random(7)
    for _ in range(12):
        solver = limited(small, rng.uniform(920, 1040), rng.uniform(20, 130))
        found, expected = solver.best(Wishes()), brute_force(solver, Wishes())
        assert (found and round(found.score, 9)) == (expected and round(expected, 9))


@pytest.mark.parametrize("gib", [5.0, 6.0, 7.0, 8.0])
def test_what_is_searched_too_low_is_chosen_by_its_exact_footprint(
    gib: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a search goes by footprints that are 40 MiB too low, as it may for some models, every
    plan of theirs fits all the same: the choice, what else there is and what to fall back on."""
    answer = Estimator.totals

    def low(e: Estimator, s: Settings, compute: Compute = "search") -> list[int]:
        return [n - 40 * MIB for n in answer(e, s, compute)]

    monkeypatch.setattr(Estimator, "totals", low)
    monkeypatch.setattr(Estimator, "needs_every_layer", True)
    where = machine(gpu(gib))
    plan = make_plan(giant(LLAMA_8B), where, Wishes())
    assert plan.alternatives
    assert plan.fallbacks
    fitting = Solver(giant(LLAMA_8B), where).fitting
    for c in (plan.chosen, *plan.alternatives, *plan.fallbacks):
        assert fitting.fits(fitting.estimator.exact(c.settings)), c.note


@pytest.mark.parametrize("gib", [5.0, 8.0])
def test_a_plan_fits_by_the_footprint_of_every_layer(
    gib: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where that needs 40 MiB more than the search went by, it is searched again with less."""
    answer = Estimator.exact

    def more(e: Estimator, s: Settings) -> Footprint:
        first, *rest = answer(e, s).uses
        return Footprint((replace(first, compute=first.compute + 40 * MIB), *rest))

    monkeypatch.setattr(Estimator, "exact", more)
    where = machine(gpu(gib))
    plan = make_plan(giant(LLAMA_8B), where, Wishes())
    assert plan.chosen.fits
    assert plan.chosen.footprint.uses[0].total <= where.gpus[0].budget
    assert plan.chosen.footprint == more(Estimator(giant(LLAMA_8B), where), plan.chosen.settings)


QUESTIONS = (
    Wishes(),
    Wishes(prefer="context"),
    Wishes(n_ctx=32_768),
    Wishes(type_k="q8_0", type_v="q8_0"),
    Wishes(n_gpu_layers=20),
    Wishes(n_ctx=1 << 20, type_k="f16", type_v="f16"),  # does not fit
)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    name=st.sampled_from([LLAMA_8B, QWEN_30B_A3B, "Qwen3-Next-80B.gguf"]),
    gibs=st.sampled_from([(6,), (12, 8)]),
    most=st.sampled_from([3_000, 10_000]),
    before=st.lists(st.sampled_from(QUESTIONS), min_size=1, max_size=2),
    question=st.sampled_from(QUESTIONS),
    margin=st.sampled_from([0, GIB]),
)
def test_a_plan_does_not_depend_on_what_was_asked_before(
    name: str,
    gibs: tuple[float, ...],
    most: int,
    before: list[Wishes],
    question: Wishes,
    margin: int,
) -> None:
    """Nor does what a search does before it is content: a solver that has answered other
    questions does not get further for it."""
    model, where = giant(name), machine(*(gpu(gib, i) for i, gib in enumerate(gibs)))
    margins = [margin] * (len(gibs) + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuner.planning.solver.MOST_WORK", most)
        patch.setattr("tuner.planning.solver.MORE_WORK", most)
        patch.setattr("tuner.planning.solver.ALL_WORK", 3 * most)
        used = Solver(model, where)
        for wishes in before:
            make_plan(model, where, wishes, solver=used)
        again = make_plan(model, where, question, margins=margins, solver=used)
        assert again == make_plan(model, where, question, margins=margins)


def test_every_batch_is_looked_at_where_the_largest_has_no_room() -> None:
    """A window's cache grows with n_ubatch: a placement may hold it with a smaller one alone."""
    solver = Solver(giant(GEMMA_27B), machine(gpu(16)))
    found = solver.best(Wishes())
    assert found is not None
    for n_ubatch in UBATCHES:
        other = solver.best(Wishes(n_ubatch=n_ubatch))
        assert other is None or found.score >= other.score - 1e-9
