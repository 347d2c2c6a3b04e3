"""Laws that hold for any settings, and what a footprint costs in graphs."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as quickly
from hypothesis import strategies as st

from tests.support.headers import machine, real_model, replay_every_shape
from tuner.memory.cache_types import CACHE_TYPES
from tuner.memory.compute.graph import Graph
from tuner.memory.compute.replica.model_graph import ModelGraph
from tuner.memory.estimator import Estimator
from tuner.settings import Settings

_NAMES = (
    "Llama-3.1-8B-Q4_K_M.gguf", "gemma-3-27b-Q4_K_M.gguf", "Qwen3-30B-A3B-Q4_K_M.gguf",
    "qwen3next-moe.gguf", "deepseek2-moe.gguf", "jamba-dense.gguf",
)  # fmt: skip
_SPARSE = ("deepseek32-moe.gguf", "deepseek4-moe.gguf", "glm5-next-moe.gguf", "qwen4exp-moe.gguf")
_BACKENDS = ("RPC", "CUDA", "Metal", "Vulkan")
_ESTIMATORS = {
    (name, backend): Estimator(real_model(name), machine(2, backend))
    for name in _NAMES
    for backend in _BACKENDS
}

_estimators = st.sampled_from(sorted(_ESTIMATORS)).map(_ESTIMATORS.__getitem__)
_types = st.sampled_from(sorted(CACHE_TYPES))
_some = st.builds(
    Settings,
    n_ctx=st.integers(1, 200_000),
    type_k=_types,
    type_v=_types,
    n_gpu_layers=st.integers(0, 99),
    n_cpu_moe=st.integers(0, 64),
    n_ubatch=st.sampled_from([64, 512, 1024]),
    tensor_split=st.tuples(st.floats(0.1, 4), st.floats(0.1, 4)),
    use_extra_bufts=st.just(False),
)


@quickly(max_examples=60, deadline=None)
@given(_estimators, _some)
def test_the_layers_weights_are_somewhere_once(e: Estimator, s: Settings) -> None:
    """Moving layers moves bytes: the sum differs by padding and a tied copy, no more."""
    tensors = e.model.tensors
    exact = sum(t.n_bytes for x in tensors.layers for t in (*x.others, *x.experts))
    exact += sum(t.n_bytes for t in (*tensors.input, *tensors.output))
    count = sum(len(x.others) + len(x.experts) for x in tensors.layers) + 10
    tied = tensors.tied.n_bytes if tensors.tied else 0
    rope = 3 * sum(t.n_bytes + 128 for t in tensors.rope)
    total = sum(u.weights for u in e.footprint(s).uses)
    assert exact <= total <= exact + tied + rope + count * (128 + 1200)


@quickly(max_examples=60, deadline=None)
@given(_estimators, _some)
def test_the_quicker_a_sum_the_less_it_counts(e: Estimator, s: Settings) -> None:
    """So that a search may pass over what has no room by it."""
    nothing, least, found = (e.totals(s, compute) for compute in ("nothing", "least", "search"))
    for place, (a, b, c) in enumerate(zip(nothing, least, found, strict=True)):
        assert a <= b <= c
        assert e.total(place, s, "least") == b
    # of whatever layers a GPU has, one that it must have is no more than all of them
    layers, compute = e.placement(s).on_gpus, [u.compute for u in e.footprint(s).uses]
    for gpu, (n, of_all) in enumerate(zip(layers, compute, strict=False)):
        assert n <= 1 or e.least_with_layers(n - 1, gpu, s) <= of_all


@quickly(max_examples=60, deadline=None)
@given(_estimators, _some, st.integers(1, 40_000))
def test_more_context_never_takes_less(e: Estimator, s: Settings, more: int) -> None:
    """Cache and compute, on every device."""
    small, large = e.footprint(s), e.footprint(replace(s, n_ctx=s.n_ctx + more))
    for a, b in zip(small.uses, large.uses, strict=True):
        assert a.weights == b.weights
        assert a.kv_cache <= b.kv_cache
        assert a.recurrent_state == b.recurrent_state
        if s.n_ctx > 2048:  # below, a context holds fewer tokens than one graph may
            assert a.compute <= 1.06 * b.compute + 8192  # holes may fall luckier


@quickly(max_examples=60, deadline=None)
@given(_estimators, _some)
def test_more_layers_on_the_gpus_never_weigh_less_there(e: Estimator, s: Settings) -> None:
    one_more = replace(s, n_gpu_layers=s.n_gpu_layers + 1)
    before, after = e.footprint(s), e.footprint(one_more)
    assert before.host.weights >= after.host.weights
    assert before.host.kv_cache >= after.host.kv_cache
    gpus = [sum(u.weights for u in f.uses[:-1]) for f in (before, after)]
    assert gpus[0] <= gpus[1]


@quickly(max_examples=40, deadline=None)
@given(_estimators, _some)
def test_where_the_cache_lies_does_not_change_its_size(e: Estimator, s: Settings) -> None:
    """But for CUDA's padding of quantized rows."""
    everywhere = sum(u.kv_cache for u in e.footprint(s).uses)
    host = sum(u.kv_cache for u in e.footprint(replace(s, n_gpu_layers=0)).uses)
    assert host <= everywhere <= host + 2 * 1200 * e.model.n_layer_all
    states = {sum(u.recurrent_state for u in e.footprint(x).uses)
              for x in (s, replace(s, n_gpu_layers=0))}  # fmt: skip
    assert len(states) == 1


