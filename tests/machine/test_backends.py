"""The table of backends: each row can be told apart, and rules follow the row, not a number."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tuner.gguf.types import GGML_TYPES
from tuner.machine.backends import BACKENDS, Backend, BufferLayout, backend, of_engine, row_padding
from tuner.machine.overheads import Card, Shown
from tuner.units import GIB, MIB

Q4_0 = next(number for number, kind in GGML_TYPES.items() if kind.name == "q4_0")
F16 = next(number for number, kind in GGML_TYPES.items() if kind.name == "f16")


def test_rows_are_told_apart_by_every_name() -> None:
    for names in (
        [row.name for row in BACKENDS.values()],
        [row.engine_name or row.name for row in BACKENDS.values()],
        [row.library for row in BACKENDS.values() if row.library],
        [row.cmake for row in BACKENDS.values() if row.cmake],
    ):
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("said", "name"),
    [("CUDA", "CUDA"), ("MTL", "Metal"), ("HIP", "ROCm"), ("ROCm", "ROCm"), ("RPC[a:1]", "RPC")],
)
def test_the_engines_names_find_their_row(said: str, name: str) -> None:
    assert of_engine(said) is BACKENDS[name]


def test_a_backend_of_which_nothing_is_known_is_plain() -> None:
    assert backend("of tomorrow") == of_engine("of tomorrow") == Backend("of tomorrow")
    assert not backend("of tomorrow").converts_cache("q4_0", "iq4_nl")
    assert not backend("of tomorrow").slow_prompts("q4_0", "iq4_nl")
    assert backend("of tomorrow").has_kernel_for_heads(33, 7, 3)


def test_rows_are_padded_where_the_row_says_so_whatever_the_alignment() -> None:
    for alignment in (32, 128, 256):
        assert row_padding(Q4_0, 256, BufferLayout(alignment, 512)) == 8 * 18
        assert row_padding(Q4_0, 256, BufferLayout(alignment)) == 0
    assert row_padding(Q4_0, 1024, BufferLayout(128, 512)) == 0
    assert row_padding(F16, 256, BufferLayout(128, 512)) == 0


@pytest.mark.parametrize(
    ("name", "card", "usual", "most"),
    [
        ("CUDA", Card("RTX 5090", (12, 0), 32 * GIB, 170), 650, 850),
        ("CUDA", Card("RTX PRO 6000", (12, 0), 96 * GIB, 188), 850, 1000),
        ("CUDA", Card("H100", (9, 0), 80 * GIB, 132), 850, 1000),  # as many multiprocessors,
        ("CUDA", Card("H100 MIG", (9, 0), 40 * GIB, 60), 650, 850),  # but for a part of one
        ("CUDA", Card("A100", (8, 0), 80 * GIB, 108), 650, 850),
        ("CUDA", Card("RTX 4090", (8, 9), 24 * GIB, 128), 480, 600),
        ("CUDA", Card("stated", total=24 * GIB), 480, 600),
        ("CUDA", Card("RTX 5060 Ti", (12, 0), 16 * GIB, 36), 430, 540),
        ("CUDA", Card("RTX 3060", (8, 6), 12 * GIB, 28), 430, 540),
        ("CUDA", Card("V100", (7, 0), 32 * GIB, 80), 350, 450),
        ("CUDA", Card("GTX 1080", (6, 1), 8 * GIB), 350, 450),
        ("ROCm", Card("AMD Radeon RX 7900 XT", total=20 * GIB), 385, 505),
        ("ROCm", Card("AMD Instinct MI300X", total=192 * GIB), 1024, 1500),
        ("Vulkan", Card("NVIDIA GeForce RTX 3090", total=24 * GIB), 256, 272),
        ("Vulkan", Card("AMD Radeon RX 9070 XT (RADV GFX1201)", total=16 * GIB), 384, 466),
        ("Metal", Card("Apple M5"), 128, 500),
        ("SYCL", Card("Intel Arc Pro B70", total=32 * GIB), 512, 2265),
        ("RPC", Card("10.0.0.1:50052", total=24 * GIB), 0, 0),
        ("of tomorrow", Card(), 128, 500),
    ],
)
def test_what_a_load_costs_beside_its_buffers_follows_from_the_card(
    name: str, card: Card, usual: int, most: int
) -> None:
    """Overhead and growth of a model without experts together, in MiB."""
    row = backend(name).card_class(card)
    grown = row.growth.of(512, experts=False)
    assert row.overhead.usual + grown.usual == usual * MIB
    assert row.overhead.most + grown.most == most * MIB


def test_growth_never_falls_as_micro_batches_grow_and_what_was_shown_counts() -> None:
    """Up to the largest micro-batch that was measured; beyond it no less than that."""
    assumed = backend("Vulkan").card_class(Card("NVIDIA")).growth
    shown = assumed.learned((Shown(512, 40 * MIB), Shown(1024, 900 * MIB)))
    batches = (1, 512, 513, 1024, 2048, 4096)
    for growth in (assumed, shown, assumed.learned((), 300 * MIB)):
        for experts in (False, True):
            found = [growth.of(n, experts=experts) for n in batches]
            assert found == sorted(found)
            assert all(spread.usual <= spread.most for spread in found)
    with_experts = [shown.of(n, experts=True).usual // MIB for n in batches]
    assert with_experts == [40, 40, 900, 900, 1872, 3744]
    assert [shown.source(n) for n in (1024, 1025)] == ["measured", "assumed"]
    assert (assumed.unknown_from(experts=True), shown.unknown_from(experts=True)) == (512, 1024)
    assert assumed.unknown_from(experts=False) is None
    assert backend("CUDA").card_class(Card()).growth.unknown_from(experts=True) is None


def test_rocm_and_musa_are_cuda_but_for_their_names_and_their_driver() -> None:
    cuda = BACKENDS["CUDA"]
    for name in ("ROCm", "MUSA"):
        row = BACKENDS[name]
        assert row == replace(
            cuda, name=row.name, engine_name=row.engine_name, library=row.library,
            cmake=row.cmake, cards=row.cards, seconds_per_tensor=row.seconds_per_tensor,
        )  # fmt: skip
