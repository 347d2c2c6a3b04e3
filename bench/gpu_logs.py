"""Holds the memory formulas against what llama.cpp logged on people's GPUs.

    python -m bench.gpu_logs CASES.json [--headers FOLDER ...] [--show]

CASES has a list `cases` (or is one): per load the backend, the settings {ctx, ub, k, v, ngl,
n_gpus, split, n_out, fa, n_cpu_moe}, and as `log` the MiB per device ("GPU0", ..., "host") and kind
("model", "kv", "rs", "compute"), two digits or whole. `header` names the model's header, NAME.gguf
or a bare NAME.gguf@FULLSIZE in one of the folders (or .tar files). `n_out` are the rows of logits,
0 for one per token of a micro-batch; `rs_cells` how many states the log's program kept, slots x
(1 + n_rs_seq); without `weights_comparable` the file's quantization is another than the header's.

Per backend and quantity: how many figures are exact (to 0.02 MiB, whole ones to 1 MiB), within 3 %
or 4 MiB, too low by more than 3 %, and the worst. Compute buffers of engines of which it is known
that they had other rules than the one that kvchat models stand apart: those with "era": "old", and
those of a build or day ("when": "b9849", "2026-09-01", "2026-08") up to which the sources say so
(tuner/logs/other_rules.py). `--show` prints all that are not exact, and what was other.

Where a GPU borrows weights from RAM, copies of them are a part of its compute buffer, so that it
says nothing where the file had another quantization.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tarfile
import tempfile
from calendar import monthrange
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from bench.memory_accuracy import COMPUTE_BYTES, COMPUTE_SHARE, stretched
from tuner.errors import KvchatError
from tuner.gguf.header import TensorInfo, read_header
from tuner.json_values import from_json, one_of, within
from tuner.logs.other_rules import built_on, other_rule
from tuner.machine.backends import BACKENDS, backend, of_engine
from tuner.machine.machine import Device, Machine
from tuner.memory.cache_types import CACHE_TYPES
from tuner.memory.estimator import Estimator
from tuner.memory.footprint import DeviceUse
from tuner.model.model import Model, describe
from tuner.safe_text import cut
from tuner.settings import MAX_CONTEXT, MAX_UBATCH, Settings
from tuner.units import INT32, MIB

_EXACT, _EXACT_WHOLE = 0.02, 1.0  # MiB: of a line with two digits, of one without
_ENDLESS = 1 << 50
_QUANTITIES = {  # of a log's kinds: which of a `DeviceUse`, and how the table calls it
    "model": ("weights", "weights"),
    "kv": ("kv_cache", "KV"),
    "rs": ("recurrent_state", "states"),
    "compute": ("compute", "compute"),
}
_ROPE_FACTORS = {
    **{f"Llama-3.{minor}-": ("rope_freqs",) for minor in (1, 2, 3)},
    "phi-3.5-": ("rope_factors_long", "rope_factors_short"),
}
_LIKE = "Engines like the one that kvchat models"
_OTHER = "Compute buffers of engines that had other rules"
_OLD = "Older ones"
_CacheType = Annotated[str, one_of(*CACHE_TYPES)]


@dataclass(frozen=True, slots=True)
class LoggedSettings:
    """How a program loaded the model; what it does not say is llama.cpp's default."""

    ctx: Annotated[int, within(1, MAX_CONTEXT)]
    ub: Annotated[int, within(1, MAX_UBATCH)] = 512
    k: _CacheType = "f16"
    v: _CacheType = "f16"
    ngl: Annotated[int, within(-1, INT32)] = INT32
    n_gpus: Annotated[int, within(0, 16)] = 1
    split: tuple[float, ...] = ()
    n_out: Annotated[int, within(0, INT32)] = 1
    fa: Annotated[str, one_of("on", "off", "auto")] = "on"
    n_cpu_moe: Annotated[int, within(0, INT32)] = 0


