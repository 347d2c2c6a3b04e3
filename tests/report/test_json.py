"""The report for programs: the contract, and its description."""

from __future__ import annotations

import json
import re
from typing import Any
from unittest.mock import ANY

import pytest

from tests.report.test_report import PLANS, plan_of
from tests.support.giants import GEMMA_27B
from tuner.memory.footprint import KINDS
from tuner.report.json import plan_keys, report_json, report_keys


def test_json_is_the_contract() -> None:
    """Every key of schema 1, of the right type, in bytes, and it survives being printed."""
    plan = plan_of(GEMMA_27B, 12.0, 12.0)
    got = json.loads(json.dumps(report_json(plan)))
    assert got["schema"] == 1
    assert {
        "path", "architecture", "name", "quantization", "n_params", "n_layer", "n_ctx_train",
        "size_bytes", "fingerprint",
    } <= got["model"].keys()  # fmt: skip
    assert [d["id"] for d in got["machine"]["devices"]] == ["GPU0", "GPU1", "host"]
    for device in got["machine"]["devices"]:
        assert {"id", "kind", "name", "total", "free", "reserve", "bandwidth", "source"} <= (
            device.keys()
        )
    for one in (got["plan"], *got["alternatives"], *got["fallbacks"]):
        assert one["settings"].keys() == {
            "n_ctx", "type_k", "type_v", "n_gpu_layers", "n_cpu_moe", "n_ubatch", "tensor_split",
            "flash_attn", "swa_full", "use_extra_bufts",
        }  # fmt: skip
        for use, device in zip(one["footprint"], got["machine"]["devices"], strict=True):
            assert use["total"] == sum(use[kind] for kind in KINDS)
            assert use["device"] == device["id"]
            assert use["budget"] == device["free"] - device["reserve"]
        assert one["speed"]["decode_tps"] > 0
        assert one["quality"]["loss"] >= 0
    assert got["plan"]["fits"] is True
    one = got["plan"]["footprint"][-1]["checkpoint"]
    assert got["plan"]["states"] == {"size": ANY, "checkpoint": one, "n_checkpoints": 8}
    assert got["plan"]["states"]["size"] >= 8 * one > 0
    assert isinstance(got["reasons"], list)
    assert isinstance(got["warnings"], list)


def described(keys: Any) -> dict[str, list[str]]:
    """The keys that a description names, those of objects with the names within."""
    return {key: re.findall(r"`(\w+)`", meaning) for key, meaning in keys}


@pytest.mark.parametrize(("name", "gibs"), PLANS)
def test_the_description_names_every_key(name: str, gibs: tuple[float, ...]) -> None:
    """What docs/report.md is made from is what is printed, in the same order."""
    got = report_json(plan_of(name, *gibs))
    whole, plan = described(report_keys()), described(plan_keys())
    assert list(dict.fromkeys(re.split(r"[.\[]", key)[0] for key in whole)) == list(got)
    assert whole["model"] == list(got["model"])
    assert whole["machine.devices[]"] == list(got["machine"]["devices"][0])
    assert [key.removesuffix("[]") for key in plan] == list(got["plan"])
    for key in ("settings", "speed", "quality"):
        assert plan[key] == list(got["plan"][key])
    assert plan["footprint[]"] == list(got["plan"]["footprint"][0])
