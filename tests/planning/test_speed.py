"""Predicted speed: what is read per token, and what that does to a choice."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.gguf_files import Q4_0, Q4_1, tiny_llama
from tests.support.giants import AYA_35B, GEMMA_27B, LLAMA_8B, QWEN_30B_A3B, giant, gpu, machine
from tuner.gguf.header import read_header
from tuner.machine.machine import Device, Pace
from tuner.model.model import describe
from tuner.planning import make_plan
from tuner.planning.fastest_split import Space
from tuner.planning.solver import Solver
from tuner.planning.speed import (
    LEAST,
    TURN_ANSWER,
    TURN_PROMPT,
    Attention,
    Calibration,
    Offload,
    SpeedModel,
)
from tuner.settings import Settings
from tuner.units import GIB
from tuner.wishes import Wishes

DEPTH = 2048


def server(card: Device, round_trip: float, link: float = 0.1e9) -> Device:
    """The card behind a network, as it was tried out."""
    return replace(
        card, kind="rpc", backend="RPC", bandwidth_source="measured", round_trip=round_trip,
        pcie_bandwidth=link, overhead=0,
    )  # fmt: skip


def seconds(name: str, n_gpu_layers: int, n_cpu_moe: int = 0, gib: float = 48) -> float:
    speed = SpeedModel(giant(name), machine(gpu(gib)))
    return speed.decode_seconds(Offload(n_gpu_layers, n_cpu_moe, (n_gpu_layers,)), DEPTH)


def bytes_read(name: str) -> float:
    """Bytes per token that a GPU with all of the model reads."""
    speed = SpeedModel(giant(name), machine(gpu(48)))
    reads = speed.reads(Settings(4096), Offload(99, 0, (99,)), DEPTH)
    parts = (reads.weights, reads.experts, reads.cache)
    assert not any(part["host"] for part in parts)
    return sum(part["GPU0"] for part in parts) + reads.output_head


def test_only_the_experts_that_run_are_read() -> None:
    """3 of 30 billion weights run: about 1.9 GB of 18.5."""
    assert 1.5e9 < bytes_read(QWEN_30B_A3B) < 2.6e9


def test_a_dense_model_reads_nearly_all_of_its_file() -> None:
    """All layers and the output; of the embedding only a row."""
    model = giant(LLAMA_8B)
    embedding = model.tensors.input[0].n_bytes
    assert bytes_read(LLAMA_8B) == pytest.approx(model.size_bytes - embedding, rel=0.12)


def test_a_tied_output_is_read_in_full() -> None:
    """The embedding that serves as output is read for every token."""
    model = giant(GEMMA_27B)
    assert model.tensors.tied is not None
    assert bytes_read(GEMMA_27B) > model.size_bytes * 0.97


def test_the_last_layers_matter_most() -> None:
    """Time falls by equal steps with each layer on the GPU, so tokens/s rise ever faster."""
    times = [seconds(AYA_35B, n) for n in range(10, 42)]
    assert times == sorted(times, reverse=True)
    gains = [1 / b - 1 / a for a, b in itertools.pairwise(times)]
    assert gains[-1] > 5 * gains[0]


def test_experts_in_ram_cost_less_than_layers_in_ram() -> None:
    """Half of the experts in RAM decodes faster than half of the layers there."""
    assert seconds(QWEN_30B_A3B, 49, n_cpu_moe=24) < seconds(QWEN_30B_A3B, 25)


def test_a_slow_second_gpu_slows_its_share() -> None:
    """Layers on a GPU of half the bandwidth take twice the time there."""
    speed = SpeedModel(giant(LLAMA_8B), machine(gpu(24), gpu(24, 1, bandwidth=504e9)))
    fast, half, slow = (
        speed.decode_seconds(Offload(33, 0, counts), DEPTH)
        for counts in ((33, 0), (17, 16), (0, 33))
    )
    assert fast < half < slow


def test_calibration_scales_and_says_so() -> None:
    """A measured speed scales the prediction and changes its source."""
    where = machine(gpu(24))
    offload = Offload(33, 0, (33,))
    model = giant(LLAMA_8B)
    plain = SpeedModel(model, where).predict(Settings(4096), offload)
    scaled = SpeedModel(model, where, Calibration(0.5, 2.0)).predict(Settings(4096), offload)
    assert scaled.decode_tps == pytest.approx(plain.decode_tps / 2)
    assert scaled.prompt_tps == pytest.approx(plain.prompt_tps * 2)
    assert (plain.source, scaled.source) == ("computed", "measured")


def test_a_calibrated_solver_plans_as_before_and_tells_other_speeds() -> None:
    """What was measured scales every speed and changes no choice; the solver that it was made
    from goes on as it was."""
    solver = Solver(giant(LLAMA_8B), machine(gpu(8)))
    plain = solver.best(Wishes())
    scaled = solver.calibrated(Calibration(0.5, 2.0)).best(Wishes())
    assert plain is not None
    assert scaled is not None
    assert scaled.settings == plain.settings
    assert scaled.speed.decode_tps == pytest.approx(plain.speed.decode_tps / 2)
    assert (plain.speed.source, scaled.speed.source) == ("computed", "measured")
    assert solver.best(Wishes()) == plain


def test_a_token_reads_each_part_where_it_lies() -> None:
    """Layers, experts that run and cache by device, the output apart; the parts are the whole."""
    model = giant(QWEN_30B_A3B)
    where = machine(gpu(24), gpu(24, 1))
    speed = SpeedModel(model, where)
    total = model.n_items
    for counts, moe in (((20, total - 20), 0), ((10, 20), total - 15), ((0, 0), 0)):
        offload = Offload(sum(counts), moe, counts)
        for depth in (0, 4096):
            found = speed.reads(Settings(8192), offload, depth)
            whole = speed.reads(Settings(8192), Offload(total, 0, (total, 0)), depth)
            for part in ("weights", "experts", "cache"):
                here, there = (sum(getattr(each, part).values()) for each in (found, whole))
                assert here == pytest.approx(there)
            assert found.output_head == whole.output_head > 0
    spread = speed.reads(Settings(8192), Offload(30, total - 15, (10, 20)), 4096)
    assert list(spread.weights) == ["GPU0", "GPU1", "host"]
    assert all(spread.weights.values())
    assert all(spread.cache.values())
    assert spread.experts["GPU0"] == 0 < spread.experts["GPU1"] < spread.experts["host"]


def test_a_quantized_cache_is_counted_as_it_is_stored_and_timed_as_f16() -> None:
    model, offload = giant(LLAMA_8B), Offload(33, 0, (33,))
    speed = SpeedModel(model, machine(gpu(24)))
    f16, q8 = (
        speed.reads(Settings(8192, t, t), offload, 8192).cache["GPU0"] for t in ("f16", "q8_0")
    )
    assert q8 == pytest.approx(f16 * 34 / 64)
    assert f16 == 2 * 32 * 2 * 1024 * 8192
    at = [speed.predict(Settings(8192, t, t), offload).decode_tps for t in ("f16", "q8_0")]
    assert at[0] == at[1]


def test_depth_slows_both_and_a_copied_cache_more_so() -> None:
    """A token with more in the cache takes longer, and longer still where the cache is copied for
    each; a prompt too."""
    speed, offload = SpeedModel(giant(LLAMA_8B), machine(gpu(24))), Offload(33, 0, (33,))
    plain = [speed.decode_seconds(offload, d) for d in (0, 2048, 32_768)]
    copied = [speed.decode_seconds(offload, d, Attention((True,))) for d in (0, 2048, 32_768)]
    assert plain == sorted(plain)
    assert plain[0] == copied[0]
    assert copied[1] / plain[1] < 1.2
    assert copied[2] / plain[2] > 1.5
    prompts = [speed.prompt_seconds(offload, 512, d) for d in (0, 2048, 32_768)]
    assert prompts == sorted(prompts)


def test_predictions_name_the_depths_up_to_the_context() -> None:
    speed = SpeedModel(giant(LLAMA_8B), machine(gpu(24))).predict(
        Settings(32_768), Offload(33, 0, (33,))
    )
    assert list(speed.decode_tps_at) == [0, 2048, 8192, 32_768]
    assert speed.decode_tps_at[2048] == speed.decode_tps
    turn = TURN_PROMPT / speed.prompt_tps + TURN_ANSWER / speed.decode_tps_at[8192]
    assert speed.turn_seconds == pytest.approx(turn)


@given(
    n_gpu_layers=st.integers(0, 49),
    n_cpu_moe=st.integers(0, 48),
    n_ubatch=st.sampled_from([128, 512, 4096]),
    depth=st.sampled_from([0, 2048, 32_768]),
    share=st.floats(0, 1),
    bandwidths=st.tuples(st.floats(1e11, 1e12), st.floats(1e11, 1e12)),
    pace=st.builds(Pace, *[st.sampled_from([0.05, 1.0, 20.0])] * 3),
    met=st.builds(
        Attention,
        st.sampled_from([(), (True, True), (True, False), (False, True)]),
        st.booleans(),
        st.sampled_from([("f16", "f16"), ("q8_0", "f16"), ("q4_0", "q4_0")]),
    ),
    step=st.sampled_from([32, 128]),
    trips=st.lists(st.sampled_from([0.0, 1e-4, 0.02]), min_size=2, max_size=2),
)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_no_split_has_a_shorter_turn_than_the_bound(
    n_gpu_layers: int, n_cpu_moe: int, n_ubatch: int, depth: int, share: float,
    bandwidths: tuple[float, float], pace: Pace, met: Attention, step: int, trips: list[float],
) -> None:  # fmt: skip
    """What the search takes for the least of a placement is no more than any split's, whatever
    the host was seen to do, and whichever GPU is a server over a network."""
    model = giant(QWEN_30B_A3B)
    cards = (gpu(48, i, bandwidth=b) for i, b in enumerate(bandwidths))
    where = machine(
        *(server(card, trip) if trip else card for card, trip in zip(cards, trips, strict=True))
    )
    speed = SpeedModel(model, replace(where, host=replace(where.host, pace=pace, f16_step=step)))
    first = round(share * n_gpu_layers)
    offload = Offload(n_gpu_layers, n_cpu_moe, (first, n_gpu_layers - first))
    room = (48 * GIB, 48 * GIB)
    found = speed.turn_seconds(offload, n_ubatch, depth, met)
    for known in (LEAST, met):
        least = speed.least_turn(n_gpu_layers, n_cpu_moe, n_ubatch, depth, room, known)
        assert least <= found * (1 + 1e-9)
    s = Settings(4096, n_gpu_layers=n_gpu_layers, n_cpu_moe=n_cpu_moe, n_ubatch=n_ubatch)
    nothing, endless = [0] * (model.n_items + 1), [Space(1, 1)] * 2
    assert speed.least_of_splits(s, depth, nothing, endless, met) <= found * (1 + 1e-9)


def test_the_engine_copies_weights_for_prompts_whether_that_is_quicker_or_not() -> None:
    """Over a slow bus prompts are slower with a GPU that borrows the weights than without one, and
    batches of twice the size nearly twice as fast."""
    model, nothing = giant(LLAMA_8B), Offload(0, 0, (0,))
    bus = replace(gpu(24), pcie_bandwidth=1e9)
    slow, alone = SpeedModel(model, machine(bus)), SpeedModel(model, machine())
    on_cpu = alone.prompt_seconds(Offload(0, 0, ()), 128, 0)
    assert slow.prompt_seconds(nothing, 128, 0) > on_cpu
    half, full = (slow.prompt_seconds(nothing, n, 0) for n in (512, 1024))
    assert 1.8 < half / full <= 2.0
    lender = SpeedModel(model, machine(replace(bus, backend="RPC", kind="rpc")))
    assert lender.prompt_seconds(nothing, 128, 0) == on_cpu


def test_the_way_to_a_server_is_gone_once_per_token_and_batch() -> None:
    """And the hidden state goes over it in f32 both ways, with a row of the mask in f16."""
    model, whole = giant(LLAMA_8B), Offload(99, 0, (33,))
    near, far = (SpeedModel(model, machine(server(gpu(24), t, 1e8))) for t in (0.0, 0.01))
    wide = SpeedModel(model, machine(server(gpu(24), 0.0, 1e30)))
    crossing = (2 * 4 * model.n_embd + 2 * DEPTH) / 1e8
    decode = [s.decode_seconds(whole, DEPTH) for s in (wide, near, far)]
    assert decode[1] - decode[0] == pytest.approx(crossing)
    assert decode[2] - decode[1] == pytest.approx(0.01)
    prompt = [s.prompt_seconds(whole, 512, DEPTH) for s in (wide, near, far)]
    assert prompt[1] - prompt[0] == pytest.approx(crossing)
    assert prompt[2] - prompt[1] == pytest.approx(0.01 / 512)
    nothing = Offload(0, 0, (0,))
    assert near.decode_seconds(nothing, DEPTH) == far.decode_seconds(nothing, DEPTH)


@pytest.mark.parametrize(
    ("bandwidth", "round_trip", "used"),
    [(500e9, 2e-4, True), (10e9, 2e-4, False), (500e9, 0.5, False)],
)
def test_a_server_is_used_where_that_is_quicker(
    bandwidth: float, round_trip: float, used: bool
) -> None:
    """A slow one, or one that is far away, is left out: the model fits the RAM here."""
    there = server(replace(gpu(24, bandwidth=bandwidth), flops=bandwidth * 40), round_trip)
    plan = make_plan(giant(LLAMA_8B), machine(there), Wishes())
    assert (plan.chosen.settings.n_gpu_layers > 0) is used
    assert plan.chosen.settings.n_ubatch <= 512, "it borrows no weights"


def on_host(**changed: Any) -> SpeedModel:
    where = replace(machine(), physical_cores=8, **changed)
    return SpeedModel(giant(LLAMA_8B), where)


ON_HOST = Offload(0, 0, ())


def test_fewer_threads_are_slower_and_more_of_them_meet_more_often() -> None:
    """One thread per core is the fastest: with fewer a core idles, with more they wait for each
    other."""
    few, usual, many = (on_host(n_threads=n).decode_seconds(ON_HOST, 0) for n in (2, 8, 16))
    assert usual < many < few
    few, usual = (on_host(n_threads=n).prompt_seconds(ON_HOST, 512, 0) for n in (2, 8))
    assert few == pytest.approx(4 * usual, rel=1e-3)
    assert on_host(n_threads=8).decode_seconds(ON_HOST, 0) == on_host().decode_seconds(ON_HOST, 0)


def test_a_device_is_as_fast_as_it_was_seen_to_be() -> None:
    """What a machine has learned of its devices scales what each of them takes."""
    model, card = giant(LLAMA_8B), gpu(24)
    half = Offload(16, 0, (16,))
    where = machine(card)
    plain = SpeedModel(model, where)
    for device in (0, 1):
        devices = [*where.gpus, where.host]
        devices[device] = replace(devices[device], pace=Pace(decode=0.5, prompt=0.25))
        paced = SpeedModel(model, replace(where, gpus=tuple(devices[:1]), host=devices[1]))
        each: list[tuple[Callable[[SpeedModel], float], float]] = [
            (lambda s: s.decode_seconds(half, 0), 1.0),
            (lambda s: s.prompt_seconds(half, 512, 2048), 3.0),
        ]
        for seconds, slower in each:
            part = seconds(plain) - seconds(plain.without(device))
            assert part >= 0
            assert seconds(paced) == pytest.approx(seconds(plain) + slower * part, rel=1e-9)


def test_parts_are_less_than_the_whole() -> None:
    """What devices take, together, is less than all: launches, hand-overs and the host's attention
    are nobody's."""
    speed = SpeedModel(giant(LLAMA_8B), machine(gpu(24), gpu(8, 1)))
    offload = Offload(30, 0, (20, 10))
    whole = speed.decode_seconds(offload, 4096)
    assert speed.without(None) is speed
    parts = [whole - speed.without(i).decode_seconds(offload, 4096) for i in range(3)]
    assert all(part > 0 for part in parts)
    assert 0.5 * whole < sum(parts) < whole


