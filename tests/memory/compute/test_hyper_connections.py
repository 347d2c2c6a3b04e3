"""Hyper-connections, compressed caches and pools of tokens: rules that deserve a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.headers import made_up
from tuner.gguf.header import TensorInfo
from tuner.memory.compute.allocator import peaks
from tuner.memory.compute.graph import F32, Graph
from tuner.memory.compute.replica.builder import GraphBuilder, Shape, Tensors
from tuner.memory.compute.replica.deepseek4 import ratio_of
from tuner.memory.compute.replica.glm5_next import pool_inputs
from tuner.memory.compute.replica.hyper_connections import spread
from tuner.memory.compute.replica.sparse_counts import counts
from tuner.memory.kv_cache import ALL, WINDOW, Cells, cache_layout
from tuner.model.hparams import HParams


def _hparams(folder: Path, architecture: str, **keys: Any) -> HParams:
    stated = {name.replace("__", "."): value for name, value in keys.items()}
    return made_up(folder / "m.gguf", architecture, stated, n_layer=5).hparams


def _builder(hp: HParams, n_tokens: int, *cells: tuple[Cells, int]) -> GraphBuilder:
    of_context = counts(hp, n_tokens, dict(cells))
    shape = Shape(n_tokens, cells, True, False, False, False, 0.0, 0.0, counts=of_context)
    return GraphBuilder(hp, shape, Graph())


def _tensors(**shapes: tuple[int, ...]) -> Tensors:
    return {f"{n}.weight": TensorInfo(f"{n}.weight", s, 0, 0, 0) for n, s in shapes.items()}


# ----------------------------------------------------------------------- caches


_DEEPSEEK4 = {
    "attention__compress_ratios": [0, 4, 128, 0, 4], "attention__sliding_window": 128,
    "attention__indexer__key_length": 32,
}  # fmt: skip


def test_every_layer_of_deepseek4_has_a_window(tmp_path: Path) -> None:
    """Whatever pattern a file states: the engine does not read it."""
    hp = _hparams(tmp_path, "deepseek4", **_DEEPSEEK4, attention__sliding_window_pattern=2)
    assert hp.swa == (True,) * 5


def test_a_ratio_says_what_a_layer_of_deepseek4_caches(tmp_path: Path) -> None:
    """All have a window; ratio 4 adds compressed keys and the indexer's, ratio 128 keys alone."""
    rows = cache_layout(_hparams(tmp_path, "deepseek4", **_DEEPSEEK4)).rows
    kinds = [[row.cells for row in rows if row.layer == il] for il in range(5)]
    assert kinds == [[WINDOW], [WINDOW, 4, 4], [WINDOW, 128], [WINDOW], [WINDOW, 4, 4]]


def test_qwen4exp_keeps_the_ngrams_of_one_layer(tmp_path: Path) -> None:
    """(kernel - 1) x n-gram columns of every stream, beside the layer's other states; the index
    cache has one key per token, though a file may state pools as well."""
    keys = {
        "ple__layers": [1], "ple__conv_kernel": 4, "ple__ngram_size": 3,
        "hyper_connection__count": 4, "attention__indexer__key_length": 128,
        "attention__indexer__kpool": 4, "full_attention_interval": 4,
    }  # fmt: skip
    layout = cache_layout(_hparams(tmp_path, "qwen4exp", **keys))
    assert (1, 4 * 3 * 3 * 4 * 256) in layout.states
    assert [row.k for row in layout.rows if row.v == 0] == [128]


# ---------------------------------------------------------------------- streams


def test_streams_without_a_fused_operation_copy_strided_views_whole(tmp_path: Path) -> None:
    """Each of the 16 shares of a token is read through a view of its own, so that another device
    gets 16 copies, each with all that lies between the rows; the fused operation takes one."""
    n, hc, n_tokens = 8, 4, 64
    sizes = []
    for fused in (True, False):
        b = _builder(_hparams(tmp_path, "glm5-next"), n_tokens, (ALL, 256))
        g = b.g
        x, y, post = (
            g.mm(n, g.input(n, hc, n_tokens)),
            g.mm(n, g.input(n, n_tokens)),
            g.mm(hc, g.input(hc, n_tokens)),
        )
        comb = g.mm(hc, g.input(hc, hc, n_tokens))
        out = spread(b, y, x, post, comb, fused=fused)
        g.device = 1
        g.expand(g.mm(n, g.view(out, n * hc, n_tokens)))
        sizes.append(peaks(g, [32, 32])[1])
    copied = F32 * 16 * (n_tokens - 1) * hc * hc
    assert sizes[0] < copied < sizes[1]


# ------------------------------------------------------------- compressed, pools


def test_a_compressors_positions_say_its_ratio() -> None:
    assert ratio_of(_tensors(attn_compressor_ape=(64, 128))) == 128
    assert ratio_of(_tensors(attn_kv=(256, 64))) == 0


@pytest.mark.parametrize(("tail", "chosen"), [(False, 64), (True, 67)])
def test_pools_of_the_context(tmp_path: Path, tail: bool, chosen: int) -> None:
    """256 cells are 64 pools of four, and one that is never used, padded to a multiple of 64; of
    those 16 are picked, with the three tokens of an incomplete one where the file says so."""
    keys = {
        "attention__indexer__kpool": 4, "attention__indexer__top_k": 64,
        "attention__indexer__kpool_select_tail": tail,
    }  # fmt: skip
    b = _builder(_hparams(tmp_path, "glm5-next", **keys), 32, (ALL, 256))
    pool_inputs(b)
    assert b.inputs[ALL, "cells"].shape == (128,)
    assert b.inputs[ALL, "chosen mask"].shape == (chosen, 1, 1, 32)
    assert b.inputs[ALL, "new members"].shape == (4, 64)
