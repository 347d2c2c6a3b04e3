"""Holds plans against what llama.cpp's own --fit takes.

    python -m bench.fit_baseline ANSWERS.json HEADERS [--reserve 1GiB]

ANSWERS is a list of what `llama-fit-params` said: `file`, `vram_gib` (free on one card), `n_ctx`,
`n_gpu_layers` (-1: all), and in `rest` the `-ot` patterns of tensors that it leaves in RAM; its
cache is f16, its n_ubatch 512, its margin 1 GiB. HEADERS is a folder with the models' headers as
MODEL.gguf (sparse files). Of each answer one axis is held:

- at its context a plan never reads fewer bytes per token from the GPU;
- at its layers, with the experts of as many in RAM, a plan never has less context.

Plans are those with a cache of f16 or of q8_0, whichever has more of what is asked; a cache counts
as f16 in what is read, so that a smaller one is no fewer bytes. Their n_ubatch is --fit's: with
experts in RAM kvchat would rather have a larger one, which takes two or three per cent of the bytes
for prompts at several times the speed. What they leave free is their own, 512 MiB and what the
driver takes, unless `--reserve` says otherwise. The exit status is 1 if a row is broken.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from tuner.gguf.header import TensorInfo, read_header
from tuner.machine.stated import stated
from tuner.memory.kv_cache import CacheSizes
from tuner.model.model import Model, describe
from tuner.planning import Candidate, Solver
from tuner.planning.objective import FULL_UBATCH
from tuner.planning.speed import QUOTED_DEPTH
from tuner.settings import Settings
from tuner.units import GIB, parse_size
from tuner.wishes import Wishes

CACHES = ("f16", "q8_0")  # for K and V
_PATTERN = re.compile(r"([^\s,\"=]+)=CPU")  # of -ot "PATTERN=CPU,PATTERN=CPU"
_HEAD = f"{'':28}GiB  context ngl      GB    plan  {'with':<22}  context"
# The host, of which --fit knows nothing: RAM in bytes, bytes/s, cores.
_PLENTY, _RAM_BANDWIDTH, _CORES = 64 * GIB, 90e9, 8


@dataclass(frozen=True, slots=True)
class Answer:
    """What --fit takes for one model on one card."""

    file: str
    vram: int  # bytes
    n_ctx: int
    n_gpu_layers: int
    in_ram: tuple[re.Pattern[str], ...]  # names of tensors

    @classmethod
    def of(cls, row: dict[str, Any], model: Model) -> Answer:
        """A row of the file."""
        layers = row["n_gpu_layers"]
        return cls(
            row["file"],
            row["vram_gib"] * GIB,
            row["n_ctx"],
            model.n_items if layers < 0 else layers,
            tuple(map(re.compile, _PATTERN.findall(row["rest"]))),
        )

    def leaves(self, tensor: TensorInfo) -> bool:
        """Whether it leaves a tensor in RAM that its layer would take along."""
        return any(pattern.search(tensor.name) for pattern in self.in_ram)

    def n_cpu_moe(self, model: Model) -> int:
        """The layers on the GPU of whose experts any is in RAM, as many of the first ones."""
        first = model.n_items - self.n_gpu_layers
        layers = model.tensors.layers[first:]
        n = sum(any(map(self.leaves, layer.experts)) for layer in layers)
        return first + n if n else 0


def read_from_gpu(model: Model, n_gpu_layers: int, leaves: Callable[[TensorInfo], bool]) -> float:
    """Bytes that a token reads from the GPU with so many layers there but for what is left in RAM:
    weights, of experts those that run, and the cache as f16."""
    output, tensors = model.n_items - 1, model.tensors
    first = model.n_items - n_gpu_layers
    used = model.n_expert_used / model.n_expert if model.n_expert else 1.0
    f16 = Settings(n_ctx=QUOTED_DEPTH)
    cache = CacheSizes(model.hparams).read(f16, min(first, output), output, QUOTED_DEPTH)
    total = float(cache)
    for layer in tensors.layers[first:]:
        total += sum(t.n_bytes for t in layer.others if not leaves(t))
        total += sum(used * t.n_bytes for t in layer.experts if not leaves(t))
    if n_gpu_layers:
        total += sum(t.n_bytes for t in (*tensors.output, *filter(None, [tensors.tied])))
    return total


@dataclass(frozen=True, slots=True)
class Row:
    """An answer, the bytes that it reads from the GPU, and what plans do with one axis of it held:
    read at most, by which settings (None: nothing fits), and have of context."""

    answer: Answer
    its_bytes: float
    bytes_at_its_context: float
    settings: Settings | None
    context_at_its_layers: int

    @property
    def broken(self) -> tuple[str, ...]:
        """In what the answer is better."""
        better = {
            "more bytes": self.its_bytes > self.bytes_at_its_context,
            "more context": self.answer.n_ctx > self.context_at_its_layers,
        }
        return tuple(name for name, is_so in better.items() if is_so)


def compare(answer: Answer, model: Model, reserve: int | None = None) -> Row:
    """The plans that hold one axis of an answer."""
    where = stated([answer.vram], _PLENTY, reserve, ram_bandwidth=_RAM_BANDWIDTH, cores=_CORES)
    solver = Solver(model, where)
    layers, experts = answer.n_gpu_layers, answer.n_cpu_moe(model)

    def plans(held: Wishes) -> list[Candidate]:
        usual = replace(held, n_ubatch=FULL_UBATCH)
        found = (solver.best(replace(usual, type_k=t, type_v=t)) for t in CACHES)
        return [plan for plan in found if plan]

    at_its_context = [
        (_read_by(model, plan), plan.settings) for plan in plans(Wishes(n_ctx=answer.n_ctx))
    ]
    at_its_layers = plans(Wishes(n_gpu_layers=layers, n_cpu_moe=experts))
    most, settings = max(at_its_context, key=itemgetter(0), default=(0.0, None))
    longest = max((plan.settings.n_ctx for plan in at_its_layers), default=0)
    its_bytes = read_from_gpu(model, layers, answer.leaves)
    return Row(answer, its_bytes, most, settings, longest)


def _read_by(model: Model, plan: Candidate) -> float:
    s = plan.settings
    in_ram = {t.name for layer in model.tensors.layers[: s.n_cpu_moe] for t in layer.experts}
    return read_from_gpu(model, s.n_gpu_layers, lambda tensor: tensor.name in in_ram)


def rows(answers: Path, headers: Path, reserve: int | None = None) -> Iterator[Row]:
    """Every answer of the file, compared."""
    models: dict[str, Model] = {}
    for row in json.loads(answers.read_text()):
        name = row["file"]
        if name not in models:
            models[name] = describe(read_header(headers / name))
        yield compare(Answer.of(row, models[name]), models[name], reserve)


def line(row: Row) -> str:
    """A row of the table."""
    answer, s = row.answer, row.settings
    took = f"{s.n_gpu_layers}, ncmoe {s.n_cpu_moe}, {s.type_k}" if s else "nothing"
    return (
        f"{answer.file[:27]:<28}{answer.vram // GIB:>3}{answer.n_ctx:>9,}{answer.n_gpu_layers:>4}"
        f"{row.its_bytes / 1e9:>8.3f}{row.bytes_at_its_context / 1e9:>8.3f}  {took:<22}"
        f"{row.context_at_its_layers:>9,}  {', '.join(row.broken)}"
    ).rstrip()


def main() -> None:
    """The table and the count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("answers", type=Path)
    parser.add_argument("headers", type=Path)
    parser.add_argument("--reserve", type=parse_size, help="bytes that plans leave free")
    args = parser.parse_args()
    print(_HEAD)
    found = []
    for row in rows(args.answers, args.headers, args.reserve):
        found.append(row)
        print(line(row), flush=True)
    broken = sum(bool(row.broken) for row in found)
    print(f"{len(found)} answers, {broken} of them better in something than the plan")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
