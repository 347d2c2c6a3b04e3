"""Whether what one load taught of this machine makes the first prediction of others right.

    python -m bench.learning [MODEL.gguf ...] [--threads N,N] [--by-cpu-time] [--rounds N]

The first model (the demo) is loaded once, as on a machine that knows nothing: numbers of threads
are tried, it is timed, and the machine learns. Then every other configuration (model, cache types,
depth, number of threads) is predicted, each as if its model had never been loaded, by the formula
alone and with what was learned, and timed. Prints all of them with the ratios, and the share within
20 % of either kind. What it learns goes to a folder of its own.

On a machine that others use, too, wall time says little. `--by-cpu-time` counts the time that the
threads computed instead, divided by their number. `--rounds`: how often the first is timed, of
which the fastest counts, since others can only slow it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from tuner.demo import demo_model_path
from tuner.engine.protocol import MeasureSpeed, SpeedMeasured, Timed
from tuner.launch import Launcher, Ready
from tuner.launch.running import Running
from tuner.machine.machine import Pace
from tuner.model.model import read_model
from tuner.profiles.profiles import Profiles
from tuner.tuning import Tuning
from tuner.wishes import LaunchRequest, Wishes

CLOSE = 0.20
CACHES = ("f16", "q8_0", "q4_0")
REQUEST = MeasureSpeed(128, (0, 512, 1024), 24, 240.0)
N_CTX = 1280
TRIES = 3  # loads until it could be told which number of threads is the faster


@dataclass(frozen=True, slots=True)
class Figure:
    """Tokens/s of one thing that was timed: by the formula alone, as learned, and measured."""

    name: str
    kind: str  # "prompt" | "decode"
    alone: float
    learned: float
    measured: float


def timed_by(request: LaunchRequest, rounds: int = 1) -> tuple[Running, list[SpeedMeasured]]:
    """Loads a model as if for the first time, and times it so often."""
    Profiles().forget(read_model(request.path).fingerprint)
    launcher = Launcher(request)
    with closing(launcher.client):
        *_, ready = launcher.start()
        assert isinstance(ready, Ready)
        found = []
        for _ in range(rounds):
            *_, measured = ready.running.measure_speed(REQUEST)
            assert isinstance(measured, SpeedMeasured)
            found.append(measured)
        return ready.running, found


def figures(request: LaunchRequest, *, cpu_time: bool) -> Iterator[Figure]:
    """One configuration, predicted and timed; nothing is learned of it."""
    running, (measured,) = timed_by(request)
    settings, tuning = running.settings, running.tuning
    untaught = replace(
        tuning.machine,
        gpus=tuple(replace(gpu, pace=Pace()) for gpu in tuning.machine.gpus),
        host=replace(tuning.machine.host, pace=Pace()),
    )
    alone = Tuning(request, tuning.model, untaught)
    where = f"{request.path.stem[:20]} {settings.type_k} {measured.n_threads} threads"
    for kind, all_timed in (("prompt", measured.prompts), ("decode", measured.decodes)):
        for timed in all_timed:
            tps = _counted(timed, measured.n_threads, cpu_time).tps
            guess, taught = (t.predicted_tps(settings, kind, timed) for t in (alone, tuning))
            yield Figure(f"{where} at {timed.depth:,}", kind, guess, taught, tps)


def _counted(timed: Timed, n_threads: int, cpu_time: bool) -> Timed:
    share = timed.cores / n_threads if cpu_time else 1.0
    return replace(timed, seconds=timed.seconds * share)


def share_within(pairs: Sequence[tuple[float, float]]) -> float:
    """Of (predicted, measured) those that are off by no more than `CLOSE`."""
    close = [abs(predicted / measured - 1) <= CLOSE for predicted, measured in pairs]
    return sum(close) / len(close)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--threads", default=f"{os.cpu_count() or 1},1")
    parser.add_argument("--by-cpu-time", action="store_true")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    models = [demo_model_path(), *options.models]
    threads = sorted({int(n) for n in options.threads.split(",")})
    found: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KVCHAT_CONFIG_DIR"] = folder
        requests = [
            LaunchRequest(path, Wishes(n_ctx=N_CTX, type_k=kv, type_v=kv), threads=n)
            for path in models
            for kv in CACHES
            for n in reversed(threads)
        ]
        first = requests[0]
        for _ in range(TRIES):
            running, measured = timed_by(replace(first, threads=None), options.rounds)
            if Profiles().machine_facts().faster_threads:
                break
        n, cpu_time = measured[0].n_threads, options.by_cpu_time
        others = [request for request in requests if request != replace(first, threads=n)]
        decodes, prompts = (
            [
                min((_counted(timed, n, cpu_time) for timed in same), key=lambda t: t.seconds)
                for same in zip(*rounds, strict=True)
            ]
            for rounds in ([m.decodes for m in measured], [m.prompts for m in measured])
        )
        running.learn_speed(decodes, prompts)
        print(f"learned from {first.path.stem}, {CACHES[0]}, {n} threads:")
        for timed in (*prompts, *decodes):
            print(f"  {timed.n_tokens:,} tokens at {timed.depth:,}: {timed.tps:.1f}/s")
        pace = Tuning.of(first).machine.host.pace
        print(
            f"  host: decoding {pace.decode:.2f}, prompts {pace.prompt:.2f}, attention "
            f"{pace.attention:.2f}, barriers {pace.barriers:.2f} of what is computed"
        )
        print(f"\n{'':44} {'alone':>9} {'learned':>9} {'measured':>9} {'learned/measured':>17}")
        for request in others:
            for f in figures(request, cpu_time=cpu_time):
                found.append(f)
                ratio = f.learned / f.measured
                print(
                    f"{f.kind} {f.name:37} {f.alone:9.1f} {f.learned:9.1f} {f.measured:9.1f} "
                    f"{ratio:17.2f}",
                    flush=True,
                )
    for kind in ("decode", "prompt"):
        some = [f for f in found if f.kind == kind]
        alone = share_within([(f.alone, f.measured) for f in some])
        learned = share_within([(f.learned, f.measured) for f in some])
        print(
            f"{kind}: {learned:.0%} of {len(some)} within {CLOSE:.0%} with what was learned, "
            f"{alone:.0%} by the formula alone"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