@dataclass(frozen=True, slots=True)
class Case:
    """One load, as a file states it."""

    backend: str
    header: str | None
    settings: Any
    log: Any
    when: str = ""
    src: str = ""
    card: str = ""
    era: str = "new"
    rs_cells: Annotated[int, within(1, 1 << 20)] = 1
    weights_comparable: bool = True

    @property
    def name(self) -> str:
        return cut(", ".join(x for x in (self.header, self.card, self.src) if x), 90)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of a log beside the predicted one, in MiB."""

    case: Case
    backend: str
    quantity: str
    device: str
    logged: float
    whole: bool  # the log has no digits behind the point
    predicted: float
    other_rule: str = ""  # of the log's engine, for this quantity

    @property
    def off(self) -> float:
        """Predicted over logged, less 1."""
        return self.predicted / self.logged - 1 if self.logged else float(self.predicted > 0)

    @property
    def exact(self) -> bool:
        most = _EXACT_WHOLE if self.whole else _EXACT
        return abs(self.predicted - self.logged) < most + 1e-9

    @property
    def near(self) -> bool:
        most = max(COMPUTE_BYTES / MIB, COMPUTE_SHARE * self.logged)
        return self.exact or abs(self.predicted - self.logged) <= most

    @property
    def too_low(self) -> bool:
        return not self.exact and self.off < -COMPUTE_SHARE

    @property
    def text(self) -> str:
        return (
            f"{self.predicted:.2f} for {self.logged:.2f} MiB ({self.off:+.1%}) on {self.device}: "
            f"{self.case.name}"
        )


class NotComparableError(Exception):
    """Why a case says nothing."""


def read_cases(path: Path) -> list[Any]:
    """The cases of a file as parsed JSON. Raises ValueError with a sentence where it has none."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is not JSON.") from None
    cases = content.get("cases") if isinstance(content, dict) else content
    if not isinstance(cases, list) or not any(isinstance(c, dict) and "log" in c for c in cases):
        raise ValueError(f"{path} has no list of cases with a backend, settings and a log each.")
    return cases


def headers(places: Iterable[Path], into: Path) -> dict[str, Path]:
    """The files of all folders and archives by their names without ".gguf", bare headers stretched
    to sparse files in the folder `into`. Raises ValueError for a place that is neither."""
    found: dict[str, Path] = {}
    for number, place in enumerate(places):
        folder = into / str(number)
        folder.mkdir()
        try:
            files = stretched(place, folder) if place.is_dir() else _unpacked(place, folder)
        except (OSError, tarfile.TarError, ValueError):
            raise ValueError(f"{place} is no folder and no archive of headers.") from None
        for file in files:
            found.setdefault(file.name.removesuffix(".gguf"), file)
    return found


def _unpacked(archive: Path, into: Path) -> list[Path]:
    """The headers NAME.gguf@FULLSIZE of an archive, stretched."""
    with tarfile.open(archive) as members:
        for member in members:
            stream = members.extractfile(member)
            if stream and ".gguf@" in member.name:
                (into / Path(member.name).name).write_bytes(stream.read())
    found = stretched(into, into)
    for bare in into.glob("*.gguf@*"):
        os.remove(bare)
    return found


def machine(name: str, n_gpus: int, card: str = "") -> Machine:
    """One with GPUs of a backend, and memory without end."""
    unified = backend(name).unified or "integrated" in card.lower()
    gpus = tuple(
        Device(f"GPU{i}", "gpu", name, card, _ENDLESS, _ENDLESS, 0, unified=unified)
        for i in range(n_gpus)
    )
    return Machine(gpus, Device("host", "host", "CPU", "host", _ENDLESS, _ENDLESS, 0))


def backend_name(said: str) -> str:
    """The name in `BACKENDS` of what a case calls its backend. Raises NotComparableError."""
    for name in (said, of_engine(said.upper()).name):
        for known in BACKENDS:
            if known.lower() == name.lower():
                return known
    raise NotComparableError(f"{said} is no backend that kvchat knows")


