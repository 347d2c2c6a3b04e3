"""Caches and states, rule by rule; the defects known from other estimators among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.headers import machine, made_up, real_model
from tuner.machine.backends import HOST_LAYOUT
from tuner.memory.estimator import Estimator
from tuner.memory.kv_cache import ALL, WINDOW, CacheSizes, cache_layout
from tuner.model.model import Model
from tuner.settings import Settings


def _cache(model: Model, n_ctx: int = 8192, **kw: Any) -> int:
    """Bytes on the host. Of layers that have no more tensors than these tests need there is no
    graph, so this is not asked of an `Estimator`."""
    settings = Settings(n_ctx, **kw)
    flash = settings.flash_attn != "off"
    return CacheSizes(model.hparams).bytes(settings, flash, HOST_LAYOUT, 0, model.n_layer_all)


def test_head_size_without_key_length(tmp_path: Path) -> None:
    """It is the embedding over the heads: 4 layers, K and V, 2 heads of 64, two bytes."""
    assert _cache(made_up(tmp_path / "m.gguf"), 1024) == 4 * 1024 * 2 * (2 * 64) * 2


def test_key_length_unlike_embedding_over_heads(tmp_path: Path) -> None:
    model = made_up(tmp_path / "m.gguf", head=128)
    assert _cache(model, 1024) == 4 * 1024 * 2 * (2 * 128) * 2


def test_key_and_value_lengths_apart(tmp_path: Path) -> None:
    keys = {"attention.key_length": 96, "attention.value_length": 64}
    assert _cache(made_up(tmp_path / "m.gguf", keys=keys), 1024) == 4 * 1024 * 2 * (96 + 64) * 2


def test_types_apart(tmp_path: Path) -> None:
    """K in q8_0 (34 bytes per 32), V in q4_0 (18 per 32)."""
    model = made_up(tmp_path / "m.gguf")
    per_token = 2 * 64 // 32 * (34 + 18)
    assert _cache(model, 1024, type_k="q8_0", type_v="q4_0") == 4 * 1024 * per_token


def test_context_is_padded(tmp_path: Path) -> None:
    model = made_up(tmp_path / "m.gguf")
    assert _cache(model, 1000) == _cache(model, 1024) < _cache(model, 1025) == _cache(model, 1280)


def test_head_counts_per_layer(tmp_path: Path) -> None:
    """A layer without key heads caches nothing."""
    model = made_up(tmp_path / "m.gguf", keys={"attention.head_count_kv": [2, 0, 1, 2]})
    assert _cache(model, 1024) == 1024 * 2 * 64 * 5 * 2


def test_window_without_a_pattern_array(tmp_path: Path) -> None:
    """gemma3: five layers of a window, then one of everything, whether the file says so or not."""
    model = made_up(tmp_path / "m.gguf", "gemma3", {"attention.sliding_window": 512}, n_layer=12)
    assert [il for il in range(12) if not model.hparams.swa[il]] == [5, 11]
    per_cell = 2 * 2 * 64 * 2
    assert _cache(model, 8192) == per_cell * (2 * 8192 + 10 * 1024)
    assert _cache(model, 8192, n_ubatch=1024) == per_cell * (2 * 8192 + 10 * 1536)
    assert _cache(model, 8192, swa_full=True) == per_cell * 12 * 8192
    assert _cache(model, 512) == per_cell * 12 * 512


@pytest.mark.parametrize(
    ("architecture", "keys", "n_layer", "everywhere"),
    [
        ("gemma2", {}, 4, [1, 3]),
        ("gpt-oss", {"attention.sliding_window": 128}, 4, [1, 3]),
        ("cohere2", {"attention.sliding_window": 4096}, 8, [3, 7]),
        ("gemma3", {"attention.sliding_window": 512, "attention.sliding_window_pattern": 3}, 6,
         [2, 5]),
        ("gemma3", {}, 6, list(range(6))),
        ("llama4", {}, 8, [3, 7]),
        ("llama4", {"attention.sliding_window": 0}, 8, list(range(8))),
        ("smallthinker", {"attention.sliding_window": 1}, 8, [0, 4]),
        ("exaone4", {"attention.sliding_window": 4096}, 32, list(range(32))),
        ("exaone4", {}, 64, list(range(3, 64, 4))),
        ("phi3", {"attention.sliding_window": 2048}, 4, list(range(4))),
        ("olmo2", {"attention.sliding_window": 4096}, 8, [3, 7]),
        ("gemma4", {"attention.sliding_window": 512,
                    "attention.sliding_window_pattern": [True, False, True, True]}, 4, [1]),
        ("nobody", {"attention.sliding_window": 512}, 4, list(range(4))),
        ("nobody", {"attention.sliding_window": 512,
                    "attention.sliding_window_pattern": [True, False, True, False]}, 4, [1, 3]),
    ],
)  # fmt: skip
def test_which_layers_see_everything(
    tmp_path: Path, architecture: str, keys: dict[str, Any], n_layer: int, everywhere: list[int]
) -> None:
    """The window pattern of an architecture; a window that llama.cpp ignores is ignored."""
    model = made_up(tmp_path / "m.gguf", architecture, keys, n_layer=n_layer)
    assert [il for il in range(n_layer) if not model.hparams.swa[il]] == everywhere
    kinds = {row.layer: row.cells for row in cache_layout(model.hparams).rows}
    assert [il for il in range(n_layer) if kinds[il] == ALL] == everywhere
    assert set(kinds.values()) <= {ALL, WINDOW}


def test_llama4_chunks_are_a_fixed_window(tmp_path: Path) -> None:
    model = made_up(tmp_path / "m.gguf", "llama4", {"attention.sliding_window": 5})
    assert model.hparams.n_swa == 8192


def test_latent_attention_keeps_one_row_for_both(tmp_path: Path) -> None:
    """K alone: the latent and the rotated part, one head."""
    keys = {
        "attention.key_length": 576, "attention.value_length": 512,
        "attention.key_length_mla": 192, "attention.value_length_mla": 128,
        "attention.head_count_kv": 1,
    }  # fmt: skip
    model = made_up(tmp_path / "m.gguf", "deepseek2", keys)
    assert _cache(model, 1024) == 4 * 1024 * 576 * 2
    del keys["attention.key_length_mla"]
    assert _cache(made_up(tmp_path / "o.gguf", "deepseek2", keys), 1024) == 4 * 1024 * 1088 * 2


def test_shared_layers_have_no_cache_of_their_own(tmp_path: Path) -> None:
    keys = {
        "attention.sliding_window": 512, "attention.shared_kv_layers": 2,
        "attention.sliding_window_pattern": [False] * 4,
    }  # fmt: skip
    assert _cache(made_up(tmp_path / "m.gguf", "gemma4", keys), 1024) == 2 * 1024 * 2 * 128 * 2


def test_v_is_padded_without_flash_attention(tmp_path: Path) -> None:
    """Transposed V rows are as wide as the widest layer's."""
    model = made_up(tmp_path / "m.gguf", keys={"attention.head_count_kv": [2, 1, 1, 1]})
    assert _cache(model, 1024, flash_attn="off") == 1024 * 2 * 64 * (5 + 4 * 2)


def test_states_do_not_grow_with_the_context() -> None:
    """mamba: nothing but F32 states, whatever the context and the cache types."""
    model = real_model("mamba-dense.gguf")
    estimator = Estimator(model, machine(0))
    small, large = (
        estimator.footprint(Settings(n, type_k=t, type_v=t)).host
        for n, t in ((512, "f16"), (65536, "q4_0"))
    )
    assert small.kv_cache == large.kv_cache == 0
    assert small.recurrent_state == large.recurrent_state > 0


def test_cuda_pads_quantized_rows(tmp_path: Path) -> None:
    """128 elements per row: 384 missing of 512, once per tensor of K and V and layer, each of which
    begins at a multiple of 128 bytes."""
    settings = Settings(1024, n_gpu_layers=99, type_k="q8_0", type_v="q8_0")
    model = made_up(tmp_path / "m.gguf")
    rpc, cuda = (
        Estimator(model, machine(1, b)).footprint(settings).uses[0].kv_cache
        for b in ("RPC", "CUDA")
    )
    assert 384 // 32 * 34 == 408
    assert cuda == rpc + 4 * 2 * 512
