"""Holds predicted tokens/s against what people measured.

    python -m bench.speed_accuracy POINTS.json HEADERS [--cards] [--all]

POINTS is a list of measurements: model, card and host with their data sheets' figures, layers and
experts offloaded, depth, n_ubatch, tokens/s of decoding and of prompts. HEADERS is a folder with
the models' headers as MODEL.gguf (sparse files). `--cards` takes each card's figures from the table
of cards by its name, as `--gpu NAME` does, instead of the point's own. Per class: how many are
within 20 % (prompts: 25 %), the geometric mean of predicted over measured, and the spread; then the
rows that are off, or with `--all` every row.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from tuner.gguf.header import read_header
from tuner.machine import cards, estimates, nvidia
from tuner.machine.machine import Device, Machine
from tuner.model.model import Model, describe
from tuner.planning.speed import Offload, SpeedModel
from tuner.units import GIB

DECODE_WITHIN, PROMPT_WITHIN = 0.20, 0.25
_PLENTY = 1024 * GIB  # of memory: what fits is not the question here
# FLOP per compute unit and clock, dense f16: Apple's SIMD groups, RDNA3's WMMA
_FLOPS_PER_CLOCK = {"Metal": 256, "ROCm": 512}


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement beside its prediction, in tokens/s."""

    kind: str  # "decode" or "prompt"
    group: str
    name: str
    measured: float
    predicted: float

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured

    @property
    def right(self) -> bool:
        within = DECODE_WITHIN if self.kind == "decode" else PROMPT_WITHIN
        return abs(self.ratio - 1) < within


def device(card: dict[str, Any], index: int, *, by_name: bool) -> Device:
    """A GPU with the figures of a point's card."""
    gpu = Device(
        id=f"GPU{index}",
        kind="gpu",
        backend=card["backend"],
        name=card["name"],
        total=_PLENTY,
        free=_PLENTY,
        reserve=0,
        unified=card["backend"] == "Metal",
    )
    row = cards.row_of(card["name"]) if by_name else None
    if row:
        return estimates.by_row(gpu, row)
    capability = tuple(card["compute_capability"] or ()) or None
    clock = card["max_clock_ghz"] * 1e9
    if capability:
        flops = nvidia.peak_flops(card["sms"], clock, capability)
    else:
        flops = card["sms"] * clock * _FLOPS_PER_CLOCK.get(card["backend"], 0)
    return replace(
        gpu,
        bandwidth=card["bandwidth_gb_s"] * 1e9,
        n_sm=card["sms"] if capability else 0,
        clock=clock if capability else 0.0,
        compute_capability=capability,
        flops=flops,
        pcie_bandwidth=card["pcie_gb_s"] * 1e9,
    )


def machine(point: dict[str, Any], *, by_name: bool) -> Machine:
    """The machine of a point; a host of which nothing is said matters to none of its layers."""
    card, host = point.get("card"), point.get("host") or {}
    gpus = tuple(device(card, i, by_name=by_name) for i in range(card["count"])) if card else ()
    memory = Device(
        "host", "host", "CPU", host.get("name", "host"), _PLENTY, _PLENTY, 0,
        bandwidth=host.get("ram_bandwidth_gb_s", 50) * 1e9, bandwidth_source="stated",
    )  # fmt: skip
    return Machine(gpus, memory, physical_cores=host.get("cores", 8))


def rows(points: list[dict[str, Any]], headers: Path, *, by_name: bool) -> Iterator[Row]:
    """Every measurement with its prediction."""

    @cache
    def model(name: str) -> Model:
        return describe(read_header(headers / f"{name}.gguf"))

    for point in points:
        its, where = model(point["model"]), machine(point, by_name=by_name)
        speed, n_gpus = SpeedModel(its, where), len(where.gpus)
        layers = min(point["ngl"], its.n_items) if n_gpus else 0
        counts = tuple(layers // n_gpus + (i < layers % n_gpus) for i in range(n_gpus))
        offload = Offload(layers, point["ncmoe"], counts)
        on = (point.get("card") or point["host"])["name"]
        name = f"{its.path.stem} on {on}{f' x{n_gpus}' if n_gpus > 1 else ''}"
        name += f", {point['depth']:,} deep, n_ubatch {point['ub']}"
        if "tokens_per_second" in point:
            told = 1 / speed.decode_seconds(offload, point["depth"])
            yield Row("decode", point["cls"], name, point["tokens_per_second"], told)
        if "prompt_tokens_per_second" in point:
            # what is measured is a prompt from its first token on, behind what is there already
            before = point["depth"] if point["cls"] == "depth" else 0
            depth = before + point["ppt"] // 2
            told = 1 / speed.prompt_seconds(offload, point["ub"], depth)
            yield Row("prompt", point["cls"], name, point["prompt_tokens_per_second"], told)


def summary(kind: str, group: str, found: list[Row]) -> str:
    """One line of the table."""
    off = [math.log(row.ratio) for row in found]
    right = sum(row.right for row in found)
    return (
        f"{kind:<8}{group:<10}{len(found):>5}{right / len(found):>9.0%}"
        f"{math.exp(fmean(off)):>10.2f}{f'x{math.exp(pstdev(off)):.2f}':>9}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("points", type=Path)
    parser.add_argument("headers", type=Path)
    parser.add_argument("--cards", action="store_true", help="figures of cards from the table")
    parser.add_argument("--all", action="store_true", help="every row, not only what is off")
    args = parser.parse_args()
    found = list(rows(json.loads(args.points.read_text()), args.headers, by_name=args.cards))
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in found:
        groups[row.kind, row.group].append(row)
        groups[row.kind, "all"].append(row)
    print(f"{'':<8}{'class':<10}{'n':>5}{'within':>9}{'mean':>10}{'spread':>9}")
    for kind in ("decode", "prompt"):
        for (its, group), members in groups.items():
            if its == kind and group != "all":
                print(summary(kind, group, members))
        if (kind, "all") in groups:
            print(summary(kind, "all", groups[kind, "all"]))
    print(f"\n{'':<8}{'predicted':>10}{'measured':>10}{'ratio':>7}")
    for row in found:
        if args.all or not row.right:
            figures = f"{row.predicted:>10.1f}{row.measured:>10.1f}{row.ratio:>7.2f}"
            print(f"{row.kind:<8}{figures}  {row.name}")


if __name__ == "__main__":
    main()
