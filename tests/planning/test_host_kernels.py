"""What ggml's kernels take on a core: the form, and what differs between types."""

from __future__ import annotations

from itertools import pairwise, product

import pytest

from tests.support.giants import GEMMA_27B, LLAMA_8B, giant
from tuner.gguf.types import GGML_NUMBERS
from tuner.memory.cache_types import CACHE_TYPES
from tuner.memory.kv_cache import CacheSizes
from tuner.planning.attended import Attended
from tuner.planning.host_kernels import row_seconds, weight_cost

F16 = ("f16", "f16")
AVX2, AVX512_FP16 = 32, 128  # steps of the engine's f16 loops


def test_a_row_costs_something_by_itself() -> None:
    """Of a head of twice the size it takes less than twice as long."""
    for name in CACHE_TYPES:
        small, large = (row_seconds((name, name), n, n, AVX2) for n in (128, 256))
        assert small < large < 2 * small


def test_what_a_loop_s_steps_leave_over_is_slow() -> None:
    """An f16 head of 64, of which a step of 128 has nothing, takes several times as long as where
    it is whole steps, and longer than one of q8_0; one of 128 is whole steps for both."""
    usual, left_over = (row_seconds(F16, 64, 64, step) for step in (AVX2, AVX512_FP16))
    assert left_over > 4 * usual
    assert usual < row_seconds(("q8_0", "q8_0"), 64, 64, AVX512_FP16) < left_over
    assert row_seconds(F16, 128, 128, AVX2) == row_seconds(F16, 128, 128, AVX512_FP16)


def test_v_is_what_must_be_unpacked() -> None:
    """A quantized K is multiplied as it is, as quickly as f16; each V takes its own time."""
    plain = row_seconds(F16, 128, 128, AVX2)
    rows = [row_seconds(("f16", v), 128, 128, AVX2) for v in ("f16", "q8_0", "q4_0", "q5_1")]
    assert all(b > 1.5 * a for a, b in pairwise(rows))
    for k in ("q8_0", "q4_0", "q5_1"):
        assert row_seconds((k, "f16"), 128, 128, AVX2) == pytest.approx(plain, rel=0.2)


@pytest.mark.parametrize("step", [AVX2, AVX512_FP16])
@pytest.mark.parametrize("head", [64, 80, 128, 576])
def test_no_pair_takes_less_than_the_least(head: int, step: int) -> None:
    least = row_seconds(None, head, head, step)
    rows = {pair: row_seconds(pair, head, head, step) for pair in product(CACHE_TYPES, repeat=2)}
    assert least == pytest.approx(min(rows.values()))


def test_kernels_of_many_tokens_differ_by_the_weights_type() -> None:
    """Unpacked once for many tokens, multiplied by a matrix kernel, row by row."""
    costs = [weight_cost(GGML_NUMBERS[name]) for name in ("q5_K", "q4_0", "q4_1")]
    assert costs == sorted(costs)
    assert 3 * costs[0] < costs[2]


def test_a_window_hides_what_lies_before_it() -> None:
    """Twice the depth is twice the attention, but for layers that see no more than their window."""
    for name, more in ((LLAMA_8B, 2.0), (GEMMA_27B, 1.5)):
        model = giant(name)
        at = Attended(model.hparams, CacheSizes(model.hparams), model.n_items, AVX2)
        shallow, deep = (at.core_seconds(depth, F16)[-1] for depth in (2048, 4096))
        assert shallow < deep <= more * shallow * 1.0001
        assert deep / shallow == pytest.approx(at.flop(4096)[-1] / at.flop(2048)[-1])
        assert at.core_seconds(0, F16)[-1] == 0