class Comparison:
    """The cases' figures beside the predicted ones."""

    def __init__(self, files: dict[str, Path]):
        self._files = files
        self._models: dict[str, Model] = {}
        self.apart: list[str] = []  # what could not be compared, a sentence each

    def rows(self, cases: Sequence[Any]) -> list[Row]:
        """All figures of all cases that can be compared."""
        found: list[Row] = []
        for number, parsed in enumerate(cases, 1):
            name = f"case {number}"
            try:
                case = from_json(Case, parsed)
                name = f"case {number} ({case.name or case.backend})"
                found += self._rows(case, name)
            except (NotComparableError, ValueError, KvchatError) as error:
                self.apart.append(f"{name}: {error}.".replace("..", "."))
        return found

    def _rows(self, case: Case, name: str) -> list[Row]:
        known = backend_name(case.backend)
        model = self._model(case)
        stated = {k: v for k, v in _object(case.settings, "settings").items() if v is not None}
        unknown = sorted(stated.keys() - {f.name for f in fields(LoggedSettings)})
        if unknown:
            self.apart.append(f"{name}: compared without {', '.join(unknown)}, not known here.")
        with_gpus = {"n_gpus": _gpus_in(_object(case.log, "log")), **stated}
        s = from_json(LoggedSettings, with_gpus)
        where = machine(known, 0 if known == "CPU" else s.n_gpus, case.card)
        split = s.split or (1.0,) * s.n_gpus
        settings = Settings(
            s.ctx, s.k, s.v,
            n_gpu_layers=model.n_items if s.ngl < 0 else min(s.ngl, model.n_items),
            n_cpu_moe=s.n_cpu_moe, n_ubatch=s.ub, flash_attn=s.fa,
            tensor_split=split if len(where.gpus) > 1 else (), use_extra_bufts=False,
        )  # fmt: skip
        # a program has a row of logits for each slot, and `rs_cells` are states of all slots
        kept = case.rs_cells // (s.n_out or 1) - 1 if case.rs_cells % (s.n_out or 1) == 0 else 0
        estimator = Estimator(model, where, n_outputs_max=s.n_out, n_rs_seq=kept)
        footprint = estimator.exact(settings)
        uses = {use.device: use for use in footprint.uses}
        built = _built(case.when)
        rules = (built and other_rule(model, d, settings, *built) for d in where.devices)
        other = next((rule.what for rule in rules if rule), "")
        rows = self._figures(case, name, known, uses, other)
        in_ram = not model.whole(settings.n_gpu_layers, settings.n_cpu_moe)
        if case.weights_comparable or not (in_ram and backend(known).borrows_weights):
            return list(rows)
        self.apart.append(f"{name}: a GPU borrows weights of another quantization.")
        return [row for row in rows if row.quantity != "compute GPU"]

    def _figures(
        self, case: Case, name: str, known: str, uses: dict[str, DeviceUse], other_rule: str
    ) -> Iterator[Row]:
        for device, kinds in _object(case.log, "log").items():
            if device not in uses:
                self.apart.append(f"{name}: {device} is none of {', '.join(uses)}.")
                continue
            for kind, size in _object(kinds, device).items():
                if kind not in _QUANTITIES or type(size) not in (int, float):
                    self.apart.append(f"{name}: {kind} of {device} is no size in MiB known here.")
                    continue
                if kind == "model" and not case.weights_comparable:
                    continue
                field, quantity = _QUANTITIES[kind]
                predicted = getattr(uses[device], field) * (case.rs_cells if kind == "rs" else 1)
                if kind == "compute":
                    quantity += " host" if device == "host" else " GPU"
                whole = type(size) is int
                yield Row(
                    case, known, quantity, device, float(size), whole, predicted / MIB,
                    other_rule=other_rule if kind == "compute" else "",
                )  # fmt: skip

    def _model(self, case: Case) -> Model:
        if not case.header:
            raise NotComparableError("it names no header")
        header = case.header.removesuffix(".gguf")
        if header not in self._models:
            if header not in self._files:
                raise NotComparableError(f"there is no header {header}")
            self._models[header] = completed(header, describe(read_header(self._files[header])))
        return self._models[header]


