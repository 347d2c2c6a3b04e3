"""Which caches attention copies to f16 before it reads them, by backend, card and heads.

The expectations are read off `ggml_cuda_get_best_fattn_kernel` (ggml-cuda/fattn.cu) and its likes
case by case, not off the table.
"""

from __future__ import annotations

import pytest

from tuner.machine.backends import backend

PASCAL, VOLTA, TURING, AMPERE, ADA = (6, 1), (7, 0), (7, 5), (8, 6), (8, 9)
CARDS = [None, PASCAL, VOLTA, TURING, AMPERE, ADA, (12, 0)]


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("head", [64, 96, 128, 256, 576])
def test_f16_is_never_copied_and_f32_and_unequal_types_always(
    card: tuple[int, int] | None, head: int
) -> None:
    cuda = backend("CUDA")
    for group in (1, 4, 8):
        assert not cuda.converts_cache("f16", "f16", card, head=head, group=group)
        for pair in (("f32", "f32"), ("f16", "q8_0"), ("q8_0", "q4_0"), ("q5_1", "q5_1")):
            assert cuda.converts_cache(*pair, card, head=head, group=group)


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
@pytest.mark.parametrize(
    ("card", "head", "group", "copied"),
    [
        (TURING, 128, 8, False),
        (AMPERE, 64, 8, False),
        (ADA, 256, 2, False),
        (None, 128, 4, False),
        (PASCAL, 128, 8, False),
        (ADA, 96, 1, True),  # phi-3
        (ADA, 576, 128, True),  # deepseek's latent rows
        (VOLTA, 128, 1, False),
        (VOLTA, 128, 2, False),
        (VOLTA, 128, 6, False),  # two columns are filled
        (VOLTA, 128, 8, True),  # Volta's tiles begin at three columns
    ],
)
def test_a_quantized_cache_is_copied_where_no_kernel_of_one_token_takes_it(
    kind: str, card: tuple[int, int] | None, head: int, group: int, copied: bool
) -> None:
    cuda = backend("CUDA")
    assert cuda.converts_cache(kind, kind, card, head=head, group=group) == copied


@pytest.mark.parametrize(
    ("card", "group", "copied"),
    [(ADA, 1, False), (ADA, 4, False), (ADA, 8, True), (AMPERE, 1, False), (AMPERE, 2, True)],
)
def test_bf16_is_copied_where_heads_share_a_cache(
    card: tuple[int, int], group: int, copied: bool
) -> None:
    assert backend("CUDA").converts_cache("bf16", "bf16", card, group=group) == copied


def test_other_backends() -> None:
    """Vulkan and Metal unpack as they read; SYCL has every pair but bf16's; OpenCL's host unpacks
    unequal ones, for prompts too; the CPU's kernel for prompts takes f16 or f32 alone."""
    unequal, equal = ("q8_0", "q4_0"), ("q8_0", "q8_0")
    for name in ("Vulkan", "Metal"):
        for pair in (unequal, equal, ("bf16", "bf16")):
            assert not backend(name).converts_cache(*pair, head=96)
            assert not backend(name).slow_prompts(*pair)
    sycl, opencl, cpu = backend("SYCL"), backend("OpenCL"), backend("CPU")
    assert not sycl.converts_cache(*unequal)
    assert sycl.converts_cache("bf16", "bf16")
    assert sycl.converts_cache(*equal, head=96)
    assert not sycl.converts_cache("f16", "f16", head=96)
    assert opencl.converts_cache(*unequal)
    assert opencl.slow_prompts(*unequal)
    assert not opencl.converts_cache(*equal)
    assert cpu.slow_prompts(*equal)
    assert not cpu.slow_prompts("f16", "f16")
    assert not cpu.converts_cache(*unequal)


@pytest.mark.parametrize("card", CARDS)
def test_no_pair_slows_prompts_on_cuda(card: tuple[int, int] | None) -> None:
    """Kernels of many tokens read an f16 copy that is made once per batch."""
    for k in ("f16", "q8_0", "q5_1", "q4_0"):
        for v in ("f16", "q8_0", "q5_1", "q4_0"):
            assert not backend("CUDA").slow_prompts(k, v, card)