def test_the_output_costs_a_prompt_nothing(tmp_path: Path) -> None:
    """Only the last token's logits are computed, however many tokens there are to choose from."""
    few, many = (
        describe(read_header(tiny_llama(tmp_path / f"{n}.gguf", n_vocab=n))) for n in (512, 1 << 16)
    )
    prompts = [SpeedModel(m, machine()).prompt_seconds(ON_HOST, 512, 0) for m in (few, many)]
    assert prompts[0] == prompts[1]
    decodes = [SpeedModel(m, machine()).decode_seconds(ON_HOST, 0) for m in (few, many)]
    assert decodes[0] < decodes[1]


def test_weights_without_a_matrix_kernel_slow_the_host_s_prompts(tmp_path: Path) -> None:
    """Q4_1 on the CPU; on a GPU it is as any other."""
    q4_0, q4_1 = (
        describe(read_header(tiny_llama(tmp_path / f"{t}.gguf", ggml_type=t))) for t in (Q4_0, Q4_1)
    )
    for where, offload, ratio in (
        (machine(), ON_HOST, 2.0),
        (machine(gpu(8)), Offload(3, 0, (3,)), 1),
    ):
        a, b = (SpeedModel(m, where).prompt_seconds(offload, 1 << 20, 0) for m in (q4_0, q4_1))
        assert b / a == pytest.approx(ratio, rel=1e-3)


