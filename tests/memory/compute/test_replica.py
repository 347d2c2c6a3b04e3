"""Rules by which architectures differ from llama, on graphs small enough to follow by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tuner.memory.compute.allocator import peaks
from tuner.memory.compute.graph import Graph
from tuner.memory.compute.replica.attention import cached_rows, rotates
from tuner.memory.compute.replica.builder import GraphBuilder
from tuner.memory.compute.replica.hrm_text import block_of
from tuner.memory.compute.replica.rwkv import rescales
from tuner.memory.kv_cache import ALL
from tuner.model.architectures import architecture
from tuner.model.hparams import HParams


def _hparams(**stated: Any) -> HParams:
    return cast(HParams, SimpleNamespace(**stated))


def test_a_stack_that_runs_again_runs_the_same_blocks() -> None:
    """hrm_text with stacks of 2, the fast one run twice before the slow one, all of it twice."""
    hp = _hparams(cycles=(2, 2, 2))
    once = [0, 1, 0, 1, 2, 3]
    assert [block_of(hp, slot) for slot in range(12)] == once + once


def test_every_so_many_layers_of_rwkv6_halve_what_they_have_made() -> None:
    assert [rescales(_hparams(rescaled_every=3), il) for il in range(6)] == [0, 0, 1, 0, 0, 1]
    assert not any(rescales(_hparams(rescaled_every=0), il) for il in range(6))


def test_leading_dense_layers_of_cohere2moe_rotate_without_a_window() -> None:
    row = architecture("cohere2moe")
    hp = _hparams(row=row, n_swa=512, swa=(False, False, True), n_layer_dense_lead=1)
    assert [rotates(hp, il) for il in range(3)] == [True, False, True]


def test_an_unknown_architecture_is_taken_to_be_like_llama() -> None:
    assert architecture("of tomorrow").graph == architecture("llama").graph


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_cache_on_another_device_begins_no_split(elsewhere: bool) -> None:
    """Its copy is there from the first node of the run that reads it, so that it stands beside
    what came before; a weight's copy would take that memory over."""
    g = Graph()
    g.device = 1
    x = g.input(64, 1)
    size = 4096
    b = cast(GraphBuilder, SimpleNamespace(g=g, caches={}))
    cache = cached_rows(b, (ALL, "k"), (64, 1, 32), size / 2048, 0 if elsewhere else 1)
    wide = g.mm(1024, x)  # 4096 bytes, free before the cache is read
    narrow = g.mm(64, wide)
    g.expand(narrow)
    g.device = 1
    g.expand(g.mm(64, g.new(64, 1, of=(narrow, cache))))
    _, gpu = peaks(g, [32, 32])
    assert gpu == 256 + 4096 + (size if elsewhere else 0)
