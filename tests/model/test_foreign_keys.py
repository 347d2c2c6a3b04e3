"""Keys that a file states for another architecture, and caches that stand apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.headers import made_up
from tuner.memory.kv_cache import cache_layout


@pytest.mark.parametrize("key", ["kda.head_dim", "wkv.head_size", "shortconv.l_cache"])
def test_keys_of_other_recurrent_layers_do_not_count(tmp_path: Path, key: str) -> None:
    """granitehybrid reads ssm.* and no more: (4 - 1) columns of 512 + 2 x 1 x 128 channels, and a
    state of 128 x 512, in F32."""
    keys = {
        "attention.head_count_kv": [0, 2, 2, 2],
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 512,
        "ssm.state_size": 128,
        "ssm.time_step_rank": 8,
        "ssm.group_count": 1,
        key: 64,
    }
    model = made_up(tmp_path / "m.gguf", "granitehybrid", keys)
    assert cache_layout(model.hparams).states == ((0, 4 * 3 * 768), (0, 4 * 128 * 512))


def test_latent_keys_count_where_they_are_read(tmp_path: Path) -> None:
    """llama has no latent attention, whatever its file says."""
    keys = {"attention.key_length_mla": 192, "attention.value_length_mla": 128}
    assert not made_up(tmp_path / "m.gguf", "llama", keys).hparams.mla
    assert made_up(tmp_path / "n.gguf", "deepseek2", keys).hparams.mla


@pytest.mark.parametrize(
    ("architecture", "stated", "unstated"),
    [
        ("deepseek32", False, False), ("llama", False, False), ("gemma3", True, False),
        ("gemma3n", True, True), ("grok", True, False),
    ],
)  # fmt: skip
def test_a_cap_of_logits_counts_where_it_is_read(
    tmp_path: Path, architecture: str, stated: bool, unstated: bool
) -> None:
    """gemma3 and grok read the key; gemma3n has a limit of its own, and llama none."""
    for keys, capped in (({"final_logit_softcapping": 30.0}, stated), ({}, unstated)):
        model = made_up(tmp_path / "m.gguf", architecture, keys)
        assert model.hparams.capped_logits == capped


def test_values_beside_index_keys_are_no_wider_without_fusion(tmp_path: Path) -> None:
    """minimax-m3 keeps its index keys, and values of one head, in a cache of their own."""
    keys = {
        "leading_dense_block_count": 1,
        "attention.indexer.key_length": 128,
        "attention.indexer.top_k": 16,
        "attention.indexer.block_size": 128,
    }
    layout = cache_layout(made_up(tmp_path / "m.gguf", "minimax-m3", keys).hparams)
    own = [row for row in layout.rows if row.own_buffer]
    assert [(row.layer, row.k, row.v) for row in own] == [(il, 128, 64) for il in (1, 2, 3)]
    assert layout.v_row_max == 2 * 64


@pytest.mark.parametrize(("architecture", "bounded"), [("kimi-linear", False), ("kimi-k3", True)])
def test_a_bound_of_decays_counts_where_it_is_read(
    tmp_path: Path, architecture: str, bounded: bool
) -> None:
    model = made_up(tmp_path / "m.gguf", architecture, {"kda.gate_lower_bound": -5.0})
    assert model.hparams.ssm.kda_bounded == bounded
