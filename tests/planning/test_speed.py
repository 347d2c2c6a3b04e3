"""Predicted speed: what is read per token, and what that does to a choice."""

from __future__ import annotations

import itertools

import pytest

from tests.support.giants import AYA_35B, GEMMA_27B, LLAMA_8B, QWEN_30B_A3B, giant, gpu, machine
from tuner.planning.solver import Solver
from tuner.planning.speed import GPU_BANDWIDTH_SHARE, Calibration, Offload, SpeedModel
from tuner.settings import Settings
from tuner.wishes import Wishes


def seconds(name: str, n_gpu_layers: int, n_cpu_moe: int = 0, gib: float = 48) -> float:
    speed = SpeedModel(giant(name), machine(gpu(gib)))
    return speed.decode_seconds(Offload(n_gpu_layers, n_cpu_moe, (n_gpu_layers,)))


def bytes_read(name: str) -> float:
    """Bytes per token that the time on the GPU alone stands for."""
    return seconds(name, 99) * gpu(48).bandwidth * GPU_BANDWIDTH_SHARE


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
        speed.decode_seconds(Offload(33, 0, counts)) for counts in ((33, 0), (17, 16), (0, 33))
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
