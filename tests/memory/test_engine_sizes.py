"""The engine's own sizes for 142 headers: weights and cache to the byte, compute within
600 KiB on every device and nearly always exact, the total never more than 1 % too low."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from tests.support.headers import machine, real_model, unpacked
from tuner.memory.estimator import Estimator
from tuner.planning.constraints import refusal
from tuner.settings import Settings

KIB = 1024
_FILES, _SIZES = unpacked()
_ROWS: dict[str, list[dict[str, Any]]] = defaultdict(list)
for _row in _SIZES:
    _ROWS[_row["file"]].append(_row)
_FULL_SIZE = [name for name in _FILES if "Q4_K_M" in name]


def _settings(row: dict[str, Any]) -> Settings:
    stated = row["settings"]
    return Settings(**{**stated, "tensor_split": tuple(stated.get("tensor_split", ()))})


@pytest.mark.parametrize("name", sorted(_FILES))
def test_sizes_are_the_engines(name: str) -> None:
    """For all settings that the engine accepted: per device, against what it would allocate."""
    model = real_model(name)
    estimators = {n: Estimator(model, machine(n)) for n in (1, 2)}
    for row in (r for r in _ROWS[name] if "sizes" in r):
        settings = _settings(row)
        footprint = estimators[row["n_gpus"]].exact(settings)
        total = 0
        for use, (weights, cache, compute) in zip(footprint.uses, row["sizes"], strict=True):
            assert use.weights == weights, (settings, use)
            assert use.kv_cache + use.recurrent_state == cache, (settings, use)
            assert abs(use.compute - compute) <= 600 * KIB, (settings, use, compute)
            total += weights + cache + compute
        assert footprint.total >= 0.99 * total, settings


def test_nearly_all_compute_buffers_are_exact() -> None:
    """The graphs are the engine's node for node, or this would not come out."""
    rows = exact = 0
    for name in _FILES:
        estimators = {n: Estimator(real_model(name), machine(n)) for n in (1, 2)}
        for row in (r for r in _ROWS[name][::4] if "sizes" in r):
            footprint = estimators[row["n_gpus"]].exact(_settings(row))
            rows += 1
            exact += [use.compute for use in footprint.uses] == [s[2] for s in row["sizes"]]
    assert exact >= 0.94 * rows > 400


@pytest.mark.parametrize("name", _FULL_SIZE)
def test_full_size_models_are_exact(name: str) -> None:
    """On models that people run, compute too is right to the byte."""
    for row in _ROWS[name]:
        footprint = Estimator(real_model(name), machine(row["n_gpus"])).exact(_settings(row))
        assert [use.compute for use in footprint.uses] == [s[2] for s in row["sizes"]], row


def test_what_the_engine_refused_is_refused_beforehand() -> None:
    """And nothing else in the archive is."""
    for row in _SIZES:
        why = refusal(real_model(row["file"]), _settings(row), machine(row["n_gpus"]))
        assert bool(why) == bool(row.get("refused")), (row, why)


def test_every_architecture_of_the_archive_is_known() -> None:
    assert all(real_model(name).known for name in _FILES)
