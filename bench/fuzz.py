"""Damaged headers through reader, model, plan and report, in one process with limits.

    python -m bench.fuzz [--seed 1] [--count 10000 | --minutes 30] [--keep FOLDER] [--engine 200]
    python -m bench.fuzz --replay FILE...

Seeds are the headers of the tests' archive, tiny files and, where it is installed, the demo model;
`bench.mutants` damages them. Each mutant is planned for one of five stated machines, with one of
several wishes, and told as text and as JSON. What counts as a fall: an exception that is no
KvchatError; more than 2 s of CPU time; more than 64 MiB; a number in a report that is below 0, no
number, or more than 64 bits hold; a plan that fits and does not; a message that does not end. The
same seed gives the same mutants. What fell is kept in FOLDER, as small as a few tries can make it,
as KIND-NUMBER@FULLSIZE: the header's bytes, of a file of FULLSIZE bytes.

With `--engine N`, N of the mutants are held against the engine's own dry run, in a model process.
The exit status is 1 where anything fell.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from types import FrameType
from typing import Any

from bench.header import demo_model
from bench.mutants import Parts, Words, mutant
from tests.support.gguf_files import tiny_llama
from tests.support.giants import gpu, machine, unified
from tests.support.headers import unpacked
from tuner.errors import EngineError, FileError, KvchatError
from tuner.gguf.header import read_header
from tuner.machine.machine import Machine
from tuner.model.model import Model, describe, loadable_model
from tuner.planning import Plan, Solver, make_plan
from tuner.planning.advice import Advice, advise
from tuner.planning.budgets import Budgets
from tuner.report.json import report_json
from tuner.report.overview import overview_text
from tuner.report.text import report_text
from tuner.settings import ALL_LAYERS, Settings
from tuner.wishes import Wishes

SLOW = 2.0  # seconds of CPU time
ENDLESS = 10.0  # the same, after which a mutant is ended
MEMORY = 64 << 20  # bytes
MESSAGE = 600  # characters, beside the path
_WORD = 1 << 63
_FEW_TENSORS = 50

MACHINES: dict[str, Callable[[], Machine]] = {
    "no GPU": lambda: machine(ram=16),
    "CUDA 24": lambda: machine(gpu(24)),
    "two cards": lambda: machine(gpu(12), gpu(8, 1, bandwidth=500e9)),
    "Mac": lambda: unified(12, 14, total=16),
    "too small": lambda: machine(gpu(0.6, backend="Vulkan"), ram=1.2),
}
_CONTEXTS = (1, 255, 4096, 131_072, 1 << 24, (1 << 31) - 1)
WISHES = (
    *(Wishes(),) * 8,
    Wishes(max_ctx=True),
    *(Wishes(n_ctx=n) for n in _CONTEXTS),
    Wishes(n_gpu_layers=ALL_LAYERS),
    Wishes(n_gpu_layers=3, n_cpu_moe=2, n_ubatch=64),
    Wishes(type_k="q8_0", type_v="q4_0", flash_attn="off"),
    Wishes(prefer="context"),
    Wishes(n_ctx=8192, type_k="q8_0", type_v="q8_0", n_gpu_layers=1),
)


class Overtime(BaseException):  # nothing that is caught on the way may take it for its own
    """A mutant ran for too long."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one mutant: in `fell`, its kinds of fall."""

    verdict: str  # "fits", "does not fit", "refused: malformed", ...
    fell: tuple[str, ...] = ()
    detail: str = ""
    seconds: float = 0.0  # of CPU time
    memory: int = 0  # bytes at the most, beyond what the process had before
    settings: Settings | None = None


# ------------------------------------------------------------------- limits


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raises Overtime in what runs for longer, where the system has such timers."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def over(number: int, frame: FrameType | None) -> None:
        raise Overtime

    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


_RESIDENT = re.compile(rb"Vm(HWM|RSS):\s+(\d+) kB")


def _resident(*, anew: bool = False) -> dict[bytes, int]:
    """Bytes in memory, now (RSS) and at the most (HWM), `anew` from now on; on Linux."""
    try:
        if anew:
            with Path("/proc/self/clear_refs").open("wb", buffering=0) as file:
                file.write(b"5")
        status = Path("/proc/self/status").read_bytes()
    except OSError:
        return {b"HWM": 0, b"RSS": 0}
    return {kind: int(size) << 10 for kind, size in _RESIDENT.findall(status)}


# ------------------------------------------------------------------- one mutant


