"""Holds predictions against this machine: memory and speed of several models, each loaded in
several ways, and what happens when memory runs out or the model process is killed.

    python -m bench.gpu_check [MODEL.gguf ...] [--size GiB] [--folder DIR] [--quick] [--json FILE]
    python -m bench.gpu_check --rpc HOST:PORT     # on an RPC server's device, a stand-in GPU

Without models it makes three with random weights (a dense one, one with experts, one with a sliding
window), each small and again of at most `--size`; with `--folder` they are kept. Of every load it
says what is off: memory by more than 3 % and 4 MiB on a device, decoding by more than 20 %, prompts
by more than 25 %. What a load takes beside the engine's buffers, at once and more with the first
long prompt, is in each receipt. With `--json` the receipts are written, a line each, as `kvchat
--bench` prints them. It neither reads nor writes profiles: every prediction is a first one. Status
1 where anything is off.

Made for a machine with a card, and so far run on none: on a CPU, and on stand-in GPUs, only.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from bench.random_models import KINDS, write_model
from tuner.engine.client import EngineClient
from tuner.engine.protocol import Message, Sampling, Text
from tuner.errors import EngineError, KvchatError
from tuner.launch import Launcher, Ready
from tuner.launch.running import Running
from tuner.machine.measure import gpu_used_bytes
from tuner.memory.beside import growth_on
from tuner.memory.footprint import ENGINE_KINDS
from tuner.model.model import Model, read_model
from tuner.profiles.actual import of_gpu, off_by
from tuner.report.receipt import Receipt, receipts_json, receipts_text
from tuner.trial import trial
from tuner.tuning import Tuning
from tuner.units import GIB, MIB, size_text, tps_text
from tuner.wishes import LaunchRequest, Wishes

MEMORY_SHARE, MEMORY_BYTES = 0.03, 4 * MIB
DECODE_SHARE, PROMPT_SHARE = 0.20, 0.25
SMALL = 128 * MIB  # of the small models
LONG_ANSWER = 4_096  # tokens, so many that a process is killed before it has written them
GIVEN_BACK_SECONDS = 10.0  # after a death, until the driver has all of its memory again


@dataclass(frozen=True, slots=True)
class Way:
    """One way of loading a model that is worth a look."""

    name: str
    wishes: Wishes


def ways(model: Model, *, gpus: int, quick: bool) -> Iterator[Way]:
    """As it is chosen, and so that each rule of placement and padding is met."""
    quickly = 1024 if quick else None  # one micro-batch is whole
    yield Way("as chosen", Wishes(n_ctx=quickly))
    if quick and not gpus:
        return
    half = model.n_items // 2
    if gpus:
        yield Way("half of the layers", Wishes(n_ctx=quickly or 4096, n_gpu_layers=half))
    if quick:
        return
    yield Way("8k, q8_0", Wishes(n_ctx=8192, type_k="q8_0", type_v="q8_0"))
    yield Way("8k, q4_0", Wishes(n_ctx=8192, type_k="q4_0", type_v="q4_0"))
    yield Way("K and V unequal", Wishes(n_ctx=8192, type_k="q8_0", type_v="q4_0"))
    yield Way("n_ubatch 2,048", Wishes(n_ctx=8192, n_ubatch=2048))
    if gpus:
        yield Way("on the CPU", Wishes(n_ctx=4096, n_gpu_layers=0))
    if gpus and model.moe_layers:
        all_layers = Wishes(n_ctx=8192, n_gpu_layers=model.n_items)
        some, all_experts = len(model.moe_layers) // 2, model.n_layer_all
        yield Way("half of the experts", replace(all_layers, n_cpu_moe=some))
        yield Way("no experts", replace(all_layers, n_cpu_moe=all_experts, n_ubatch=2048))


def memory_off(receipt: Receipt) -> Iterator[str]:
    """What a device took other than it was to, in words."""
    actual, plan = receipt.actual, receipt.plan
    n_ubatch = plan.chosen.settings.n_ubatch
    for i, (guess, real) in enumerate(
        zip(actual.expected.uses, actual.footprint.uses, strict=True)
    ):
        grown = of_gpu(actual.grown, i)
        if grown is not None:
            most = growth_on(plan.machine.devices[i], plan.model, n_ubatch).most
            if grown > most + MEMORY_BYTES:
                most_text = f"predicted at most {size_text(most)}"
                yield f"{guess.device} growth: {most_text}, took {size_text(grown)}"
        pairs = [(kind, getattr(guess, kind), getattr(real, kind)) for kind in ENGINE_KINDS]
        taken = of_gpu(actual.taken, i)
        if taken is not None:
            pairs.append(("in all", guess.total - guess.growth, taken))
        for kind, a, b in pairs:
            if abs(a - b) > max(MEMORY_BYTES, MEMORY_SHARE * b):
                yield f"{guess.device} {kind}: predicted {size_text(a)}, took {size_text(b)}"


def speed_off(receipt: Receipt) -> Iterator[str]:
    """What was faster or slower than it was to be, in words; nothing is said of a busy machine."""
    if receipt.busy:
        return
    for name, paces, most in (
        ("prompt", receipt.prompts, PROMPT_SHARE),
        ("decode", receipt.decodes, DECODE_SHARE),
    ):
        for pace in paces:
            if abs(off_by(pace.predicted, pace.measured)) > most:
                yield (
                    f"{name} at {pace.timed.depth:,}: predicted {tps_text(pace.predicted)}/s, "
                    f"was {tps_text(pace.measured)}/s"
                )


class Check:
    """Runs everything on this machine, and keeps what was off."""

    def __init__(self, rpc_servers: tuple[str, ...], *, quick: bool) -> None:
        self._rpc_servers, self._quick = rpc_servers, quick
        self.receipts: list[Receipt] = []
        self.off: list[str] = []
        self.n_looked_at = 0

    def model(self, path: Path) -> None:
        """All ways of one model, then its deaths."""
        request = LaunchRequest(path, rpc_servers=self._rpc_servers, use_profile=False)
        gpus = Tuning.of(request).machine.gpus
        for way in ways(read_model(path), gpus=len(gpus), quick=self._quick):
            self._look(f"{path.name}, {way.name}", self._loaded(way, request))
        request = replace(request, wishes=Wishes(n_ctx=512))
        if gpus:
            self._look(f"{path.name}, out of memory", self._out_of_memory(request))
        self._look(f"{path.name}, killed", self._killed(request))

    def _look(self, name: str, found_off: Iterator[str]) -> None:
        self.n_looked_at += 1
        try:
            found = list(found_off)
        except KvchatError as error:
            found = [f"{error.kind}: {error}"]
        for line in found:
            self.off.append(f"{name}: {line}")
            print(f"  OFF {self.off[-1]}", flush=True)

    def _loaded(self, way: Way, request: LaunchRequest) -> Iterator[str]:
        launcher = Launcher(replace(request, wishes=way.wishes))
        with closing(launcher.client):
            for event in trial(launcher):
                if isinstance(event, Receipt):
                    self.receipts.append(event)
                    print(f"\n{way.name}\n{receipts_text([event])}", flush=True)
                    yield from memory_off(event)
                    yield from speed_off(event)

    def _out_of_memory(self, request: LaunchRequest) -> Iterator[str]:
        """More context than any device has memory for: the engine is to say so and to load
        something smaller afterwards, and a launch never to get there."""
        tuning = Tuning.of(request)
        settings = tuning.plan().chosen.settings
        largest = max(device.total for device in tuning.machine.devices)
        per_token = max(1, sum(u.kv_cache for u in tuning.plan().chosen.footprint.uses) // 512)
        n_ctx = min(1 << 30, 2 * largest // per_token)
        with EngineClient() as client:
            try:
                list(client.load(tuning.load_request(settings.with_context(n_ctx))))
                yield f"{n_ctx:,} tokens were loaded into {size_text(largest)}"
            except EngineError as error:
                if error.kind != "out_of_memory":
                    yield f"a load without memory ended as {error.kind}: {error}"
            list(client.load(tuning.load_request(settings)))

    def _killed(self, request: LaunchRequest) -> Iterator[str]:
        """A model process that is killed amid an answer gives its memory back, and the next one
        answers."""
        launcher = Launcher(request)
        with closing(launcher.client):
            running = _running(launcher)
            before = gpu_used_bytes(running.plan.machine)
            try:
                for event in _answer(running, LONG_ANSWER):
                    if isinstance(event, Text) and launcher.client.pid:
                        os.kill(launcher.client.pid, signal.SIGKILL)
                yield "an answer went on after its process was killed"
            except EngineError as error:
                if error.kind != "crashed":
                    yield f"a killed process was told as {error.kind}: {error}"
            yield from self._given_back(running, before)
            if not any(isinstance(event, Text) for event in _answer(_running(launcher))):
                yield "the model said nothing after it was loaded again"

    def _given_back(self, running: Running, before: dict[str, int]) -> Iterator[str]:
        taken = running.actual.taken
        uses = {
            use.device: of_gpu(taken, i) or use.total - use.growth
            for i, use in enumerate(running.plan.chosen.footprint.uses)
        }
        until = time.monotonic() + GIVEN_BACK_SECONDS
        while True:
            now = gpu_used_bytes(running.plan.machine)
            held = {
                gpu: used - (before[gpu] - uses[gpu])
                for gpu, used in now.items()
                if used > before[gpu] - uses[gpu] + max(MEMORY_BYTES, MEMORY_SHARE * uses[gpu])
            }
            if not held:
                return
            if time.monotonic() > until:
                for gpu, size in held.items():
                    yield f"{gpu} still holds {size_text(size)} of a killed process"
                return
            time.sleep(0.2)


def _running(launcher: Launcher) -> Running:
    *_, last = launcher.start()
    assert isinstance(last, Ready)
    return last.running


def _answer(running: Running, max_tokens: int = 16) -> Iterator[object]:
    sampling = Sampling(temperature=0, max_tokens=max_tokens)
    return running.generate([Message("user", "Hello")], sampling)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--size", type=float, default=2.0, help="GiB of the larger models")
    parser.add_argument("--folder", type=Path, help="where the models are made, and kept")
    parser.add_argument("--rpc", action="append", default=[], metavar="HOST:PORT")
    parser.add_argument("--quick", action="store_true", help="small models, two ways each")
    parser.add_argument("--json", type=Path, help="write the receipts there, a line each")
    options = parser.parse_args()
    check = Check(tuple(options.rpc), quick=options.quick)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        sizes = [SMALL] if options.quick else [SMALL, int(options.size * GIB)]
        models = options.models or [write_model(folder, k, size) for size in sizes for k in KINDS]
        for path in models:
            check.model(path)
    if options.json:
        lines = (json.dumps(receipts_json([receipt], "")) for receipt in check.receipts)
        options.json.write_text("".join(f"{line}\n" for line in lines))
    busy = sum(receipt.busy for receipt in check.receipts)
    speeds = f", {busy} of them of no say about speed: other programs had the cores" if busy else ""
    print(f"\n{check.n_looked_at} looked at, {len(check.off)} off{speeds}")
    for line in check.off:
        print(f"  {line}")
    return 1 if check.off else 0


if __name__ == "__main__":
    sys.exit(main())
