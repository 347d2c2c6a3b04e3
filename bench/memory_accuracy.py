"""Holds the memory formulas against the engine's own dry runs.

    python -m bench.memory_accuracy FOLDER [--gpus 1,2] [--quick] [--json FILE]
    python -m bench.memory_accuracy FOLDER --backend Vulkan --sources vendor/llama.cpp

FOLDER holds GGUF files; sparse ones are fine, so are headers alone named NAME@FULLSIZE (they are
copied and stretched). For each file and a grid of settings the engine builds everything with
`no_alloc` on one or two stand-in GPUs; the table shows, per architecture, the largest error of
weights, cache and compute on any device, and the worst total. A stand-in is an RPC device, or with
`--backend` one with the rules of a GPU's backend, which are cut out of the engine's sources.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from bench.backend_rules import NAMES, built
from bench.oracle import Answer, Oracle, available
from tuner.errors import KvchatError
from tuner.gguf.header import read_header
from tuner.machine.machine import Device, Machine
from tuner.memory.estimator import Estimator
from tuner.memory.footprint import ENGINE_KINDS, Footprint
from tuner.model.model import describe
from tuner.planning.constraints import refusal
from tuner.settings import Settings
from tuner.units import MIB

RULES = user_cache_path("kvchat-bench")  # where libraries of rules are kept

COMPUTE_SHARE, COMPUTE_BYTES = 0.03, 4 * MIB  # what counts as right for a compute buffer


def stand_in(n_gpus: int, backend: str = "RPC") -> Machine:
    """The machine that the oracle plays: devices of a backend without end."""
    kind = "rpc" if backend == "RPC" else "gpu"
    gpus = tuple(
        Device(f"GPU{i}", kind, backend, "stand-in", 1 << 50, 1 << 50, 0) for i in range(n_gpus)
    )
    return Machine(gpus, Device("host", "host", "CPU", "host", 1 << 50, 1 << 50, 0))


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison: predicted minus true, in bytes, the worst device of each kind."""

    file: str
    architecture: str
    settings: Settings
    weights: int
    cache: int
    compute: int
    compute_true: int
    total: float  # predicted over true, minus 1

    @property
    def right(self) -> bool:
        """Whether the compute buffer is within the measure."""
        return abs(self.compute) <= max(COMPUTE_BYTES, COMPUTE_SHARE * self.compute_true)