def try_file(path: Path, where: Machine, wishes: Wishes, endless: float = ENDLESS) -> Outcome:
    """Reads, plans and tells one file within the limits. What takes more than `endless` seconds
    of CPU time is ended."""
    before = _resident(anew=True)[b"RSS"]
    start = time.process_time()
    settings: Settings | None = None
    detail = ""
    fell: list[str] = []
    try:
        with cpu_limit(endless):
            try:
                model, refused = _model(path)
                solver = Solver(model, where)
                plan = make_plan(model, where, wishes, solver=solver)
                verdict = "fits" if plan.chosen.fits else "does not fit"
                fell += _faults(plan, advise(plan, solver))
                if refused:
                    raise refused
                settings = plan.chosen.settings
            except KvchatError as error:
                kind = error.kind if isinstance(error, FileError) else type(error).__name__
                verdict = f"refused: {kind}"
                detail = str(error)
                if len(detail) > MESSAGE + 3 * len(str(path)):
                    fell.append("a message without end")
                overview_text([(str(path), error)])
    except Overtime:
        verdict, detail = "endless", _where(*sys.exc_info()[1:])
        fell.append(f"endless in {detail}")
    except Exception as error:
        verdict, detail = "crash", _where(error, error.__traceback__)
        fell.append(f"{type(error).__name__} in {detail}")
    seconds = time.process_time() - start
    memory = _resident()[b"HWM"] - before
    if verdict != "endless" and seconds > SLOW:
        fell.append("over 2 s")
    if memory > MEMORY:
        fell.append("over 64 MiB")
    return Outcome(verdict, tuple(fell), detail, seconds, memory, settings)


def _model(path: Path) -> tuple[Model, FileError | None]:
    """What is planned, and why this engine would not load it: with another one installed, which
    has its own word, a file is planned all the same."""
    header = read_header(path)
    try:
        return loadable_model(header), None
    except FileError as error:
        return describe(header), error


def _where(error: Any, trace: Any) -> str:
    """The innermost place in the program's own code."""
    own = [f for f in traceback.extract_tb(trace) if "/tuner/" in f.filename]
    if not own:
        return "?"
    return f"{own[-1].filename.rsplit('/tuner/', 1)[1]}:{own[-1].lineno}"


def _faults(plan: Plan, advice: Advice) -> Iterator[str]:
    """What a report may not say."""
    text = report_text(plan, advice=advice) + overview_text([(str(plan.model.path), plan)])
    if any(len(line) > 400 for line in text.splitlines()):  # noqa: PLR2004
        yield "a line without end"
    told = report_json(plan, advice)
    json.dumps(told)
    for path, number in _numbers(told):
        if not isfinite(number):
            yield f"no number: {path}"
        elif number < 0:
            yield f"negative {path}"
        elif number >= _WORD:
            yield f"over 2^63: {path}"
    budgets = Budgets.of(plan.machine)
    for candidate in (plan.chosen, *plan.alternatives, *plan.fallbacks):
        if candidate.fits and any(candidate.short(budgets)):
            yield "fits and does not"


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(inner, f"{path}[]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


# ------------------------------------------------------------------- many mutants


def seeds(folder: Path) -> dict[str, Parts]:
    """Sound headers by name."""
    files = dict(unpacked()[0])
    files["tiny"] = tiny_llama(folder / "tiny.gguf")
    demo = demo_model()
    if demo:
        files["demo"] = demo
    found = {}
    for name, path in files.items():
        with path.open("rb") as file:
            found[name] = Parts.of(file.read(read_header(path).data_offsets[0]))
    return found


def write(path: Path, data: bytes, size: int) -> None:
    """A sparse file of `size` bytes that starts with `data`."""
    with path.open("wb") as file:
        file.write(data)
        for bits in range(10):  # as much as this file system holds
            try:
                file.truncate(max(len(data), size >> 4 * bits))
                break
            except OSError:
                continue


class Fuzzer:
    """Tries mutants one after the other and counts what comes of them."""

    def __init__(self, folder: Path, seed: int, keep: Path | None = None, *, small: bool = False):
        """`small`: of seeds with few layers alone, whose plans are quick."""
        self._file = folder / "m.gguf"
        self._seed = seed
        self._keep = keep
        self._seeds = seeds(folder)
        if small:
            self._seeds = {n: p for n, p in self._seeds.items() if len(p.rows) <= _FEW_TENSORS}
        self._names = sorted(self._seeds)
        self._words = Words.of(self._seeds.values())
        self._machines = {name: make() for name, make in MACHINES.items()}
        self.verdicts: Counter[str] = Counter()
        self.falls: Counter[str] = Counter()
        self.first: dict[str, str] = {}  # how to have each fall again
        self.slowest, self.largest = 0.0, 0
        self._kept: Counter[str] = Counter()

    def one(self, number: int, wishes: Wishes | None = None) -> Outcome:
        """The mutant of this number."""
        chance = random.Random(f"{self._seed} {number}")
        name = chance.choice(self._names)
        data, size, parts = mutant(self._seeds[name], chance, self._words)
        where, wished = chance.choice(sorted(self._machines)), chance.choice(WISHES)
        wishes = wishes or wished
        write(self._file, data, size)
        found = try_file(self._file, self._machines[where], wishes)
        self.verdicts[found.verdict] += 1
        self.slowest = max(self.slowest, found.seconds)
        self.largest = max(self.largest, found.memory)
        for fall in found.fell:
            self.falls[fall] += 1
            self.first.setdefault(fall, f"number {number}, {name}, {where}, {_said(wishes)}")
            if self._keep is not None and self._kept[fall] < 3:  # noqa: PLR2004
                self._kept[fall] += 1
                self._save(fall, number, data, size, parts, self._machines[where], wishes)
        return found

    def _save(
        self,
        fall: str,
        number: int,
        data: bytes,
        size: int,
        parts: Parts | None,
        where: Machine,
        wishes: Wishes,
    ) -> None:
        assert self._keep is not None
        if parts is not None and fall != "over 2 s":

            def falls(p: Parts) -> bool:
                write(self._file, *p.packed())
                return fall in try_file(self._file, where, wishes, SLOW).fell

            data, size = smallest(parts, falls, seconds=20).packed()
        self._keep.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^\w.]+", "-", fall)
        (self._keep / f"{name}-{number}@{size}").write_bytes(data)