def test_a_quantized_cache_slows_the_host() -> None:
    """Each token unpacks it anew, of a prompt too; the more of it there is, the more that costs,
    and q4_0 more than q8_0."""
    solver = Solver(giant(LLAMA_8B), machine())

    def slower(kind: str, depth: int, prompt: bool) -> float:
        settings = [Settings(8192, t, t) for t in ("f16", kind)]
        if prompt:
            plain, packed = (solver.prompt_seconds(s, 512, depth) for s in settings)
        else:
            plain, packed = (solver.decode_seconds(s, depth) for s in settings)
        return packed / plain

    for prompt in (False, True):
        assert slower("q8_0", 0, prompt) == 1.0
        assert 1.0 < slower("q8_0", 1024, prompt) < slower("q8_0", 8192, prompt)
        assert slower("q4_0", 1024, prompt) > slower("q8_0", 1024, prompt)
    assert solver.decode_seconds(Settings(8192), 8192) > solver.decode_seconds(Settings(8192), 0)


def test_the_host_s_attention_has_a_pace_of_its_own() -> None:
    """It is a part of the time with the place behind the devices, which its weights do not move."""
    model, where = giant(LLAMA_8B), machine()
    plain = SpeedModel(model, where)
    paced = SpeedModel(model, replace(where, host=replace(where.host, pace=Pace(attention=0.5))))
    packed = Attention(unpacked=True, pair=("q8_0", "q8_0"))
    each: list[Callable[[SpeedModel], float]] = [
        lambda s: s.decode_seconds(ON_HOST, 4096, packed),
        lambda s: s.prompt_seconds(ON_HOST, 512, 4096, packed),
    ]
    for seconds in each:
        part = seconds(plain) - seconds(plain.without(1))
        assert part > 0
        assert seconds(paced) == pytest.approx(seconds(plain) + part)
    assert plain.without(1).decode_seconds(ON_HOST, 0) == plain.decode_seconds(ON_HOST, 0)
