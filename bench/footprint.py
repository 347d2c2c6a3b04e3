"""What a footprint costs, replays included, beside one replay for every shape of a graph.

    python -m bench.footprint FOLDER [--count 4000]

FOLDER holds GGUF files, or headers alone named NAME@FULLSIZE (see bench.memory_accuracy). For each
model, on one and two GPUs, over the network and with CUDA: microseconds of processor time per
footprint over settings spread evenly over the whole grid, the same asked again, and over what the
solver really asks while it makes plans for several budgets, each with a new estimator. The ratio
is that of the spread settings to some of them with a graph built and replayed for each.
"""

from __future__ import annotations

import argparse
import gc
import random
import tempfile
import time
from pathlib import Path

from bench.memory_accuracy import stretched
from tests.support.giants import gpu, machine
from tests.support.headers import replay_every_shape
from tuner.gguf.header import read_header
from tuner.machine.machine import Machine
from tuner.memory.cache_types import CHOSEN_TYPES
from tuner.memory.estimator import Compute, Estimator
from tuner.model.model import Model, describe
from tuner.planning.planner import make_plan
from tuner.planning.solver import UBATCHES
from tuner.settings import Settings
from tuner.wishes import Wishes

_SAMPLE = 50  # one in so many is also measured with a graph for every shape
_BUDGETS = ((6, 4), (10, 8), (16, 12), (24, 24))  # GiB of the first and the second GPU


def spread(model: Model, n_gpus: int, count: int) -> list[Settings]:
    """Settings from all over the grid, the same on every run."""
    rng = random.Random(20)
    found = []
    for _ in range(count):
        n_gpu_layers = rng.randint(0, model.n_items)
        on_first = rng.randint(0, n_gpu_layers)
        type_k = rng.choice(CHOSEN_TYPES)
        found.append(
            Settings(
                n_ctx=256 * rng.randint(16, 512),
                type_k=type_k,
                # as in the solver, which over several GPUs looks at equal types alone
                type_v=type_k if n_gpus > 1 else rng.choice(CHOSEN_TYPES),
                n_gpu_layers=n_gpu_layers,
                n_cpu_moe=rng.choice((0, rng.choice((0, *model.moe_layers)))),
                n_ubatch=rng.choice(UBATCHES),
                tensor_split=()
                if n_gpus <= 1
                else (float(on_first), float(n_gpu_layers - on_first)),
            )
        )
    return found


def asked(model: Model, machines: list[Machine], count: int) -> list[Settings]:
    """What the solver asks while it plans, in its order, `count` at most."""
    found: list[Settings] = []
    answer = Estimator.totals

    def listen(self: Estimator, settings: Settings, compute: Compute = "search") -> list[int]:
        if compute == "search":
            found.append(settings)
        return answer(self, settings, compute)

    Estimator.totals = listen  # type: ignore[method-assign]
    try:
        for where in machines:
            make_plan(model, where, Wishes())
    finally:
        Estimator.totals = answer  # type: ignore[method-assign]
    return found[:count]


def cost(estimator: Estimator, settings: list[Settings]) -> float:
    """Microseconds of processor time per footprint."""
    gc.collect()
    start = time.process_time()
    for s in settings:
        estimator.footprint(s)
    return 1e6 * (time.process_time() - start) / max(1, len(settings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=4000, help="settings per line")
    options = parser.parse_args()
    print(
        f"{'model':<28}{'GPUs':>8}{'spread':>9}{'again':>8}{'alone':>10}{'ratio':>7}"
        f"{'solver asks':>13}{'each':>7}   (microseconds)"
    )
    costs: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for path in stretched(options.folder, Path(scratch)):
            model = describe(read_header(path))
            for n_gpus in (1, 2):
                for backend in ("RPC", "CUDA"):
                    machines = [
                        machine(*(gpu(gib, i, backend=backend) for i, gib in enumerate(g[:n_gpus])))
                        for g in _BUDGETS
                    ]
                    evenly = spread(model, n_gpus, options.count)
                    estimator = Estimator(model, machines[0])
                    first, again = cost(estimator, evenly), cost(estimator, evenly)
                    every_shape = Estimator(model, machines[0])
                    replay_every_shape(every_shape)
                    plain = cost(every_shape, evenly[::_SAMPLE])
                    real = asked(model, machines, options.count)
                    each = cost(Estimator(model, machines[0]), real)
                    costs.append((first, each))
                    print(
                        f"{path.name[:27]:<28}{n_gpus:>3} {backend:<4}{first:9.0f}{again:8.0f}"
                        f"{plain:10.0f}{plain / first:6.0f}x{len(real):13}{each:7.0f}"
                    )
    print(
        f"on average: {sum(c for c, _ in costs) / len(costs):.0f} spread, "
        f"{sum(c for _, c in costs) / len(costs):.0f} as the solver asks"
    )


if __name__ == "__main__":
    main()
