"""The program for llama-cpp-python: it runs, and takes the memory of the plan."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.report.emit.test_llama_server import SAMPLING
from tests.support.carried import NAMES, carried, split
from tests.support.giants import LLAMA_8B, QWEN_30B_A3B
from tuner.demo import demo_model_path
from tuner.engine.log_lines import parse_buffers
from tuner.model.chat_templates import TemplateChoice
from tuner.model.model import read_model
from tuner.model.tensors import EXPERT_TENSORS
from tuner.planning import make_plan
from tuner.report.emit.carried import Carried
from tuner.report.emit.targets import TARGETS
from tuner.sampling import SamplingChoice
from tuner.settings import FIELDS
from tuner.tuning import Tuning
from tuner.wishes import LaunchRequest, Wishes

EMIT = TARGETS["llama-cpp-python"]


def ran(source: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The program as it stands, but for the lines that the engine logs."""
    source = source.replace("verbose=False", "verbose=True")
    return subprocess.run(
        [sys.executable, "-c", source], cwd=cwd, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


def on_this_machine(path: Path, wishes: Wishes, sampling: Mapping[str, Any]) -> Carried:
    """A plan for this machine's CPU, as it is; repacked weights, which not every CPU runs, off."""
    request = LaunchRequest(path, wishes, ram=4 << 30, gpus=(), use_profile=False)
    machine = Tuning.of(request).machine
    wishes = replace(wishes, use_extra_bufts=False)
    plan = make_plan(read_model(path), machine, wishes)
    return Carried(replace(plan, sampling=SamplingChoice(flags=dict(sampling))), 1)


@pytest.mark.parametrize("type_v", ["f16", "q8_0"])
def test_it_runs_and_takes_what_was_planned(type_v: str, tmp_path: Path) -> None:
    """The demo model is loaded and answers; cache and compute buffer are the plan's, which they
    are not by the class's own defaults."""
    wishes = Wishes(n_ctx=512, type_k="f16", type_v=type_v, n_ubatch=256)
    sampling = {"max_tokens": 3, "seed": 1, "temperature": 0.0, "grammar": 'root ::= "Yes"'}
    one = on_this_machine(demo_model_path(), wishes, sampling)
    done = ran(EMIT(one), tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "Yes"
    buffers = {b.kind: b.size for b in parse_buffers(done.stderr.splitlines())}
    use = one.plan.chosen.footprint.host
    assert buffers["kv_cache"] == pytest.approx(use.kv_cache, abs=1 << 13)  # MiB, two decimals
    assert buffers["compute"] == pytest.approx(use.compute, rel=0.03)


def test_what_stays_in_ram_reaches_the_engine(tmp_path: Path) -> None:
    """Llama has no argument for n_cpu_moe. The demo model has no experts: two of its other tensors
    stand for them, which the engine logs as it puts them elsewhere."""
    one = on_this_machine(demo_model_path(), Wishes(n_ctx=256, type_k="f16", type_v="f16"), {})
    chosen = one.plan.chosen
    chosen = replace(chosen, settings=replace(chosen.settings, n_cpu_moe=2))
    source = EMIT(replace(one, plan=replace(one.plan, chosen=chosen)))
    assert EXPERT_TENSORS in ast.unparse(ast.parse(source)).replace("\\\\", "\\")
    source = source.replace("_(ch|)exps", "").replace("|gate|gate_up", "")
    done = ran(source[: source.index("answer =")], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    moved = re.findall(r"^tensor (\S+) .*overridden to CPU", done.stderr, re.MULTILINE)
    names = {f"blk.{layer}.ffn_{name}.weight" for layer in (0, 1) for name in ("up", "down")}
    assert set(moved) == names


def calls(source: str) -> dict[str, dict[str, ast.expr]]:
    """The arguments of each call that has some, by what is called."""
    return {
        ast.unparse(node.func): {word.arg: word.value for word in node.keywords if word.arg}
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
    }


@pytest.mark.parametrize("sampling", [{}, SAMPLING], ids=["as usual", "sampling"])
def test_every_argument_is_one_that_it_has(sampling: dict[str, Any]) -> None:
    """Llama swallows any other without a word."""
    from llama_cpp import Llama  # noqa: PLC0415

    one = carried(QWEN_30B_A3B, 24.0, 24.0, settings=asdict(split()), sampling=sampling)
    found = calls(EMIT(one))
    assert found["Llama"].keys() <= inspect.signature(Llama.__init__).parameters.keys()
    known = inspect.signature(Llama.create_chat_completion).parameters
    assert found["llm.create_chat_completion"].keys() <= known.keys()
    assert len(found["llm.create_chat_completion"]) == (1 if not sampling else 17)


SPELT = {
    "n_ctx": "n_ctx=12345", "type_k": "type_k=8,", "type_v": "type_v=7,",
    "n_gpu_layers": "n_gpu_layers=40", "n_cpu_moe": r"blk\\.(0|1|2|3|4|5|6)\\.ffn_",
    "n_ubatch": "n_ubatch=1024", "tensor_split": "tensor_split=[3, 1.5]",
    "flash_attn": "where the plan has auto", "swa_full": "swa_full=True",
    "use_extra_bufts": "params.use_extra_bufts = False",
}  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_every_setting_arrives(field: str) -> None:
    """As an argument, as a field of a struct, or as a sentence."""
    source = EMIT(carried(QWEN_30B_A3B, 24.0, 24.0, settings=asdict(split())))
    assert SPELT[field] in source


@pytest.mark.parametrize("file_name", NAMES)
def test_any_file_name_is_one_text(file_name: str) -> None:
    """Whatever a file is called, its path arrives, or, where it has no UTF-8, how to link it."""
    source = EMIT(carried(LLAMA_8B, 24.0, file_name=file_name))
    assert all(line.isprintable() for line in source.splitlines())
    path = ast.literal_eval(calls(source)["Llama"]["model_path"])
    if "\udcff" in file_name:
        assert path == "model.gguf"
        assert r"ln -s $'/models/b\xff\x80.gguf' model.gguf" in source
    else:
        assert path == f"/models/{file_name}"


def test_a_plan_without_a_gpu_uses_none() -> None:
    """As the engine understands it: no device at all (`llama_prepare_model_devices`)."""
    found = calls(EMIT(carried(LLAMA_8B)))["Llama"]
    assert ast.unparse(found["main_gpu"]) == "-1"
    assert ast.unparse(found["split_mode"]) == "lib.LLAMA_SPLIT_MODE_NONE"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"sampling": {"dry_base": 2.0, "top_k": 3}}, "has no dry_base."),
        ({"rpc_servers": ("a:1",)}, "RPC servers (a:1)"),
        ({"template": TemplateChoice(source="x"), "template_file": "/t"}, "Jinja2ChatFormatter"),
        ({"template": TemplateChoice("chatml")}, "chat_format='chatml'"),
    ],
)
def test_what_it_cannot_be_told_is_a_comment(more: dict[str, Any], words: str) -> None:
    assert words in " ".join(EMIT(carried(LLAMA_8B, 24.0, **more)).replace("\n#", "").split())


def test_a_path_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program may be started in another folder than the plan was made in."""
    monkeypatch.chdir(tmp_path)
    one = carried(LLAMA_8B, 24.0)
    model = replace(one.plan.model, path=Path("here.gguf"))
    one = replace(one, plan=replace(one.plan, model=model))
    assert one.path == os.path.join(tmp_path, "here.gguf")
    assert repr(one.path) in EMIT(one)
