"""The engine as oracle: its dry runs of made-up models say the same as the formulas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.memory_accuracy import compare, grid, stand_in, table
from bench.oracle import Oracle, available
from tests.support.gguf_files import Q4_0, Tensor
from tests.support.headers import made_up, unpacked
from tuner.gguf.header import read_header
from tuner.memory.estimator import Estimator
from tuner.model.model import describe
from tuner.settings import Settings

pytestmark = pytest.mark.skipif(not available(), reason="the engine here cannot be the oracle")

_SHAPE: dict[str, Any] = {"n_embd": 1024, "n_head": 8, "n_head_kv": 2, "n_ff": 3072, "n_layer": 6}
_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "tied": ("llama", {"tied": True}),
    "wide heads": ("qwen3", {"head": 256, "norms": ("attn_q_norm", "attn_k_norm")}),
    "window": (
        "gemma3",
        {
            "tied": True,
            "keys": {"attention.sliding_window": 512},
            "norms": (
                "attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm"
            ),
        },
    ),
    "window by default": (
        "gemma2", {"tied": True, "norms": ("post_attention_norm", "post_ffw_norm")},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def oracles() -> Iterator[dict[int, Oracle]]:
    with Oracle(1) as one, Oracle(2) as two:
        yield {1: one, 2: two}


@pytest.mark.parametrize("n_gpus", [1, 2])
@pytest.mark.parametrize("name", sorted(_MODELS))
def test_a_dry_run_says_the_same(
    oracles: dict[int, Oracle], tmp_path: Path, name: str, n_gpus: int
) -> None:
    """Over the grid of the accuracy bench: weights and cache to the byte, compute within 1 %
    or 64 KiB (a buffer's holes may fall otherwise between two replayed contexts)."""
    architecture, more = _MODELS[name]
    path = tmp_path / "m.gguf"
    model = made_up(path, architecture, **{**_SHAPE, **more})
    estimator = Estimator(model, stand_in(n_gpus), as_dry_run=True)
    for settings in grid(model.n_layer_all, n_gpus, quick=False):
        true = oracles[n_gpus].ask(path, settings)
        assert not true.error, true.error
        case = compare(name, architecture, settings, estimator.footprint(settings), true)
        assert (case.weights, case.cache) == (0, 0), settings
        assert abs(case.compute) <= max(65536, case.compute_true // 100), (settings, case)


def test_experts_on_the_host(oracles: dict[int, Oracle], tmp_path: Path) -> None:
    """A mixture of experts, routed on the GPU and computed in RAM for some layers."""
    experts = tuple(
        Tensor(f"blk.{il}.{name}.weight", shape, Q4_0 if len(shape) > 2 else 0)
        for il in range(6)
        for name, shape in (
            ("ffn_gate_inp", (1024, 16)),
            ("ffn_gate_exps", (1024, 512, 16)),
            ("ffn_up_exps", (1024, 512, 16)),
            ("ffn_down_exps", (512, 1024, 16)),
        )
    )
    path = tmp_path / "m.gguf"
    keys = {
        "expert_count": 16, "expert_used_count": 4, "expert_feed_forward_length": 512,
    }  # fmt: skip
    model = made_up(
        path, "qwen3moe", keys, experts, **_SHAPE, norms=("attn_q_norm", "attn_k_norm"), dense=False
    )
    estimator = Estimator(model, stand_in(1))
    for moe in (0, 2, 6):
        settings = Settings(8192, n_gpu_layers=99, n_cpu_moe=moe, use_extra_bufts=False)
        true = oracles[1].ask(path, settings)
        assert not true.error, true.error
        case = compare("moe", "qwen3moe", settings, estimator.footprint(settings), true)
        assert (case.weights, case.cache) == (0, 0), settings
        assert abs(case.compute) <= case.compute_true // 100, case


def test_attention_and_feed_forward_side_by_side(
    oracles: dict[int, Oracle], tmp_path: Path
) -> None:
    """gptneox with `use_parallel_residual`, which the archive's header has switched off: with one
    layer on the GPU the sums take other memory over, and that to the byte."""
    written = unpacked()[0]["gptneox-dense.gguf"].read_bytes()
    key = b"gptneox.use_parallel_residual"
    switch = written.index(key) + len(key) + 4  # behind the number that says: a boolean
    path = tmp_path / "m.gguf"
    path.write_bytes(written[:switch] + b"\x01" + written[switch + 1 :])
    header = unpacked()[0]["gptneox-dense.gguf"]
    one_after_the_other, beside = (
        Estimator(describe(read_header(file)), stand_in(1)) for file in (header, path)
    )
    for settings in (
        Settings(4096, n_gpu_layers=99),
        Settings(4096, n_gpu_layers=99, flash_attn="off"),
        Settings(4096, n_gpu_layers=1, n_ubatch=128),
    ):
        true = oracles[1].ask(path, settings)
        assert not true.error, true.error
        found = [use.compute for use in beside.exact(settings).uses]
        assert found == [size.compute for size in true.sizes], settings
    assert one_after_the_other.exact(settings).uses != beside.exact(settings).uses


def test_the_table_counts(tmp_path: Path) -> None:
    assert "0 cases" in table([])