def _said(wishes: Wishes) -> str:
    return ", ".join(f"{n}={getattr(wishes, n)}" for n in wishes.fixed) or "no wishes"


def smallest(parts: Parts, falls: Callable[[Parts], bool], seconds: float) -> Parts:
    """With as few keys and tensors as fall the same way: ever smaller pieces are left out."""
    end = time.monotonic() + seconds
    for kind in ("rows", "keys"):
        piece = max(1, len(getattr(parts, kind)) // 2)
        while piece:
            at = 0
            while at < len(getattr(parts, kind)) and time.monotonic() < end:
                items = getattr(parts, kind)
                trial = replace(parts, **{kind: items[:at] + items[at + piece :]})
                if falls(trial):
                    parts = trial
                else:
                    at += piece
            piece //= 2
    return parts


# ------------------------------------------------------------------- the engine's word


def against_engine(fuzzer: Fuzzer, file: Path, numbers: Iterator[int], n: int) -> Counter[str]:
    """What the engine's dry run says of mutants, beside what is planned for them."""
    from tuner.engine.client import EngineClient  # noqa: PLC0415
    from tuner.engine.protocol import Load  # noqa: PLC0415

    found: Counter[str] = Counter()
    with EngineClient(env={"KVCHAT_LOG_DIR": str(file.parent)}) as client:
        for number in numbers:
            ours = fuzzer.one(number, Wishes())
            settings = Settings(512)
            try:
                client.dry_run(Load(str(file), settings, 1))
                theirs = "engine accepts"
            except EngineError as error:
                theirs = "engine dies" if error.kind == "crashed" else "engine refuses"
            verdict = "plans" if ours.settings else ours.verdict
            if verdict.startswith("refused") and theirs == "engine accepts":
                told = ours.detail.replace(str(file), "")[:160]
                print(f"number {number}: refused, the engine accepts: {told}", flush=True)
            found[f"{verdict}, {theirs}"] += 1
            n -= 1
            if not n:
                break
    return found


# ------------------------------------------------------------------- the command


def replay(files: list[Path]) -> int:
    """Tries kept files on every machine."""
    fell = 0
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "m.gguf"
        for file in files:
            size = file.name.rpartition("@")[2]
            data = file.read_bytes()
            write(path, data, int(size) if size.isdigit() else len(data))
            for name, make in MACHINES.items():
                for wishes in dict.fromkeys(WISHES):
                    found = try_file(path, make(), wishes)
                    if found.fell:
                        fell += 1
                        print(f"{file.name}: {name}, {_said(wishes)}: {', '.join(found.fell)}")
    return 1 if fell else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--count", type=int, default=None)
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--keep", type=Path, default=None, metavar="FOLDER")
    parser.add_argument("--engine", type=int, default=0, metavar="N")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE")
    options = parser.parse_args(arguments)
    if options.replay:
        return replay(options.replay)
    end = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    count = options.count or (1000 if not options.minutes else sys.maxsize)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        fuzzer = Fuzzer(Path(scratch), options.seed, options.keep)

        def numbers() -> Iterator[int]:
            for number in range(options.first, options.first + count):
                if time.monotonic() > end:
                    return
                yield number

        if options.engine:
            compared = against_engine(fuzzer, Path(scratch) / "m.gguf", numbers(), options.engine)
            for what, n in compared.most_common():
                print(f"{n:8,}  {what}")
        else:
            for number in numbers():
                fuzzer.one(number)
                if not number % 10_000 and number:
                    print(f"... {number:,}: {sum(fuzzer.falls.values())} fell", flush=True)
    _tell(fuzzer, time.monotonic() - start)
    return 1 if fuzzer.falls else 0


def _tell(fuzzer: Fuzzer, seconds: float) -> None:
    total = sum(fuzzer.verdicts.values())
    print(f"{total:,} mutants in {seconds:.0f} s, {os.cpu_count()} cores")
    for verdict, n in fuzzer.verdicts.most_common():
        print(f"{n:8,}  {verdict}")
    print(f"slowest {fuzzer.slowest:.2f} s of CPU time, largest {fuzzer.largest / 2**20:.0f} MiB")
    print(f"{sum(fuzzer.falls.values()):,} fell")
    for fall, n in fuzzer.falls.most_common():
        print(f"{n:8,}  {fall}  ({fuzzer.first[fall]})")


if __name__ == "__main__":
    sys.exit(main())