def completed(name: str, model: Model) -> Model:
    """The model with the factors of its rotation, which headers made from the shapes of matrices
    leave out, though every file of these models has them: a few bytes that stay amid the copies of
    a cache on a GPU, where they may cost a hole of many MiB."""
    factors = next((f for start, f in _ROPE_FACTORS.items() if name.startswith(start)), ())
    if not factors or model.tensors.rope:
        return model
    n = model.hparams.head_k[0] // 2
    rope = tuple(TensorInfo(f"{name}.weight", (n,), 0, 0, 4 * n) for name in factors)
    return replace(model, tensors=replace(model.tensors, rope=rope))


def _built(when: str) -> tuple[date, int | None] | None:
    """The last day on which the engine of a log can have been built, as a case says it, and its
    number; None: it says neither."""
    if found := re.search(r"\bb(\d{4,6})\b", when):
        return built_on(int(found[1])), int(found[1])
    if not (found := re.search(r"\b(\d{4})-(\d{2})(?:-(\d{2}))?(?![\d+/])", when)):
        return None
    year, month = int(found[1]), int(found[2])
    try:
        return date(year, month, int(found[3] or monthrange(year, month)[1])), None
    except ValueError:
        return None


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise NotComparableError(f"its {name} is no object")
    return value


def _gpus_in(log: dict[str, Any]) -> int:
    """How many GPUs a log speaks of, at least one."""
    numbers = [int(x[3:]) for x in log if x[:3] == "GPU" and x[3:].isdigit()]
    return max(numbers, default=0) + 1


def table(rows: Sequence[Row]) -> str:
    """A line per backend and quantity."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.backend, row.quantity].append(row)
    lines = [f"{'backend':9}{'quantity':14}{'n':>4}{'exact':>7}{'near':>6}{'low':>5}  worst"]
    for (name, quantity), group in sorted(groups.items()):
        worst = max(group, key=lambda row: (not row.exact, abs(row.off)))
        counts = (
            f"{sum(r.exact for r in group):7}{sum(r.near for r in group):6}"
            f"{sum(r.too_low for r in group):5}"
        )
        text = "" if worst.exact else worst.text
        lines.append(f"{name:9}{quantity:14}{len(group):4}{counts}  {text}".rstrip())
    return "\n".join(lines)


def report(rows: Sequence[Row], *, show: bool) -> str:
    """Tables for engines like the modelled one, for those of which is known that they had other
    rules, and for older ones, and with `show` all that is not exact."""
    parts = ["near: within 3 % or 4 MiB; low: too low by more than 3 %"]
    groups: dict[str, list[Row]] = {title: [] for title in (_LIKE, _OTHER, _OLD)}
    for row in rows:
        groups[_OLD if row.case.era == "old" else _OTHER if row.other_rule else _LIKE].append(row)
    for title, its in groups.items():
        if its:
            parts.append(f"{title}: {len(its)} figures\n{table(its)}")
        off = sorted((r for r in its if not r.exact), key=lambda r: (r.backend, r.quantity, r.off))
        if show and off:
            lines = (f"{r.backend:9}{r.quantity:14}  {r.text}{_because(r)}" for r in off)
            parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _because(row: Row) -> str:
    return f"; its engine {row.other_rule}" if row.other_rule else ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_logs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cases", type=Path)
    parser.add_argument("--headers", type=Path, nargs="+", default=[], metavar="FOLDER")
    parser.add_argument("--show", action="store_true", help="every figure that is not exact")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            cases = read_cases(options.cases)
            comparison = Comparison(headers(options.headers, Path(scratch)))
        except ValueError as error:
            print(cut(str(error), 300), file=sys.stderr)
            return 2
        rows = comparison.rows(cases)
    for line in comparison.apart:
        print(cut(line, 200), file=sys.stderr)
    if not rows:
        print("No case could be compared.", file=sys.stderr)
        return 2
    print(report(rows, show=options.show))
    return 0


if __name__ == "__main__":
    sys.exit(main())
