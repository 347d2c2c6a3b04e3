"""Plans to be written down for other programs, and the words that a shell makes of a command."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.giants import QWEN_30B_A3B, giant, gpu, machine
from tuner.model.chat_templates import TemplateChoice
from tuner.planning import Plan, make_plan
from tuner.report.emit.carried import Carried
from tuner.report.emit.targets import TARGETS
from tuner.sampling import SamplingChoice
from tuner.settings import Settings
from tuner.wishes import Wishes

# Nothing of them may end a word, a line, a comment or a text.
NAMES = (
    "plain.gguf", "two words.gguf", "it's \"quoted\".gguf", "-dash $HOME `id` \\n.gguf",
    "line\nend; rm -rf x\n# '\"\"\".gguf", "\x1b]0;title\x07\u202e\u2028.gguf",
    "№ моде́ль 模型.gguf", ',  # comma.gguf', "b\udcff\udc80.gguf",
)  # fmt: skip


def carried(
    name: str = QWEN_30B_A3B,
    *gibs: float,
    wishes: Wishes | None = None,
    settings: Mapping[str, Any] | None = None,
    file_name: str = "",
    backend: str = "CUDA",
    sampling: Mapping[str, Any] | None = None,
    template: TemplateChoice | None = None,
    **more: Any,
) -> Carried:
    """The plan for a machine with GPUs of these sizes; `settings` replaces some of its own."""
    plan = _plan(name, gibs, backend, wishes or Wishes())
    chosen = replace(plan.chosen, settings=replace(plan.chosen.settings, **(settings or {})))
    model = replace(plan.model, path=Path("/models") / (file_name or plan.model.path.name))
    plan = replace(
        plan, chosen=chosen, model=model, sampling=SamplingChoice(flags=dict(sampling or {}))
    )
    return Carried(plan, 8, chat_template=template or TemplateChoice(), **more)


@cache
def _plan(name: str, gibs: tuple[float, ...], backend: str, wishes: Wishes) -> Plan:
    where = machine(*(gpu(gib, i, backend=backend) for i, gib in enumerate(gibs)))
    return make_plan(giant(name), where, wishes)


def words(program: str, one: Carried) -> list[str]:
    """What a shell hands to the program when it runs what is printed for it."""
    text = TARGETS[program](one)
    # A function of that name: its words arrive, each ended by a zero.
    script = f"{program}() {{ printf '%s\\0' \"$@\"; }}\n{text}"
    done = subprocess.run(
        ["bash", "-u"], input=os.fsencode(script), capture_output=True, timeout=20, check=True
    )
    assert done.stderr == b""
    return [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]


def options(program: str, one: Carried) -> dict[str, list[str]]:
    """The same by flag: all that follows up to the next one."""
    found: dict[str, list[str]] = {}
    flag = ""
    for word in words(program, one):
        if word.startswith("--"):
            flag = word
            found.setdefault(flag, [])
        else:
            found[flag].append(word)
    return found


def split() -> Settings:
    """Settings of which nothing is as usual, for two GPUs."""
    return Settings(
        n_ctx=12_345, type_k="q8_0", type_v="q5_1", n_gpu_layers=40, n_cpu_moe=7, n_ubatch=1024,
        tensor_split=(3.0, 1.5), flash_attn="auto", swa_full=True, use_extra_bufts=False,
    )  # fmt: skip
