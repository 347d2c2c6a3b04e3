"""No known architecture is guessed at: the builder of its graph knows its layers."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from tests.support.gguf_files import F16, Tensor, write_gguf
from tests.support.headers import machine, real_model, unpacked
from tuner.gguf.header import read_header
from tuner.memory.compute.replica.model_graph import BUILDERS
from tuner.memory.estimator import Estimator
from tuner.model.architectures import ROWS
from tuner.model.model import Model, describe
from tuner.settings import Settings


def _places(model: Model) -> list[tuple[int, Settings]]:
    """All on one GPU, half of it, none, and the layers over two; fused attention or not."""
    half = model.n_layer_all // 2
    return [
        (n_gpus, Settings(4096, n_gpu_layers=layers, n_cpu_moe=experts, flash_attn=flash))
        for (n_gpus, layers, experts), flash in product(
            ((1, 99, 0), (1, half, 0), (1, 99, half), (1, 0, 0), (2, 99, 0)), ("on", "off")
        )
    ]


@pytest.mark.parametrize("name", sorted(unpacked()[0]))
def test_no_known_architecture_is_guessed_at(name: str) -> None:
    """Over both fidelities. A builder that raises is an error in every test (tests/conftest.py)."""
    model = real_model(name)
    estimators = {n: Estimator(model, machine(n)) for n in (1, 2)}
    for n_gpus, settings in _places(model):
        assert estimators[n_gpus].exact(settings).source == "computed"
        assert estimators[n_gpus].footprint(settings).source == "computed"


def test_rows_and_builders_go_by_the_same_names() -> None:
    assert {row.graph.builder for row in ROWS} == set(BUILDERS)


def test_a_builder_that_raises_for_a_known_architecture_is_an_error(tmp_path: Path) -> None:
    """So that the test above can fail: llama's attention without its keys and values."""
    metadata = {
        "general.architecture": "llama", "llama.block_count": 1, "llama.embedding_length": 64,
        "llama.context_length": 512, "llama.attention.head_count": 2, "tokenizer.ggml.model": "x",
    }  # fmt: skip
    tensors = [Tensor("token_embd.weight", (64, 100), F16), Tensor("blk.0.attn_q.weight", (64, 64))]
    model = describe(read_header(write_gguf(tmp_path / "o.gguf", metadata, tensors)))
    with pytest.raises(pytest.fail.Exception, match="llama"):
        Estimator(model, machine()).exact(Settings(512, n_gpu_layers=99))