def grid(n_layers: int, n_gpus: int, quick: bool) -> Iterator[Settings]:
    """Settings that touch every rule: layers, types, contexts, batches, fusion, experts."""

    def on(n_ctx: int, layers: int, **more: object) -> Settings:
        split = {} if n_gpus <= 1 else {"tensor_split": (2.0, *[1.0] * (n_gpus - 1))}
        return Settings(n_ctx, n_gpu_layers=layers, use_extra_bufts=False, **split, **more)  # type: ignore[arg-type]

    yield on(8192, 99)
    yield on(8192, n_layers // 2 + 1)
    if quick:
        return
    yield on(12032, 99, type_k="q8_0", type_v="q8_0")
    yield on(32768, 99, type_k="q8_0", type_v="q4_0")
    yield on(8192, 99, n_ubatch=128)
    yield on(8192, 99, flash_attn="off")
    yield on(8192, 99, n_cpu_moe=n_layers // 2)
    if n_gpus == 1:
        yield on(8192, 0)
        yield on(8192, 1)
        yield on(8192, 2)
        yield on(65536, n_layers // 3)


def compare(
    file: str, architecture: str, settings: Settings, ours: Footprint, true: Answer
) -> Case:
    """The differences between a prediction and the engine's answer."""
    pairs = list(zip(ours.uses, true.sizes, strict=True))
    weights = max((u.weights - t.weights for u, t in pairs), key=abs)
    cache = max((u.kv_cache + u.recurrent_state - t.cache for u, t in pairs), key=abs)
    compute, compute_true = max(
        ((u.compute - t.compute, t.compute) for u, t in pairs),
        key=lambda x: (abs(x[0]) > max(COMPUTE_BYTES, COMPUTE_SHARE * x[1]), abs(x[0])),
    )
    truth = sum(t.weights + t.cache + t.compute for t in true.sizes)
    said = sum(getattr(use, kind) for use in ours.uses for kind in ENGINE_KINDS)
    total = said / truth - 1 if truth else 0.0
    return Case(file, architecture, settings, weights, cache, compute, compute_true, total)


def measure(
    files: list[Path],
    n_gpus: int,
    quick: bool,
    backend: str = "RPC",
    rules: Path | None = None,
    optimizes: bool = True,
) -> tuple[list[Case], list[str]]:
    """All comparisons, and in words what could not be compared. `rules` and `optimizes`:
    as of `Oracle`."""
    cases: list[Case] = []
    apart: list[str] = []
    machine = stand_in(n_gpus, backend)
    with Oracle(n_gpus, backend=backend, rules=rules, optimizes=optimizes) as oracle:
        for file in files:
            try:
                model = describe(read_header(file))
            except KvchatError as error:
                apart.append(str(error))
                continue
            estimator = Estimator(model, machine, as_dry_run=True)
            for settings in grid(model.n_layer_all, n_gpus, quick):
                true = oracle.ask(file, settings)
                refused = refusal(model, settings, machine)
                if true.error or refused:
                    if bool(true.error) != bool(refused):
                        words = true.error.strip().splitlines()[-1] if true.error else "-"
                        apart.append(f"{file.name}: {settings}: ours {refused}, engine {words}")
                    continue
                ours = estimator.exact(settings)
                cases.append(compare(file.name, model.architecture, settings, ours, true))
    return cases, apart


def table(cases: list[Case]) -> str:
    """One line per architecture, then the summary."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.architecture].append(case)
    lines = [f"{'architecture':18} cases  weights    cache  compute within   worst   total"]
    for name, group in sorted(groups.items()):
        worst = max(group, key=lambda c: abs(c.compute))
        within = sum(c.right for c in group)
        low, high = min(c.total for c in group), max(c.total for c in group)
        lines.append(
            f"{name:18} {len(group):5} {max(abs(c.weights) for c in group):8} "
            f"{max(abs(c.cache) for c in group):8} {within:8}/{len(group):<5} "
            f"{worst.compute / MIB:+9.2f} MiB {low:+.2%} {high:+.2%}"
        )
    right = sum(c.right for c in cases)
    lines += [
        "",
        f"{len(cases)} cases: weights exact in {sum(c.weights == 0 for c in cases)}, "
        f"cache exact in {sum(c.cache == 0 for c in cases)}, "
        f"compute exact in {sum(c.compute == 0 for c in cases)}, "
        f"within 3 % or 4 MiB in {right} ({right / max(1, len(cases)):.1%}); total from "
        f"{min((c.total for c in cases), default=0):+.2%} to "
        f"{max((c.total for c in cases), default=0):+.2%}",
    ]
    return "\n".join(lines)


def stretched(folder: Path, into: Path) -> list[Path]:
    """The folder's GGUF files, headers named NAME@FULLSIZE stretched to sparse files."""
    files = sorted(folder.glob("*.gguf"))
    for header in sorted(folder.glob("*.gguf@*")):
        name, size = header.name.rsplit("@", 1)
        file = into / name
        file.write_bytes(header.read_bytes())
        os.truncate(file, int(size))
        files.append(file)
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gpus", default="1", help="stand-in GPUs, e.g. 1,2")
    parser.add_argument("--quick", action="store_true", help="two settings per file")
    parser.add_argument("--show", action="store_true", help="every case whose compute is off")
    parser.add_argument("--backend", choices=NAMES, help="whose rules the stand-in has")
    parser.add_argument("--sources", type=Path, help="llama.cpp's folder, for --backend")
    parser.add_argument(
        "--as-it-comes", action="store_true", help="without the backend's own changes of graphs"
    )
    parser.add_argument("--json", type=Path, help="write every case there")
    options = parser.parse_args()
    if options.backend and options.sources is None:
        parser.error(
            "--backend needs --sources: the engine's own, as llama-cpp-python vendors them"
        )
    if not available():
        print("needs an engine built with GGML_RPC=ON on x86-64 Linux", file=sys.stderr)
        return 5
    with tempfile.TemporaryDirectory() as scratch:
        files = stretched(options.folder, Path(scratch))
        cases: list[Case] = []
        rules = built(options.sources, RULES) if options.backend else None
        for n_gpus in (int(x) for x in options.gpus.split(",")):
            backend = options.backend or "RPC"
            found, apart = measure(
                files, n_gpus, options.quick, backend, rules, not options.as_it_comes
            )
            cases += found
            for line in apart:
                print("apart:", line, file=sys.stderr)
    print(table(cases))
    if options.show:
        for c in cases:
            if not c.right:
                print(f"{c.file} {c.compute:+} of {c.compute_true}: {c.settings}")
    if options.json:
        rows = [{s: str(getattr(c, s)) for s in c.__slots__} for c in cases]
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
