"""What the engine's log lines mean: buffer sizes, and why something failed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from tuner.logs.buffers import buffer_in, summed
from tuner.machine.rpc import names_server
from tuner.memory.footprint import Buffer

# How memory that ran out is told: by ggml (ggml.c, ggml-alloc.c, ggml-backend.cpp, also as failed
# assertions), the drivers, OpenBLAS, libgomp, the C++ and Python runtimes, the loader of libraries,
# and errno. A thread that cannot be started lacks room for its stack.
_MEMORY = re.compile(
    r"out of (host |device |gpu )?memory|out_?of_?(host|device|pool)?_?memory|memoryerror|"
    r"bad_alloc|insufficient memory|(failed|unable) to (allocate|reserve)|cannot allocate|"
    r"can't allocate|(malloc|alloc) failed|not enough memory|"
    r"memory allocation.{0,40} fail|memoryallocation|alloc_failed|too many memory regions|"
    r"ggml_assert\((ctx->mem_buffer|galloc\S*|\w*buf\w*) != null|"
    r"failed to map segment|cannot map zero-fill|(pthread_create|thread creation) failed|"
    r"can't start new thread|allocation error",
    re.IGNORECASE,
)
# And where a death has no such line: of several, the last one said.
_FATAL = re.compile(r"GGML_ASSERT|GGML_ABORT|CUDA error|ROCm error|error:", re.IGNORECASE)
_REFUSED = re.compile(
    r"does not support|requires flash_attn|does not divide|unknown model architecture|"
    r"invalid value for main_gpu|requires flash",
    re.IGNORECASE,
)
# Said after the reason, and saying nothing of it.
_UNINFORMATIVE = re.compile(
    r"failed to load model( from|$)|failed to decode, ret|removing memory module entries"
)
_PREFIX = re.compile(r"^[\w:~]+: ")  # the C++ function that speaks


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the engine failed: a kind of EngineError, or "" for the caller's own, and its words."""

    kind: str
    text: str


def parse_buffers(lines: Iterable[str]) -> tuple[Buffer, ...]:
    """The buffers that a load reported, in order, one for each device and kind."""
    return summed(buffer for buffer in map(buffer_in, lines) if buffer)


def failure_reason(lines: Iterable[str]) -> Reason:
    """The line that says why, out of the warnings and errors of a failed call. The first one
    about memory wins, then a refusal, then the last line that says anything."""
    stripped = (line.strip() for line in lines)
    said = [line for line in stripped if line and not _UNINFORMATIVE.search(line)]
    for pattern, kind in ((_MEMORY, "out_of_memory"), (_REFUSED, "refused")):
        for line in said:
            if pattern.search(line):
                return Reason(kind, _plain(line))
    return Reason("", _plain(said[-1]) if said else "")


def last_words(lines: Iterable[str]) -> str:
    """Of the lines before a death the last that names a lost RPC server, which ends a process
    whatever it survived before; else the first that is about memory, else the last that names a
    fatal error, else ""."""
    said = [line.strip()[:300] for line in lines]
    lost = (line for line in reversed(said) if names_server(line))
    for_memory = (line for line in said if names_memory(line))
    fatal = (line for line in reversed(said) if _FATAL.search(line))
    return next(itertools.chain(lost, for_memory, fatal), "")


def names_memory(text: str) -> bool:
    """Whether a line of the engine's is about running out of memory."""
    return _MEMORY.search(text) is not None


def _plain(line: str) -> str:
    """Without the C++ function names in front."""
    previous = ""
    while line != previous:
        previous, line = line, _PREFIX.sub("", line, count=1)
    return line.removesuffix(".")
