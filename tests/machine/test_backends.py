"""The table of backends: each row can be told apart, and rules follow the row, not a number."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tuner.gguf.types import GGML_TYPES
from tuner.machine.backends import BACKENDS, Backend, BufferLayout, backend, of_engine, row_padding
from tuner.units import MIB

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


def test_newer_cards_have_a_larger_context() -> None:
    sizes = [backend("CUDA").overhead(c) for c in ((6, 1), (7, 0), (8, 9), (9, 0), (12, 0))]
    assert sizes == [200 * MIB, 400 * MIB, 400 * MIB, 600 * MIB, 600 * MIB]
    assert backend("CUDA").overhead(None) == 400 * MIB
    assert (backend("RPC").overhead(None), backend("Vulkan").overhead(None)) == (0, 128 * MIB)


def test_rocm_and_musa_are_cuda_but_for_their_names_and_their_driver() -> None:
    cuda = BACKENDS["CUDA"]
    for name in ("ROCm", "MUSA"):
        row = BACKENDS[name]
        assert row == replace(
            cuda, name=row.name, engine_name=row.engine_name, library=row.library,
            cmake=row.cmake, overheads=row.overheads, seconds_per_tensor=row.seconds_per_tensor,
        )  # fmt: skip
