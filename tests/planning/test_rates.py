"""Rates of devices, against what owners of such cards measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.giants import LLAMA_8B, giant, gpu, machine
from tuner.machine.machine import Machine
from tuner.machine.stated import stated
from tuner.machine.stated_gpus import parse_gpus
from tuner.planning.rates import BYTES_PER_SM_CLOCK, gpu_rate, host_rate, softmin
from tuner.planning.speed import Offload, SpeedModel

# Llama 3.1 8B Q4_K_M, all layers, about 550 tokens in the cache; a prompt of 1,024 tokens
# (XiongjieDai's GPU benchmarks)
MEASURED = {
    "RTX 3070": (70.9, 2284),
    "RTX 3090": (111.7, 3865),
    "RTX 4070 Ti": (82.2, 3653),
    "RTX 4080": (106.2, 5065),
    "RTX A6000": (102.2, 3622),
    "A40": (89.0, 3241),
    "A100 40GB": (138.3, 5801),
    "M3 Max:64GiB": (50.7, 678),
}


def named(card: str) -> Machine:
    return stated(parse_gpus([card]), cores=8, measured=machine())


@pytest.mark.parametrize("card", MEASURED)
def test_a_card_by_name_is_as_fast_as_it_was_measured(card: str) -> None:
    """Decoding within 20 %, prompts within 25 %."""
    speed = SpeedModel(giant(LLAMA_8B), named(card))
    offload = Offload(33, 0, (33,))
    decode, prompt = MEASURED[card]
    assert 1 / speed.decode_seconds(offload, 550) == pytest.approx(decode, rel=0.20)
    assert 1 / speed.prompt_seconds(offload, 512, 512) == pytest.approx(prompt, rel=0.25)


@given(a=st.floats(1e9, 1e12), b=st.floats(1e9, 1e12))
def test_two_bounds_meet_without_an_edge(a: float, b: float) -> None:
    """Below both, hardly below the smaller where they lie apart, by an eighth where they meet."""
    found = softmin(a, b)
    assert 0.89 * min(a, b) <= found <= min(a, b)
    assert softmin(a, a) == pytest.approx(a * 2 ** (-1 / 6))
    assert found == pytest.approx(softmin(b, a))


@given(
    bandwidth=st.floats(1e11, 5e12), more=st.floats(1, 3), n_sm=st.integers(5, 200),
    clock=st.floats(1e9, 3e9),
)  # fmt: skip
def test_more_of_anything_is_never_slower(
    bandwidth: float, more: float, n_sm: int, clock: float
) -> None:
    card = replace(gpu(8, bandwidth=bandwidth), n_sm=n_sm, clock=clock)
    rate = gpu_rate(card)
    for better in (
        replace(card, bandwidth=bandwidth * more),
        replace(card, n_sm=n_sm + 1),
        replace(card, clock=clock * more),
        replace(card, flops=card.flops * more),
    ):
        assert gpu_rate(better).bandwidth >= rate.bandwidth
        assert gpu_rate(better).flops >= rate.flops
    assert rate.bandwidth <= BYTES_PER_SM_CLOCK * n_sm * clock
    where = machine()
    more_cores = replace(where, physical_cores=where.physical_cores + 1)
    faster = replace(where, host=replace(where.host, bandwidth=where.host.bandwidth * more))
    for better_host in (more_cores, faster):
        assert host_rate(better_host).bandwidth >= host_rate(where).bandwidth


def test_what_was_measured_by_copying_counts_for_more_than_a_data_sheet() -> None:
    """A copy reaches less than what is on paper, and decoding most of what a copy reaches."""
    where = machine()
    sheet, copied = (
        host_rate(replace(where, host=replace(where.host, bandwidth_source=source)))
        for source in ("stated", "measured")
    )
    assert sheet.bandwidth < copied.bandwidth < where.host.bandwidth
