"""What of the RAM a conversation's states may take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.planning.test_planner import law
from tests.planning.test_solver import brute_force
from tests.support.giants import GEMMA_27B, LLAMA_8B, giant, gpu, machine
from tests.support.headers import made_up
from tuner.memory.footprint import DeviceUse, Footprint
from tuner.planning.budgets import Budgets
from tuner.planning.kept_states import MOST_CHECKPOINTS, MOST_KEPT, KeptStates
from tuner.planning.objective import WISHED_CONTEXT
from tuner.planning.planner import make_plan
from tuner.planning.solver import Solver
from tuner.report.text import states_text
from tuner.settings import Settings
from tuner.tuning import Tuning
from tuner.units import GIB, MIB
from tuner.wishes import LaunchRequest, Wishes

HYBRID = "Kimi-Linear-48B.gguf"
sizes = st.integers(0, 64 * GIB)


def kept(budget: int, taken: int, checkpoint: int) -> KeptStates:
    footprint = Footprint((DeviceUse("host", weights=taken, checkpoint=checkpoint),))
    return KeptStates.of(footprint, Budgets((budget,)))


@given(sizes, sizes, st.integers(0, GIB), sizes)
@law(100)
def test_what_is_kept_never_takes_what_the_plan_needs(
    budget: int, taken: int, checkpoint: int, more: int
) -> None:
    found = kept(budget, taken, checkpoint)
    left = max(0, budget - taken - checkpoint)
    assert checkpoint <= found.size <= checkpoint + left // 2
    assert found.size <= checkpoint + max(MOST_KEPT, (MOST_CHECKPOINTS - 1) * checkpoint)
    assert (found.n_checkpoints >= 1) == (checkpoint > 0)
    assert found.size <= kept(budget + more, taken, checkpoint).size


@pytest.mark.parametrize("name", [GEMMA_27B, HYBRID])
def test_a_plan_has_room_for_one_checkpoint(name: str) -> None:
    """Where there is room for the rest and for nothing more, it does without, and says so."""
    model, where = giant(name), machine(gpu(12.0), ram=64)
    asked = Wishes(n_ctx=16_384, type_k="f16", type_v="f16", n_ubatch=512, n_gpu_layers=9)
    chosen = make_plan(model, where, asked).chosen
    host = chosen.footprint.host
    assert chosen.fits
    assert host.checkpoint > 0
    least = host.total - host.checkpoint
    for left, kept, fits in (
        (host.total, host.checkpoint, True),
        (host.total - 1, 0, True),
        (least, 0, True),
        (least - 1, 0, False),
    ):
        tight = replace(where.host, free=left + where.host.reserve)
        plan = make_plan(model, replace(where, host=tight), asked)
        assert (plan.chosen.footprint.host.checkpoint, plan.chosen.fits) == (kept, fits)
        said = any(why.startswith("No checkpoint of the conversation") for why in plan.reasons)
        assert said == (fits and not kept)


def test_below_the_wished_context_a_checkpoint_is_worth_less_than_twice_as_much_of_it(
    tmp_path: Path,
) -> None:
    """Beyond it, it is worth more; and what is planned is what a launch and the explorer find."""
    keys = {"context_length": 131_072, "attention.sliding_window": 4096, "logit_scale": 0.25}
    model = made_up(
        tmp_path / "command-r7b.gguf", "cohere2", keys, n_layer=32, n_embd=4096, n_head=32,
        n_head_kv=8, head=128, n_ff=14_336, n_vocab=256_000, tied=True,
    )  # fmt: skip
    tight, roomy = machine(ram=7), machine(ram=8)
    solver = Solver(model, tight)
    plan, kept = make_plan(model, tight, Wishes(), solver=solver), solver.best_alike(Wishes())
    assert kept is not None
    assert 1.5 * kept.settings.n_ctx < plan.chosen.settings.n_ctx < WISHED_CONTEXT
    assert plan.chosen.footprint.host.checkpoint == plan.kept.n_checkpoints == 0
    asked = LaunchRequest(model.path, use_profile=False)
    tuning = Tuning(asked, model, tight)
    assert tuning.plan().chosen == plan.chosen
    assert tuning.load_request(plan.chosen.settings).kept_bytes == plan.kept.size
    explorer = tuning.explorer(plan.chosen.settings)
    shown = explorer.exactly(explorer.weighed(explorer.start))
    assert shown.fits
    assert shown.footprint == plan.chosen.footprint
    more = make_plan(model, roomy, Wishes()).chosen
    assert more.settings.n_ctx > WISHED_CONTEXT
    assert more.footprint.host.checkpoint > 0


def test_a_dense_model_needs_none() -> None:
    plan = make_plan(giant(LLAMA_8B), machine(gpu(12.0)), Wishes())
    assert plan.chosen.footprint.host.checkpoint == 0
    assert plan.kept.n_checkpoints == 0
    assert states_text(plan.kept) == "up to 2.0 GiB of RAM, of other branches of the conversation"


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (KeptStates(1200 * MIB, 150 * MIB), "up to 1.2 GiB of RAM: 8 checkpoints of 150 MiB"),
        (KeptStates(200 * MIB, 150 * MIB), "up to 200 MiB of RAM: 1 checkpoint of 150 MiB"),
        (
            KeptStates(3 * GIB, 150 * MIB),
            "up to 3.0 GiB of RAM: 8 checkpoints of 150 MiB, and of other branches",
        ),
    ],
)
def test_in_words(kept: KeptStates, said: str) -> None:
    assert states_text(kept) == said


def test_less_of_a_window_is_kept_in_fewer_bytes() -> None:
    """The checkpoint goes with the cache's types and the context, as the cache does."""
    model, where = giant(GEMMA_27B), machine(gpu(40.0))

    def one(settings: Settings) -> int:
        asked = Wishes.of_settings(settings)
        return make_plan(model, where, asked).chosen.footprint.host.checkpoint

    full = one(Settings(8192, n_gpu_layers=99))
    assert one(Settings(512, n_gpu_layers=99)) < full
    assert one(Settings(8192, "q8_0", "q8_0", n_gpu_layers=99)) < full


@pytest.mark.parametrize(("mib", "kept"), [(45, False), (75, True)])
def test_with_or_without_it_is_the_best_of_all_there_is(
    tmp_path: Path, mib: int, kept: bool
) -> None:
    """Over every cell of a small grid: `mib` of RAM beside the weights."""
    keys = {"context_length": 8192, "attention.sliding_window": 4096, "logit_scale": 0.25}
    model = made_up(
        tmp_path / "wide.gguf", "cohere2", keys, n_layer=4, n_embd=512, n_head=8, n_head_kv=8,
        head=64, tied=True,
    )  # fmt: skip
    host = machine(ram=2).host
    free = model.size_bytes + mib * MIB + host.reserve
    solver = Solver(model, replace(machine(), host=replace(host, free=free)))
    asked = Wishes(type_k="f16", type_v="f16")
    found = solver.best(asked)
    assert found is not None
    assert found.score == pytest.approx(brute_force(solver, asked), abs=1e-9)
    assert bool(found.footprint.host.checkpoint) == kept
