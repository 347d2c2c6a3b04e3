"""The engine's own sizes for 61 headers: weights and cache to the byte, compute within 1 % or
1 MiB, the total never more than 1 % too low."""

from __future__ import annotations

from typing import Any

import pytest

from tests.headers import machine, real_model, unpacked
from tuner.constraints import refusal
from tuner.machine import MIB
from tuner.memory import Estimator
from tuner.settings import Settings

_FILES, _SIZES = unpacked()


def _settings(stated: dict[str, Any]) -> Settings:
    split = tuple(stated.get("tensor_split", ()))
    return Settings(**{**stated, "tensor_split": split}, use_extra_bufts=False)


@pytest.mark.parametrize("name", sorted(_FILES))
def test_sizes_are_the_engines(name: str) -> None:
    """For every settings that the engine accepted: per device, against what it would allocate.
    The stand-ins share one name in the engine's breakdown, hence the sum over GPUs."""
    model = real_model(name)
    for row in (r for r in _SIZES if r["file"] == name and "sizes" in r):
        settings = _settings(row["settings"])
        footprint = Estimator(model, machine(row["n_gpus"])).footprint(settings)
        total = 0
        for uses, (weights, cache, compute) in zip(
            (footprint.uses[:-1], footprint.uses[-1:]), row["sizes"], strict=True
        ):
            assert sum(u.weights for u in uses) == weights, settings
            assert sum(u.kv_cache + u.recurrent_state for u in uses) == cache, settings
            ours = sum(u.compute for u in uses)
            limit = max(MIB, 0.01 * compute)
            assert abs(ours - compute) <= limit, (settings, ours, compute)
            total += weights + cache + compute
        assert footprint.total >= 0.99 * total, settings


def test_full_size_models_are_exact() -> None:
    """On models that people run, compute too is right to the byte."""
    for row in (r for r in _SIZES if "Q4_K_M" in r["file"]):
        footprint = Estimator(real_model(row["file"]), machine(row["n_gpus"])).footprint(
            _settings(row["settings"])
        )
        gpus = sum(u.compute for u in footprint.uses[:-1])
        assert [gpus, footprint.host.compute] == [size[2] for size in row["sizes"]], row


def test_what_the_engine_refused_is_refused_beforehand() -> None:
    """And nothing else in the archive is."""
    for row in _SIZES:
        why = refusal(real_model(row["file"]), _settings(row["settings"]), machine(1))
        assert bool(why) == bool(row.get("refused")), (row, why)


def test_every_architecture_of_the_archive_is_known() -> None:
    assert all(real_model(name).known for name in _FILES)
