"""The lines by which llama.cpp, and programs around it, say how a model is loaded.

`Stated` is what they said so far; `take` hands it a line. Whatever is said is held against bounds
first: a log may be anybody's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from re import Match

from tuner.memory.cache_types import CACHE_TYPES
from tuner.settings import MAX_CONTEXT, MAX_UBATCH
from tuner.units import MIB

_MOST_LAYERS = 4096
_MOST_SLOTS = 1 << 16
_MOST_DEVICES = 64
_MOST_DIGITS = 12
_MOST_NAME = 80  # characters of a device's or a model's


@dataclass(slots=True)
class Stated:
    """What a log said of a load; None, 0 or empty: nothing."""

    architecture: str = ""
    name: str = ""  # general.name
    n_layer: int | None = None
    n_vocab: int | None = None
    build: int | None = None  # llama.cpp's number
    gpus: dict[str, str] = field(default_factory=dict)  # the engine's names, and the cards'
    free: dict[str, int] = field(default_factory=dict)  # bytes
    offloaded: int | None = None  # slots on GPUs: layers, and the output
    n_items: int | None = None  # of so many
    layers: dict[int, str] = field(default_factory=dict)  # the device of each
    experts_on_host: set[int] = field(default_factory=set)  # layers of which an override says so

    n_ctx: int | None = None
    n_ctx_seq: int | None = None
    n_ubatch: int | None = None
    n_seq_max: int | None = None
    n_outputs_max: int | None = None
    flash_attn: str | None = None  # "on", "off" or "auto"
    type_k: str | None = None
    type_v: str | None = None
    cells: int | None = None  # of the largest cache
    n_stream: int = 1  # caches beside each other, one per slot
    n_states: int = 1  # states of a recurrent layer
    copies: int | None = None  # of a graph's inputs, under pipeline parallelism


def take(line: str, stated: Stated) -> None:
    """Adds what a line says, if it says anything."""
    for mark, pattern, add in _LINES:
        if mark in line:
            for found in pattern.finditer(line):
                add(stated, found)


def begins_context(line: str) -> bool:
    """Whether a line is one of the first of a context."""
    return _BEGINS.search(line) is not None


def begins_model(line: str) -> bool:
    """Whether a line is the first about a file that is loaded, or about the devices before."""
    return "loaded meta data with" in line or _BEFORE.search(line) is not None


def is_of_model(line: str) -> bool:
    """Whether a line is about a model rather than a context."""
    return any(speaker in line for speaker in ("load_tensors: ", "print_info: ", "print_meta: "))


def build_in(line: str) -> int | None:
    """llama.cpp's number, which a program says of itself as it starts."""
    found = _BUILD.search(line) if "build" in line or "version: " in line else None
    return int(found[1] or found[2]) if found else None


# ------------------------------------------------------------------ what lines look like

_CONTEXT = r"(?:llama_context|llama_init_from_model|llama_new_context_with_model)"
_BEGINS = re.compile(rf"constructing llama_context|{_CONTEXT}: (?:n_seq_max|n_ctx) +=")
_BUILD = re.compile(r"\bbuild(?:_info)?:? ?=? ?b?(\d{3,6})\b|\bversion: (\d{3,6}) \(")
_BEFORE = re.compile(r'msg="starting (?:llama[ -]?server|runner|llama runner)"')
_FLASH = {"enabled": "on", "1": "on", "true": "on", "auto": "auto", "-1": "auto"}
_NUMBERS = {
    "n_ctx": MAX_CONTEXT,
    "n_ctx_seq": MAX_CONTEXT,
    "n_ctx_per_seq": MAX_CONTEXT,
    "n_ubatch": MAX_UBATCH,
    "n_seq_max": _MOST_SLOTS,
    "n_outputs_max": MAX_CONTEXT,
}


def _number(text: str, most: int) -> int | None:
    """A whole number from 1 to `most`."""
    value = int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else 0
    return value if 1 <= value <= most else None


def _of_context(stated: Stated, found: Match[str]) -> None:
    name, value = found.groups()
    if name == "flash_attn":
        stated.flash_attn = _FLASH.get(value.lower(), "off")
    elif (number := _number(value, _NUMBERS[name])) is not None:
        setattr(stated, "n_ctx_seq" if name == "n_ctx_per_seq" else name, number)


def _of_model(stated: Stated, found: Match[str]) -> None:
    name, value = found[1], found[2].strip()
    if name == "arch":
        stated.architecture = value[:_MOST_NAME]
    elif name == "general.name":
        stated.name = value[:_MOST_NAME]
    elif name == "n_layer":
        stated.n_layer = _number(value, _MOST_LAYERS)
    else:
        stated.n_vocab = _number(value, MAX_CONTEXT)


def _flash_found(stated: Stated, found: Match[str]) -> None:
    stated.flash_attn = _FLASH.get(found[1], "off")


def _types(stated: Stated, found: Match[str]) -> None:
    k, v = (x.lower() for x in found.groups())
    if k in CACHE_TYPES and v in CACHE_TYPES:
        stated.type_k, stated.type_v = k, v


