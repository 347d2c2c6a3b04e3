"""Loads of another program's log beside what kvchat predicts of them: for people, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tuner.logs.compared import Compared, Figure, label
from tuner.machine.machine import Device
from tuner.model.model import Model
from tuner.profiles.actual import off_by
from tuner.report.table import Column, Row, Style, table, wrapped
from tuner.report.text import WIDTH, model_line
from tuner.safe_text import cut, one_line
from tuner.units import MIB, count_text

SCHEMA = 1

_COLUMNS = (
    Column("", 8, right=False, gap=0),
    Column("", 15, right=False),
    Column("predicted", 13, gap=2),
    Column("logged", 13, gap=2),
    Column("off by", 7, gap=2),
)


# ---------------------------------------------------------------- for people


def compared_text(
    model: Model, loads: Sequence[Compared], *, width: int = WIDTH, color: bool = False
) -> str:
    """A table for each load, at most `width` columns wide."""
    style = Style(color)
    lines = wrapped(model_line(model), width, "", style.head)
    for number, load in enumerate(loads, 1):
        lines += ["", *wrapped(_heading(number, len(loads), load), width, "")]
        if load.figures:
            rows = [_row(figure) for figure in load.figures]
            lines += table(_COLUMNS, rows, width, style, "  ")
        if load.assumed:
            what = "; ".join(load.assumed)
            lines += wrapped(f"Assumed, since the log does not say it: {what}.", width, "")
        for note in filter(None, (*load.notes, load.problem)):
            lines += wrapped(note, width, "! ", lambda line: style(line, "33"))
    return "\n".join(lines) + "\n"


def _heading(number: int, n_loads: int, compared: Compared) -> str:
    """How a load was done, in one sentence."""
    load, s = compared.load, compared.settings
    what = f"Load {number} of {n_loads}, line" if n_loads > 1 else "Logged in line"
    parts: list[str] = []
    gpus = compared.machine.gpus if compared.machine is not None else ()
    parts += [_named(gpu) for gpu in gpus]
    if s is not None:
        parts += [f"{s.n_ctx:,} tokens", f"K {s.type_k}, V {s.type_v}"]
        if gpus:
            parts.append(f"{count_text(s.n_gpu_layers, 'layer')} on GPUs")
        if s.n_cpu_moe:
            parts.append(f"experts of {count_text(s.n_cpu_moe, 'layer')} in RAM")
        if compared.n_slots > 1:
            parts.append(f"{compared.n_slots} slots")
        parts += [f"n_ubatch {s.n_ubatch}", f"{count_text(compared.n_outputs, 'row')} of logits"]
    if load.stated.build is not None:
        parts.append(f"build {load.stated.build}")
    return ": ".join([f"{what} {load.line:,}", ", ".join(parts)]).removesuffix(": ")


def _named(gpu: Device) -> str:
    known = gpu.name or (gpu.engine_name if label(gpu) != gpu.engine_name else "")
    return f"{cut(label(gpu))}{known and f' ({cut(known)})'}"


def _row(figure: Figure) -> Row:
    logged = "-" if figure.logged is None else _mib(figure.logged)
    return Row((cut(figure.device), figure.kind.replace("_", " "), _mib(figure.predicted), logged,
                _off(figure)))  # fmt: skip


def _off(figure: Figure) -> str:
    if figure.logged is None:
        return ""
    if figure.exact:
        return "exact"
    return f"{off_by(figure.predicted, figure.logged):+.1%}" if figure.logged else "-"


def _mib(size: int) -> str:
    return f"{size / MIB:,.2f} MiB"


# ---------------------------------------------------------------- for programs


def compared_keys() -> tuple[tuple[str, str], ...]:
    """What the JSON says: (key, meaning), in its order."""
    return (
        ("schema", f"{SCHEMA}"),
        ("path", "of the model"),
        ("log", "its path"),
        ("loads[].line", "where it begins"),
        ("loads[].build", "llama.cpp's number, or null"),
        ("loads[].problem", 'why it is not compared, a sentence; "": it is'),
        ("loads[].settings", "as in a report, or null"),
        ("loads[].n_slots", "conversations at once"),
        ("loads[].n_outputs", "rows of logits that a graph has room for"),
        ("loads[].assumed[]", "what the log does not say, in words"),
        ("loads[].notes[]", "sentences"),
        (
            "loads[].figures[]",
            "`device` (as the log calls it), `kind` (as in a footprint; `context` where only "
            "llama.cpp's table is there), `predicted`, `logged` (bytes, or null), `exact` (as far "
            "as the log's digits tell)",
        ),
    )


def compared_json(model: Model, log: Path, loads: Sequence[Compared]) -> dict[str, Any]:
    """All loads of one log. Sizes in bytes."""
    return {
        "schema": SCHEMA,
        "path": str(model.path),
        "log": str(log),
        "loads": [_load_json(load) for load in loads],
    }


def _load_json(compared: Compared) -> dict[str, Any]:
    settings = compared.settings
    return {
        "line": compared.load.line,
        "build": compared.load.stated.build,
        "problem": compared.problem,
        "settings": None if settings is None else asdict(settings),
        "n_slots": compared.n_slots,
        "n_outputs": compared.n_outputs,
        "assumed": list(compared.assumed),
        "notes": list(compared.notes),
        "figures": [
            {
                "device": one_line(figure.device),
                "kind": figure.kind,
                "predicted": figure.predicted,
                "logged": figure.logged,
                "exact": figure.exact,
            }
            for figure in compared.figures
        ],
    }
