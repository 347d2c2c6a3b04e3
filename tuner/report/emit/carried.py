"""What is taken along to another program, and what all of them say of it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner.cells import wrap
from tuner.gguf.header import named_parts
from tuner.model.chat_templates import TemplateChoice
from tuner.planning import Plan
from tuner.safe_text import one_line, shell_word
from tuner.settings import Settings
from tuner.units import size_text, tps_text

WIDTH = 80  # cells of a comment's line


@dataclass(frozen=True, slots=True)
class Carried:
    """The chosen plan, and what is no part of it but belongs to the same load."""

    plan: Plan
    n_threads: int
    rpc_servers: tuple[str, ...] = ()  # "host:port"
    chat_template: TemplateChoice = field(default_factory=TemplateChoice)
    template_file: str = ""  # the file that the template's text came from

    @property
    def settings(self) -> Settings:
        return self.plan.chosen.settings

    @property
    def path(self) -> str:
        """The model's file, from wherever the program is started."""
        return os.path.abspath(self.plan.model.path)

    @property
    def parts(self) -> list[str]:
        """All its files, of a split model several; the first one is `path`."""
        return [str(part) for part in named_parts(Path(self.path))]

    @property
    def links(self) -> list[str]:
        """What the files are called for a program that cannot be told their own names."""
        n = len(self.parts)
        return (
            [f"model-{i:05d}-of-{n:05d}.gguf" for i in range(1, n + 1)] if n > 1 else ["model.gguf"]
        )

    @property
    def name(self) -> str:
        return one_line(self.plan.model.name)

    @property
    def n_gpu_layers(self) -> int:
        """Layers on the GPUs, 0 where there is none; the output layer counts."""
        if not self.plan.machine.gpus:
            return 0
        return min(self.settings.n_gpu_layers, self.plan.model.n_items)

    @property
    def everything_offloaded(self) -> bool:
        return self.n_gpu_layers == self.plan.model.n_items

    @property
    def devices(self) -> tuple[str, ...]:
        """llama.cpp's names of the GPUs that are used ("CUDA0"); empty where one is not known, as
        on a machine that was stated."""
        names = tuple(gpu.engine_name for gpu in self.plan.machine.gpus)
        return names if all(names) else ()

    @property
    def left_out(self) -> tuple[str, ...]:
        """The ids of GPUs that the plan does without."""
        return tuple(gpu.id for gpu in self.plan.machine.unusable)

    @property
    def sampling(self) -> dict[str, Any]:
        """What flags, the profile or the file say of the sampling, by the names of `Sampling`."""
        stated = {name: value for name, (value, _) in self.plan.sampling.sources.items()}
        grammar = self.plan.sampling.sampling.grammar
        return {**stated, "grammar": grammar} if grammar else stated

    def head(self) -> list[str]:
        """What every program's comment begins with: whose plan, and what it takes."""
        chosen = self.plan.chosen
        taken = ", ".join(
            f"{size_text(use.total)} on {use.device}" for use in chosen.footprint.uses if use.total
        )
        speed = f"about {tps_text(chosen.speed.decode_tps)} tokens/s ({chosen.speed.source})"
        return [f"{self.name} as kvchat plans it: {taken}; {speed}."]

    def linked(self) -> list[str]:
        """What to do where a program cannot be told the file's name."""
        return [
            "The file's name has characters that cannot be written here. Give it another:",
            *(command("ln", "-s", *pair) for pair in zip(self.parts, self.links, strict=True)),
        ]


def command(*words: str) -> str:
    """A line of a comment that is there to be copied."""
    return "    " + " ".join(map(shell_word, words))


def comment(lines: Iterable[str], mark: str) -> list[str]:
    """Sentences, wrapped, and commands, each whole on a line of its own, as a comment."""
    found = []
    for line in lines:
        indented = line.startswith(" ")
        parts = [line] if indented else wrap(one_line(line), WIDTH - len(mark) - 1)
        found += [f"{mark} {part}" for part in parts]
    return found


def number(value: float) -> str:
    """A number as programs read it."""
    return f"{value:.12g}"