def _cells(stated: Stated, found: Match[str]) -> None:
    cells, streams = _number(found[1], MAX_CONTEXT), _number(found[2] or "1", _MOST_SLOTS)
    if cells and streams and cells >= (stated.cells or 0):
        stated.cells, stated.n_stream = cells, streams


def _states(stated: Stated, found: Match[str]) -> None:
    cells, kept = _number(found[1], _MOST_SLOTS), int(found[2] or 0)
    if cells and kept < _MOST_SLOTS:
        stated.n_states = cells * (1 + kept)


def _offloaded(stated: Stated, found: Match[str]) -> None:
    stated.offloaded = min(int(found[1]), _MOST_LAYERS)
    stated.n_items = _number(found[2], _MOST_LAYERS)


def _assigned(stated: Stated, found: Match[str]) -> None:
    layer = int(found[1])
    if layer < _MOST_LAYERS:
        stated.layers[layer] = found[2]


def _overridden(stated: Stated, found: Match[str]) -> None:
    if found[2] == "CPU" or found[2].endswith("_Host"):
        stated.experts_on_host.add(min(int(found[1]), _MOST_LAYERS))


def _gpu(stated: Stated, found: Match[str]) -> None:
    if len(stated.gpus) < _MOST_DEVICES:
        stated.gpus[found[1]] = found[2][:_MOST_NAME]
        if found[3]:
            stated.free[found[1]] = int(found[3]) * MIB


def _copies(stated: Stated, found: Match[str]) -> None:
    stated.copies = int(found[1])


def _slog_load(stated: Stated, found: Match[str]) -> None:
    """ollama's own engine: what it was asked for."""
    name, value = found.groups()
    if name == "KvSize":
        stated.n_ctx = _number(value, MAX_CONTEXT)
    elif name == "BatchSize":
        stated.n_ubatch = _number(value, MAX_UBATCH)
    elif name == "Parallel":
        stated.n_seq_max = _number(value, _MOST_SLOTS)
    elif name == "FlashAttention":
        stated.flash_attn = _FLASH.get(value.lower(), "off")
    elif name == "GPULayers":
        stated.offloaded = min(int(value), _MOST_LAYERS) if value.isdecimal() else None
    elif value.lower() in CACHE_TYPES:
        stated.type_k = stated.type_v = value.lower()


# (words that such a line has, the line, what it adds)
_LINES: tuple[tuple[str, re.Pattern[str], Callable[[Stated, Match[str]], None]], ...] = (
    (
        "=",
        re.compile(
            rf"{_CONTEXT}: (n_ctx|n_ctx_seq|n_ctx_per_seq|n_ubatch|n_seq_max|n_outputs_max|"
            r"flash_attn) += (\S{1,20})"
        ),
        _of_context,
    ),
    (
        "print_",
        re.compile(r"print_(?:info|meta): (arch|n_layer|n_vocab|general\.name) *= (.{1,200})"),
        _of_model,
    ),
    (
        "lash",
        re.compile(
            r"Flash Attention (?:was auto|not supported)?,? ?(?:set to )?(enabled|disabled)"
        ),
        _flash_found,
    ),
    ("K (", re.compile(r"K \((\w{1,16})\): +[\d.]+ MiB, +V \((\w{1,16})\)"), _types),
    (
        "type_k",
        re.compile(r"type_k = '(\w{1,16})', type_v = '(\w{1,16})'"),
        _types,
    ),
    (
        "cells",
        re.compile(
            r"kv_cache\w*: +size = +[\d.]+ MiB \( *(\d{1,9}) cells, +\d+ layers, "
            r"+\d+(?:/(\d{1,5}))?"
        ),
        _cells,
    ),
    (
        "seqs",
        re.compile(
            r"llama_memory_recurrent: +size = +[\d.]+ MiB \( *(\d{1,5}) cells, +\d+ layers, "
            r"+\d+ seqs(?: +(\d{1,5}) rs_seq)?"
        ),
        _states,
    ),
    ("offloaded", re.compile(r"offloaded (\d{1,4})/(\d{1,4}) layers to GPU"), _offloaded),
    (
        "assigned to",
        re.compile(r"layer +(\d{1,4}) assigned to device (\S{1,80}?)(?:,|$| )"),
        _assigned,
    ),
    (
        "verrid",
        re.compile(
            r"[Tt]ensor blk\.(\d{1,4})\.ffn_\w*exps?\.\S* .*buffer type overridd?en to (\S{1,80})"
        ),
        _overridden,
    ),
    (
        "using device",
        re.compile(r"using device (\S{1,80}) \((.{0,200}?)\)(?: \([^)]*\))? - (\d{1,9}) MiB free"),
        _gpu,
    ),
    ("sched copies", re.compile(r"sched copies = (\d{1,3})"), _copies),
    (
        "KvSize",
        re.compile(
            r"\b(KvSize|BatchSize|Parallel|FlashAttention|KvCacheType|GPULayers):(\w{1,16})"
        ),
        _slog_load,
    ),
)
