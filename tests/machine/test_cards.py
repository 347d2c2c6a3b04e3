"""The table of cards: sound, and found however a name is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.machine import cards, estimates
from tuner.machine.backends import BACKENDS
from tuner.machine.cards import CardRow, nearest, row_of, rows
from tuner.units import GIB

BRANDS = {
    "CUDA": "NVIDIA ",
    "Vulkan": "AMD Radeon(TM) ",
    "ROCm": "AMD Instinct ",
    "Metal": "Apple ",
}


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.name}-{row.memory[0] // GIB}")
def test_a_row_is_sound(row: CardRow) -> None:
    """Figures in the units that the tuner counts in, none of them missing that a plan needs."""
    assert row.backend in BACKENDS
    assert all(GIB <= size <= 1024 * GIB for size in row.memory)
    assert 60e9 < row.bandwidth < 10e12
    assert 1e12 < estimates.peak_flops(row) < 3e15
    assert row.unified == (row.backend == "Metal" or row.pcie is None or row.ram_share > 0)
    if row.backend == "CUDA":
        assert row.capability is not None
        assert row.capability >= (6, 0)
        assert 1 < row.n_sm < 200
        assert 0.5e9 < row.clock < 4e9
    else:
        assert (row.capability, row.n_sm) == (None, 0)


@given(row=st.sampled_from(rows()), size=st.integers(0, 6), data=st.data())
def test_every_row_is_found_by_its_name(row: CardRow, size: int, data: st.DataObject) -> None:
    """In any case and spacing, with its maker's words or without, by its memory."""
    name = data.draw(st.sampled_from((row.name, *row.aliases)))
    letters = [data.draw(st.sampled_from((c.lower(), c.upper()))) for c in name]
    spaced = "".join(data.draw(st.sampled_from(("", " ", "-"))) if c == " " else c for c in letters)
    brand = data.draw(st.sampled_from(("", BRANDS[row.backend])))
    found = row_of(brand + spaced, row.memory[size % len(row.memory)])
    assert found is not None
    assert found == row or name in found.aliases, "an alias may be that of several"


def test_no_name_is_that_of_two_cards_that_differ_in_more_than_memory() -> None:
    for name in {row.name for row in rows()}:
        same = [row for row in rows() if row.name == name]
        sizes = [size for row in same for size in row.memory]
        assert len(sizes) == len(set(sizes)), name
        assert {row_of(name, size) for size in sizes} == set(same)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("4060ti", "RTX 4060 Ti"),
        ("rtx4060ti", "RTX 4060 Ti"),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", "RTX 4060 Laptop"),
        ("RTX 4060 mobile", "RTX 4060 Laptop"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 Blackwell"),
        ("Tesla V100-SXM2-16GB", "V100 SXM2"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA A100-SXM4-40GB", "A100 SXM4"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe"),
        ("NVIDIA GB10", "GB10"),
        ("AMD Radeon RX 7900 XT (RADV NAVI31)", "RX 7900 XT"),
        ("Radeon 8060S Graphics (RADV GFX1151)", "Ryzen AI Max 395"),
        ("AMD RYZEN AI MAX+ 395 w/ Radeon 8060S", "Ryzen AI Max 395"),
        ("Intel(R) Arc(TM) A770 Graphics (DG2)", "Arc A770"),
        ("Apple M2 Max", "M2 Max"),
        ("3060 12GB", "RTX 3060"),
    ],
)
def test_names_as_people_and_drivers_write_them(name: str, found: str) -> None:
    row = row_of(name)
    assert row is not None
    assert row.name == found


@pytest.mark.parametrize(
    "name",
    ["", " ", "GPU", "NVIDIA", "AMD Radeon Graphics", "Intel(R) Xeon(R) Processor", "RTX",
     "RTX 3095", "llvmpipe (LLVM 17.0.6, 256 bits)", "NVIDIA H100 MIG 3g.40gb"],
)  # fmt: skip
def test_a_name_of_no_card_is_none(name: str) -> None:
    assert row_of(name) is None


def test_memory_tells_cards_of_one_name_apart() -> None:
    usual, small = row_of("RTX 3060"), row_of("RTX 3060", 8 * GIB)
    assert usual is not None
    assert small is not None
    assert (usual.bandwidth, small.bandwidth) == (360e9, 240e9)
    assert row_of("RTX 3060", 9 * GIB) == small, "the nearest"
    assert cards.sizes(small) == (8 * GIB, 12 * GIB)
    assert cards.size_in("RTX 3060 8GB") == cards.size_in("rtx3060-8 GiB") == 8 * GIB
    assert cards.size_in("RTX 3060") is None


@given(st.text())
def test_any_text_has_nearest_names_that_are_found(text: str) -> None:
    found = nearest(text)
    assert 1 <= len(found) <= 3
    assert all(row_of(name) for name in found)


def test_the_nearest_names_are_near() -> None:
    assert nearest("RTX 3095")[0] in {"RTX 3090", "RTX 3050"}
    assert "RX 7900 XTX" in nearest("RX 7900 XTXX")
    assert "RTX 6000 Ada" in nearest("RTX 6000")


@pytest.mark.parametrize(
    ("gib", "expected"),
    [(1, 160e9), (4, 160e9), (8, 270e9), (11, 700e9), (24, 940e9), (40, 1790e9), (200, 2000e9)],
)
def test_the_usual_bandwidth_of_a_size(gib: int, expected: float) -> None:
    assert estimates.usual_bandwidth(gib * GIB) == expected
