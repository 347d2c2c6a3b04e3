"""The engine's own sizes for 142 headers, to the byte: weights and cache always, compute buffers
but for a few that are listed by name, the total never more than 1 % too low."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from tests.support.headers import machine, real_model, unpacked
from tuner.memory.estimator import Estimator
from tuner.planning.constraints import refusal
from tuner.settings import Settings

_FILES, _SIZES = unpacked()
_ROWS: dict[str, list[dict[str, Any]]] = defaultdict(list)
for _row in _SIZES:
    _ROWS[_row["file"]].append(_row)
_FULL_SIZE = [name for name in _FILES if "Q4_K_M" in name]


def _settings(row: dict[str, Any]) -> Settings:
    stated = row["settings"]
    return Settings(**{**stated, "tensor_split": tuple(stated.get("tensor_split", ()))})


# Compute buffers that are not the engine's: what is predicted less what is true, in bytes, per
# device. The only ones; a difference that goes or changes is to be seen here.
_OFF: dict[str, dict[str, tuple[int, ...]]] = {
    "chameleon-dense.gguf": {
        "1: n_ctx=8192 n_gpu_layers=99": (-32768, 0),
        "1: n_ctx=8192 n_gpu_layers=2": (-32768, 0),
        "1: n_ctx=12032 type_k=q8_0 type_v=q8_0 n_gpu_layers=99": (-32768, 0),
        "1: n_ctx=32768 type_k=q8_0 type_v=q4_0 n_gpu_layers=99": (-32768, 0),
        "1: n_ctx=8192 n_gpu_layers=99 n_ubatch=128": (-32768, 0),
        "1: n_ctx=8192 n_gpu_layers=99 flash_attn=off": (-32768, 0),
        "1: n_ctx=8192 n_gpu_layers=99 n_cpu_moe=1": (-32768, 0),
        "1: n_ctx=8192": (0, -32768),
        "1: n_ctx=8192 n_gpu_layers=1": (-73728, 0),
        "1: n_ctx=65536": (0, -32768),
        "2: n_ctx=8192 n_gpu_layers=99": (0, -73728, 0),
        "2: n_ctx=8192 n_gpu_layers=2": (-32768, 0, 0),
    },
    "exaone-moe-moe.gguf": {
        "1: n_ctx=8192 n_gpu_layers=2": (2048, 0),
        "1: n_ctx=8192 n_gpu_layers=99 n_ubatch=128": (196608, 0),
        "2: n_ctx=8192 n_gpu_layers=2": (2048, 0, 0),
    },
    "grok-moe.gguf": {
        "1: n_ctx=8192 n_gpu_layers=1": (1024, 0),
    },
    "minicpm3-dense.gguf": {
        "1: n_ctx=8192 n_gpu_layers=1": (-512, 0),
        "2: n_ctx=8192 n_gpu_layers=99": (-524288, -1024, 0),
    },
    "qwen2moe-moe.gguf": {
        "1: n_ctx=8192 n_gpu_layers=1": (-32, 0),
    },
}


def _said(row: dict[str, Any]) -> str:
    """A row's settings: the number of GPUs, then all that the rows do not have in common."""
    common = ("use_extra_bufts", "tensor_split")
    stated = (f"{k}={v}" for k, v in row["settings"].items() if k not in common)
    return " ".join([f"{row['n_gpus']}:", *stated])


@pytest.mark.parametrize("name", sorted(_FILES))
def test_sizes_are_the_engines(name: str) -> None:
    """For all settings that the engine accepted, per device: weights and cache are what it would
    allocate, compute buffers too but for those listed."""
    estimators = {n: Estimator(real_model(name), machine(n), as_dry_run=True) for n in (1, 2)}
    off: dict[str, tuple[int, ...]] = {}
    for row in (r for r in _ROWS[name] if "sizes" in r):
        footprint = estimators[row["n_gpus"]].exact(_settings(row))
        for use, (weights, cache, _) in zip(footprint.uses, row["sizes"], strict=True):
            assert use.weights == weights, row
            assert use.kv_cache + use.recurrent_state == cache, row
        differences = tuple(
            use.compute - size[2] for use, size in zip(footprint.uses, row["sizes"], strict=True)
        )
        if any(differences):
            off[_said(row)] = differences
    assert off == _OFF.get(name, {})


def test_the_archive_is_what_it_was() -> None:
    """Its rows are all there, and the exceptions are of them and too small to matter."""
    rows = [row for row in _SIZES if "sizes" in row]
    assert (len(_FILES), len(rows)) == (142, 1827)
    said = {(row["file"], _said(row)): row for row in rows}
    for name, settings in _OFF.items():
        for words, differences in settings.items():
            total = sum(map(sum, said[name, words]["sizes"]))
            assert sum(differences) >= -0.01 * total


@pytest.mark.parametrize("name", _FULL_SIZE)
def test_full_size_models_are_exact(name: str) -> None:
    """On models that people run, compute too is right to the byte."""
    for row in _ROWS[name]:
        estimator = Estimator(real_model(name), machine(row["n_gpus"]), as_dry_run=True)
        footprint = estimator.exact(_settings(row))
        assert [use.compute for use in footprint.uses] == [s[2] for s in row["sizes"]], row


def test_what_the_engine_refused_is_refused_beforehand() -> None:
    """And nothing else in the archive is."""
    for row in _SIZES:
        why = refusal(real_model(row["file"]), _settings(row), machine(row["n_gpus"]))
        assert bool(why) == bool(row.get("refused")), (row, why)


def test_every_architecture_of_the_archive_is_known() -> None:
    assert all(real_model(name).known for name in _FILES)
