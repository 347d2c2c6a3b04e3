"""How long a plan takes, beside weighing a (much thinned) grid cell by cell.

    python -m bench.plan [FILE ...] [--vram 24GiB]

Without files, the four full-size headers of the tests. For each: the header, the first search, a
whole plan with alternatives, fallbacks and reasons, and the exhaustive walk over every placement
with three cache types and eight contexts, all in milliseconds, and the walk over the search. Then
plans over several GPUs, and the search for the longest context there, in milliseconds.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

from tests.support.giants import (
    AYA_35B,
    GEMMA_27B,
    LLAMA_8B,
    QWEN_30B_A3B,
    giant_path,
    gpu,
    machine,
)
from tuner.gguf.header import read_header
from tuner.machine.machine import Machine
from tuner.machine.stated import stated
from tuner.model.model import Model, describe
from tuner.planning import Solver, make_plan
from tuner.settings import Settings
from tuner.units import parse_size
from tuner.wishes import Wishes

# GiB and GB/s of each GPU
SEVERAL = {
    "12+8": ((12, 1008), (8, 500)),
    "16+16": ((16, 1008), (16, 1008)),
    "8+6": ((8, 400), (6, 700)),
    "6+4+4": ((6, 1008), (4, 300), (4, 1008)),
}


def several(paths: list[Path]) -> None:
    """The table of machines with several GPUs."""
    print(f"\n{'model':<28}" + "".join(f"{name:>8}{'context':>9}" for name in SEVERAL))
    for path in paths:
        model = describe(read_header(path))
        print(f"{path.name[:27]:<28}", end="")
        for cards in SEVERAL.values():
            gpus = (gpu(gib, i, bandwidth=gb * 1e9) for i, (gib, gb) in enumerate(cards))
            where = machine(*gpus)
            times = [time.perf_counter()]
            make_plan(model, where, Wishes())
            times.append(time.perf_counter())
            Solver(model, where).best(Wishes(prefer="context"))
            times.append(time.perf_counter())
            plan, context = (1e3 * (b - a) for a, b in itertools.pairwise(times))
            print(f"{plan:8.0f}{context:9.0f}", end="", flush=True)
        print()


def walk(model: Model, where: Machine) -> float:
    """The best score on the thinned grid."""
    solver = Solver(model, where)
    objective = solver.objective(Wishes())
    contexts = solver.contexts(Wishes())
    thinned = contexts[:: max(1, len(contexts) // 8)]
    moe = (0, *(layer + 1 for layer in model.moe_layers[::8]))
    best = float("-inf")
    for n, m, kv, n_ctx in itertools.product(
        range(solver.n_items + 1), moe, ("f16", "q8_0", "q4_0"), thinned
    ):
        found = solver.weigh(Settings(n_ctx, kv, kv, n, m), objective)
        if found.fits:
            best = max(best, found.score)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--vram", default="12GiB")
    args = parser.parse_args()
    where = stated([parse_size(args.vram)], 64 << 30)
    names = [giant_path(n) for n in (LLAMA_8B, AYA_35B, QWEN_30B_A3B, GEMMA_27B)]
    print(f"{'model':<28}{'header':>8}{'search':>9}{'plan':>9}{'walk':>10}{'walk/search':>13}")
    for path in args.files or names:
        times = [time.perf_counter()]
        model = describe(read_header(path))
        times.append(time.perf_counter())
        Solver(model, where).best(Wishes())
        times.append(time.perf_counter())
        make_plan(model, where, Wishes())
        times.append(time.perf_counter())
        walk(model, where)
        times.append(time.perf_counter())
        header, search, plan, walked = (1e3 * (b - a) for a, b in itertools.pairwise(times))
        print(
            f"{path.name[:27]:<28}{header:8.1f}{search:9.1f}{plan:9.1f}{walked:10.1f}"
            f"{walked / search:12.0f}x"
        )
    several(args.files or names)


if __name__ == "__main__":
    main()