@pytest.mark.parametrize(
    ("rows", "layers", "engines"),
    [
        (1, 99, (172509216, 32002080)),
        (4, 99, (172509216, 32002080)),
        (0, 99, (547880960, 32004096)),
        (0, 10, (547880960, 183523328)),
    ],
)
def test_rows_of_logits_cost_what_the_engine_reserves(
    rows: int, layers: int, engines: tuple[int, int]
) -> None:
    """A chat reads one row; a program that takes one for each of 512 tokens pays 375 MiB. The
    engine's sizes are of its own dry runs (`bench.oracle`)."""
    estimator = Estimator(real_model("gemma-3-27b-Q4_K_M.gguf"), machine(), n_outputs_max=rows)
    settings = Settings(8192, n_gpu_layers=layers, use_extra_bufts=False)
    assert tuple(use.compute for use in estimator.exact(settings).uses) == engines
    assert tuple(use.compute for use in estimator.footprint(settings).uses) == engines


def test_a_quantized_cache_costs_cuda_a_copy() -> None:
    """CUDA's attention unpacks one layer to f16, so the net saving is less than the cache's."""
    model = real_model("Llama-3.1-8B-Q4_K_M.gguf")
    at = Settings(32768, n_gpu_layers=99)
    f16, q8 = (
        Estimator(model, machine(1, "CUDA")).footprint(x).uses[0]
        for x in (at, replace(at, type_k="q8_0", type_v="q8_0"))
    )
    one_layer = 2 * 32768 * 2 * 1024
    assert f16.compute < q8.compute
    assert q8.compute > one_layer


def test_a_visible_gpu_costs_its_context_even_without_layers() -> None:
    e = Estimator(real_model("Llama-3.1-8B-Q4_K_M.gguf"), machine(1, "CUDA", overhead=300))
    assert e.footprint(Settings(4096, n_gpu_layers=0)).uses[0].overhead == 300


@pytest.mark.parametrize("backend", ["RPC", "CUDA"])
@pytest.mark.parametrize("name", _NAMES[:3])
def test_a_thousand_footprints_need_few_graphs(
    name: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph serves every context, batch and cache type, so that asking for a thousand settings
    builds no more graphs than there are kinds of placements; asking again builds none."""
    built = 0
    build = ModelGraph.build

    def counted(self: ModelGraph, *args: Any) -> Graph:
        nonlocal built
        built += 1
        return build(self, *args)

    monkeypatch.setattr(ModelGraph, "build", counted)
    estimator = Estimator(real_model(name), machine(1, backend))
    asked = [
        Settings(4096 + 1024 * (i % 97), kv, kv, i % 13 + 5, 0, (128, 256, 512)[i % 3])
        for i, kv in zip(range(1000), cycle(("f16", "q8_0", "q5_1", "q4_0")), strict=False)
    ]
    for s in asked:
        estimator.footprint(s)
    assert 0 < built <= 40
    built = 0
    for s in asked:
        estimator.footprint(s)
    assert built == 0


@given(
    name=st.sampled_from(_NAMES),
    backend=st.sampled_from(_BACKENDS),
    more=st.lists(_some, min_size=4),
)
@quickly(max_examples=25, deadline=None, derandomize=True)
def test_sizes_left_open_and_layers_left_out_change_nothing(
    name: str, backend: str, more: list[Settings]
) -> None:
    """What is replayed from graphs that many settings share is what the whole graph of each,
    built with its own numbers, would give."""
    plain = Estimator(real_model(name), machine(2, backend))
    replay_every_shape(plain)
    for s in more:
        assert _ESTIMATORS[name, backend].footprint(s) == plain.footprint(s)


@given(
    name=st.sampled_from(_SPARSE),
    more=st.lists(_some, min_size=4),
    rows=st.sampled_from([1, 4, 0]),
)
@quickly(max_examples=15, deadline=None, derandomize=True)
def test_numbers_that_a_context_is_rounded_to_may_be_left_open_too(
    name: str, more: list[Settings], rows: int
) -> None:
    """The same under sparse attention, whose blocks and picks follow the context in steps, and
    with more rows of logits than one."""
    quick, plain = (
        Estimator(real_model(name), machine(2, "CUDA"), n_outputs_max=rows) for _ in range(2)
    )
    replay_every_shape(plain)
    for s in (*more, *(replace(s, n_ctx=64, n_ubatch=16) for s in more)):
        assert quick.footprint(s) == plain.footprint(s)
