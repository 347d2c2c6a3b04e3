"""Another cache for a loaded model: what is chosen, and what is said where there is none."""

from __future__ import annotations

from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from tests.planning.test_planner import law
from tests.support.giants import LLAMA_8B, giant, gpu, machine
from tests.support.headers import real_model
from tuner.planning.objective import Objective
from tuner.planning.plan import Candidate
from tuner.planning.reshaping import Types, reshaped
from tuner.planning.solver import Solver
from tuner.settings import Settings
from tuner.wishes import Wishes

LOADED = Settings(16_384, "f16", "f16", n_gpu_layers=33)
TYPES = (None, ("f16", "f16"), ("q8_0", "q8_0"), ("q4_0", "q4_0"), ("q8_0", "q4_0"))


@cache
def solver(gib: float = 8.0) -> tuple[Solver, Objective]:
    found = Solver(giant(LLAMA_8B), machine(gpu(gib)))
    return found, found.objective(Wishes())


def wish(
    n_ctx: int | None = None,
    types: Types | None = None,
    least: int = 0,
    loaded: Settings = LOADED,
    gib: float = 8.0,
) -> Candidate | str:
    return reshaped(*solver(gib), loaded, n_ctx=n_ctx, types=types, least=least)


def had(*args: object, **kinds: object) -> tuple[int, str, str]:
    found = wish(*args, **kinds)  # type: ignore[arg-type]
    assert isinstance(found, Candidate), found
    s = found.settings
    return s.n_ctx, s.type_k, s.type_v


@given(
    n_ctx=st.one_of(st.none(), st.integers(300, 200_000)),
    types=st.sampled_from(TYPES),
    least=st.sampled_from([0, 5000, 30_000]),
    own=st.sampled_from(TYPES[1:4]),
)
@law(40)
def test_a_wish_is_kept_or_refused(
    n_ctx: int | None, types: Types | None, least: int, own: Types
) -> None:
    """What comes fits to the byte, has what was asked for and room for the conversation, and its
    weights lie where they lay."""
    loaded = Settings(16_384, *own, n_gpu_layers=33)
    found = wish(n_ctx, types, least, loaded)
    if isinstance(found, str):
        assert found.endswith(".")
        return
    s = found.settings
    assert solver()[0].budgets.hold(found.footprint.totals)
    assert found.fits
    assert s.n_ctx == (n_ctx or s.n_ctx) >= least
    assert (s.type_k, s.type_v) == (types or (s.type_k, s.type_v))
    kept = ("n_gpu_layers", "n_cpu_moe", "n_ubatch", "tensor_split", "flash_attn")
    assert all(getattr(s, name) == getattr(loaded, name) for name in kept)


def test_what_is_loaded_stays_where_it_has_room() -> None:
    """A cache that lost something gains nothing by finer types."""
    assert had(8192) == (8192, "f16", "f16")
    assert had(8192, loaded=Settings(16_384, "q4_0", "q4_0", n_gpu_layers=33)) == (
        8192, "q4_0", "q4_0",
    )  # fmt: skip


def test_more_context_costs_as_little_as_can_be() -> None:
    assert had(32_768) == (32_768, "q8_0", "q8_0")
    assert had(65_536) == (65_536, "q4_0", "q4_0")


def test_types_keep_the_context_where_they_can() -> None:
    assert had(types=("q8_0", "q8_0")) == (16_384, "q8_0", "q8_0")
    q4_0 = Settings(65_536, "q4_0", "q4_0", n_gpu_layers=33)
    n_ctx, *types = had(types=("q8_0", "q8_0"), loaded=q4_0)
    assert types == ["q8_0", "q8_0"]
    assert 32_768 < n_ctx < 65_536


def test_why_there_is_none() -> None:
    """In a sentence that says what there is room for."""
    for said, found in {
        "The conversation has 5,000 tokens, so the context cannot be 4,096.": wish(
            4096, least=5000
        ),
        "Without flash attention the cache cannot be exchanged": wish(
            8192, loaded=Settings(16_384, n_gpu_layers=33, flash_attn="off")
        ),
        "90,000 tokens with a cache of f16 do not fit: GPU0 is short by": wish(90_000),
        " tokens with q4_0.": wish(90_000),
        "65,536 tokens with a cache of q8_0 do not fit": wish(65_536, ("q8_0", "q8_0")),
        "nosuch is no type": wish(types=("nosuch", "f16")),
    }.items():
        assert isinstance(found, str)
        assert said in found


def test_a_model_of_states_alone_has_no_types() -> None:
    mamba = Solver(real_model("mamba-dense.gguf"), machine())
    objective = mamba.objective(Wishes())
    loaded = Settings(4096)
    assert "only states" in str(reshaped(mamba, objective, loaded, types=("q8_0", "q8_0")))
    longer = reshaped(mamba, objective, loaded, n_ctx=8192)
    assert isinstance(longer, Candidate)
    assert longer.settings == loaded.with_context(8192)
