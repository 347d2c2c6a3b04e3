"""What a checkpoint takes, by what the engine writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.headers import machine, real_model
from tests.support.native import log
from tests.support.tiny_models import WINDOW, hybrid, model, windowed
from tuner.engine.llama import Context, NativeModel, init
from tuner.memory.checkpoints import CheckpointSizes
from tuner.memory.estimator import Estimator
from tuner.model.model import read_model
from tuner.settings import Settings

TYPES = (("f16", "f16"), ("q8_0", "q4_0"))


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("kind", [windowed, hybrid])
def test_to_the_byte(tmp_path: Path, kind: Any, types: tuple[str, str]) -> None:
    """Of a window once it is full, and no more than that before."""
    init()
    path = model(tmp_path / "model.gguf", kind)
    settings = Settings(512, *types, n_ubatch=32, use_extra_bufts=False)
    expected = CheckpointSizes(read_model(path).hparams).bytes(settings)
    native = NativeModel(str(path), settings, log())
    context = Context(native, settings, 1, log())
    found = []
    for _ in range(4):
        assert context.decode(range(5, 5 + WINDOW // 2)) == 0
        found.append(context.state_bytes(partial=True))
    context.close()
    native.close()
    assert found[-2:] == [expected] * 2
    assert max(found) == expected


def test_what_can_be_cut_anywhere_has_none() -> None:
    dense, gemma = (real_model(f"{name}-Q4_K_M.gguf").hparams for name in DENSE_AND_WINDOWED)
    assert CheckpointSizes(dense).bytes(Settings(8192)) == 0
    assert CheckpointSizes(gemma).bytes(Settings(8192)) > 0
    assert CheckpointSizes(gemma).bytes(Settings(8192, swa_full=True)) == 0


DENSE_AND_WINDOWED = ("Llama-3.1-8B", "gemma-3-27b")


@pytest.mark.parametrize("name", ["gemma-3-27b-Q4_K_M.gguf", "qwen3next-moe.gguf"])
def test_one_is_part_of_the_hosts_share(name: str) -> None:
    """However the bytes are counted, and nowhere else."""
    estimator = Estimator(real_model(name), machine())
    s = Settings(8192, n_gpu_layers=3, n_ubatch=128)
    one = CheckpointSizes(real_model(name).hparams).bytes(s)
    for footprint in (estimator.exact(s), estimator.footprint(s)):
        assert [use.checkpoint for use in footprint.uses] == [0, one]
    assert estimator.totals(s) == estimator.footprint(s).totals
    assert [estimator.total(i, s) for i in range(2)] == estimator.totals(s)
