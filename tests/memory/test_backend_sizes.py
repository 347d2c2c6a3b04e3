"""The engine's own compute buffers under the rules of GPUs, for headers that the archive has: to
the byte, with layers on one GPU or two, in RAM, and experts there."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.support.headers import machine, real_model
from tuner.memory.estimator import Estimator
from tuner.planning.constraints import refusal
from tuner.settings import Settings

# `python -m bench.record_sizes --backends ...` wrote it
_RECORDED = Path(__file__).parents[1] / "data" / "backend_sizes.json"
_ROWS: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
for _row in json.loads(_RECORDED.read_text()):
    _ROWS[_row["backend"], _row["file"]].append(_row)


@pytest.mark.parametrize(("backend", "name"), sorted(_ROWS))
def test_compute_buffers_are_those_of_a_gpu(backend: str, name: str) -> None:
    for row in _ROWS[backend, name]:
        stated = row["settings"]
        settings = Settings(**{**stated, "tensor_split": tuple(stated.get("tensor_split", ()))})
        if refusal(real_model(name), settings, machine(row["n_gpus"], backend)):
            continue  # attention would run on the CPU
        estimator = Estimator(real_model(name), machine(row["n_gpus"], backend), as_dry_run=True)
        uses = estimator.exact(settings).uses
        assert [use.compute for use in uses] == row["compute"], row
