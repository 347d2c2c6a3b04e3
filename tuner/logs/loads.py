"""A log's lines, put together load by load.

A load is one file's: from the line that names its devices or its metadata to the next such line.
Of its contexts the first counts; further ones are a draft's, or the same one made anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tuner.logs.buffers import REPLACED, buffer_in
from tuner.logs.stated import Stated, begins_context, begins_model, build_in, is_of_model, take
from tuner.memory.footprint import Buffer
from tuner.units import GIB, KIB, MIB

MOST_LOADS = 100
_MOST_BUFFERS = 1000  # lines of one load


@dataclass(frozen=True, slots=True)
class LoggedSize:
    """What a log says one device took of one kind, in bytes, give or take `step`. A table has a
    "context" where lines have kv_cache and recurrent_state."""

    device: str  # the engine's name for it, or for its buffer
    kind: str
    size: int
    step: int


@dataclass(frozen=True, slots=True)
class LoggedLoad:
    """One load of a log."""

    line: int  # of the log, where it begins
    stated: Stated
    sizes: tuple[LoggedSize, ...]
    further_contexts: bool = False  # of the same model, left out
    from_table: bool = False  # llama.cpp's table of whole MiB is all that there is

    @property
    def kinds(self) -> frozenset[str]:
        """What the log says anything of."""
        return frozenset(size.kind for size in self.sizes)

    @property
    def dry(self) -> bool:
        """Nothing was allocated: llama.cpp counts weights as 0 where it only tries settings."""
        weights = [s.size for s in self.sizes if s.kind == "weights"]
        return bool(weights) and not any(weights)


class _Load:
    """One in the making."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.stated = Stated()
        self.has_metadata = False
        self.further = False
        self._sizes: dict[tuple[str, str], LoggedSize] = {}
        self._lines = 0
        self._slog_whole = False  # its sizes have been summed up: what follows is another try

    def has(self, *kinds: str) -> bool:
        """Whether there are buffers of one of these kinds, or without a kind any."""
        return any(not kinds or kind in kinds for _, kind in self._sizes)

    def add(self, buffer: Buffer, step: int = MIB // 100) -> None:
        self._lines += 1
        key = (buffer.device, buffer.kind)
        before = None if buffer.kind in REPLACED else self._sizes.get(key)
        size = buffer.size + (before.size if before else 0)
        if self._lines <= _MOST_BUFFERS:
            self._sizes[key] = LoggedSize(*key, size, step)

    def add_slog(self, buffer: Buffer, step: int) -> None:
        if self._slog_whole:
            self._sizes.clear()
            self._slog_whole = False
        self.add(buffer, step)

    def end_slog(self) -> None:
        self._slog_whole = True

    def finished(self) -> LoggedLoad:
        sizes = tuple(s for s in self._sizes.values() if s.kind != "output")
        return LoggedLoad(self.line, self.stated, sizes, self.further)


class LoadReader:
    """Takes a log line by line."""

    def __init__(self) -> None:
        self._load = _Load(0)
        self._found: list[LoggedLoad] = []
        self._table: _Load | None = None
        self._build: int | None = None  # of the program that speaks

    @property
    def full(self) -> bool:
        """There are as many loads as are looked at."""
        return len(self._found) >= MOST_LOADS

    def feed(self, number: int, line: str) -> None:
        """The line of this number, without its end."""
        load = self._load
        begins = begins_model(line)
        if begins or " using device " in line:
            load = self._next(number) if load.has_metadata or load.has() else load
            load.has_metadata = load.has_metadata or begins
            load.line = load.line or number
        elif load.has(*_OF_CONTEXT) and is_of_model(line):
            load = self._next(number)
        if begins_context(line) and load.has(*_OF_CONTEXT):
            load.further = True
        self._breakdown(number, line)
        self._build = build_in(line) or self._build
        if not load.has():
            load.stated.build = self._build
        buffer = buffer_in(line)
        if buffer is not None:
            load.line = load.line or number
        if buffer is None:
            if not load.further:
                take(line, load.stated)
                self._slog(number, line)
        elif buffer.kind == "weights":
            load.add(buffer)
        elif not load.further:
            if buffer.kind in ("kv_cache", "recurrent_state") and load.has("compute"):
                load.further = True
            else:
                load.add(buffer)

    def _next(self, number: int) -> _Load:
        """What was read of a load is whole; another begins."""
        if self._load.has():
            self._found.append(self._load.finished())
        self._load = _Load(number)
        self._load.stated.build = self._build
        return self._load

    def loads(self) -> list[LoggedLoad]:
        """All of them. Where llama.cpp only tried settings before, those are left out, and its
        table of memory counts where there is nothing else."""
        last = self._load.stated
        self._next(0)
        found = [load for load in self._found if load.sizes]
        real = [load for load in found if not load.dry]
        if not found and self._table is not None:
            return [replace(self._table.finished(), stated=last, from_table=True)]
        return real or found[-1:]

    def _slog(self, number: int, line: str) -> None:
        if 'msg="total memory"' in line:
            self._load.end_slog()
        found = _SLOG.search(line)
        if found:
            kind, device, size, unit = found.groups()
            step = max(1, _UNITS[unit] // 10)
            size = round(float(size) * _UNITS[unit])
            self._load.line = self._load.line or number
            self._load.add_slog(Buffer(device, _SLOG_KINDS[kind], size), step)

    def _breakdown(self, number: int, line: str) -> None:
        if "memory breakdown" in line:
            self._table = _Load(number)
        found = _TABLE.search(line)
        if found is None or self._table is None:
            return
        device, _, *sizes = found.groups()
        for kind, size in zip(("weights", "context", "compute"), sizes, strict=True):
            self._table.add(Buffer(device, kind, int(size) * MIB), MIB)


def loads_in(lines: Iterable[str]) -> list[LoggedLoad]:
    """The loads that these lines tell of."""
    reader = LoadReader()
    for number, line in enumerate(lines, 1):
        reader.feed(number, line)
    return reader.loads()


_OF_CONTEXT = ("kv_cache", "recurrent_state", "compute")
_UNITS = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}
_SLOG = re.compile(
    r'msg="(model weights|kv cache|compute graph)" (?:device|buffer)=(\S{1,80}) '
    r'size="(\d{1,9}(?:\.\d{1,3})?) (B|KiB|MiB|GiB)"'
)
_SLOG_KINDS = {
    "model weights": "weights", "kv cache": "kv_cache", "compute graph": "compute"
}  # fmt: skip
_TABLE = re.compile(
    r"-\s(\S{1,80})(?: \((.{0,200}?)\))? *[|:] *(?:\d{1,12} = +\d{1,12} \+ \( *)?\d{1,9} = +"
    r"(\d{1,9}) \+ +(\d{1,9}) \+ +(\d{1,9})"
)
