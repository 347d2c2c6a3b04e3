"""Receipts: what people read, and the line that they paste where everybody reads it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.giants import QWEN_30B_A3B, giant, gpu, machine
from tuner.cells import cells
from tuner.engine.protocol import Timed
from tuner.memory.footprint import Footprint
from tuner.planning.planner import make_plan
from tuner.profiles.actual import Actual
from tuner.report.receipt import Receipt, Timing, receipt_keys, receipts_json, receipts_text
from tuner.units import MIB
from tuner.wishes import Wishes


def receipt(*, busy: bool = False, left_out: tuple[int, ...] = ()) -> Receipt:
    """Qwen3-30B-A3B on 12 GiB, which took 8 MiB more than predicted and was a fifth slower."""
    plan = make_plan(giant(QWEN_30B_A3B), machine(gpu(12)), Wishes(n_ctx=8192))
    expected = plan.chosen.footprint
    first, *others = expected.uses
    real = Footprint((replace(first, compute=first.compute + 8 * MIB), *others), "measured")
    actual = Actual(real, expected, taken=(first.total + 8 * MIB,))
    prompts = (Timing(Timed(0, 128, 1.0, 1.0), 160.0), Timing(Timed(32, 2016, 2.0, 1.0), 1260.0))
    decodes = (Timing(Timed(0, 32, 1.0, 1.0), 40.0), Timing(Timed(2048, 32, 2.0, 1.0), 20.0))
    return Receipt(plan, actual, prompts, decodes, left_out, 8, busy)


def test_the_table_holds_both_beside_each_other() -> None:
    """Bytes per device and kind, in all, and tokens/s with what they are off by."""
    text = receipts_text([receipt(left_out=(8160,))])
    lines = {" ".join(line.split()) for line in text.splitlines()}
    assert "decode at 0 40/s 32/s +25%" in lines
    assert "prompt 2,016 tokens at 32 1,260/s 1,008/s +25%" in lines
    assert any(line.startswith("GPU0 in all") for line in lines)
    assert "8,160" in text
    assert "Other programs" not in text
    assert "Other programs" in receipts_text([receipt(busy=True)])


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_no_line_is_wider_than_asked(width: int) -> None:
    text = receipts_text([receipt(busy=True, left_out=(2048, 8160))], width=width)
    assert all(cells(line) <= width for line in text.splitlines())


def test_the_line_has_what_an_issue_needs() -> None:
    """Settings, memory and speed of every run, each figure beside its prediction."""
    got = receipts_json([receipt(), receipt()], "1.2.3")
    assert (got["kvchat"], got["model"]["architecture"]) == ("1.2.3", "qwen3moe")
    assert got["machine"]["devices"][0]["name"] == "Test GPU"
    run = got["runs"][1]
    assert run["settings"]["n_ctx"] == 8192
    gpu0 = run["memory"][0]
    assert gpu0["measured"]["compute"] - gpu0["predicted"]["compute"] == 8 * MIB
    assert gpu0["nvml_growth"] - sum(gpu0["predicted"].values()) == (
        gpu0["overhead_predicted"] + 8 * MIB
    )
    assert run["decodes"][0]["measured_tps"] == 32.0
    assert "\n" not in json.dumps(got)


def test_the_description_names_every_key() -> None:
    """What docs/report.md is made from is what is printed, in the same order."""
    got = receipts_json([receipt()], "1.2.3")
    run, described = got["runs"][0], dict(receipt_keys())
    assert list(dict.fromkeys(re.split(r"[.\[]", key)[0] for key in described)) == list(got)
    named = {key: re.findall(r"`(\w+)`", meaning) for key, meaning in described.items()}
    assert named["model"] == list(got["model"])
    assert named["machine.devices[]"] == list(got["machine"]["devices"][0])
    of_runs = [key.removeprefix("runs[].").removesuffix("[]") for key in described if "runs" in key]
    assert of_runs == list(run)
    assert named["runs[].memory[]"] == list(run["memory"][0])
    assert named["runs[].prompts[]"] == list(run["prompts"][0]) == list(run["decodes"][0])


ALICE = "/home/alice/secret models"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (f"{ALICE}/Foo-7B", "Foo-7B"),
        (f"{ALICE}/Foo-7B/", "Foo-7B"),
        ("C:\\Users\\alice\\Foo-7B", "Foo-7B"),
        ("Foo 7B", "Foo 7B"),
        ("my notes of alice", ""),  # the file's name, since it gives itself none
    ],
)
def test_the_line_names_nobody(name: str, shown: str) -> None:
    """Neither the file's path, nor a path that a converter wrote into the file, nor the address of
    an RPC server, nor a card's own number."""
    told = receipt()
    model = replace(told.plan.model, name=name, path=Path(f"{ALICE}/my notes of alice.gguf"))
    remote = replace(
        told.plan.machine.gpus[0], kind="rpc", name="alice.lan:50052", engine_name="RPC0[alice]",
        uuid="GPU-alice", device_id="0000:alice",
    )  # fmt: skip
    where = replace(told.plan.machine, gpus=(remote,))
    line = json.dumps(
        receipts_json([replace(told, plan=replace(told.plan, model=model, machine=where))], "1")
    )
    assert json.loads(line)["model"]["name"] == shown
    assert not [word for word in ("alice", "home", "secret", "Users", "50052") if word in line]
