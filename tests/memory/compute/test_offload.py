"""What a GPU takes to itself from the host for large batches (op_offload)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.giants import LLAMA_8B
from tests.support.headers import machine, real_model
from tuner.gguf.header import TensorInfo
from tuner.memory.estimator import Estimator
from tuner.model.model import Model
from tuner.settings import Settings


def _rotating(model: Model) -> Model:
    """The model with `rope_freqs`, as files of Llama 3.1 have it."""
    factors = TensorInfo("rope_freqs.weight", (64,), 0, 0, 256)
    return replace(model, tensors=replace(model.tensors, rope=(factors,)))


@pytest.mark.parametrize(
    ("layers", "factors", "gpu", "host"),
    [
        (0, True, 260_049_152, 50_343_968),
        (15, True, 260_049_152, 50_343_968),
        (33, True, 146_811_008, 50_343_968),
        (0, False, 193_988_608, 50_343_968),
        (15, False, 193_988_608, 50_343_968),
    ],
)
def test_a_weight_of_256_bytes_may_cost_63_mib(
    layers: int, factors: bool, gpu: int, host: int
) -> None:
    """The factors of a rotation are copied to the GPU once and stay until the last layer, amid
    the hole that the copies of the next layers' caches would fit into. Sizes of the engine's own
    scheduler under CUDA's rules (`bench.memory_accuracy --backend CUDA`); a log of an RTX 2060
    says 248.00 and 48.01 MiB."""
    model = real_model(LLAMA_8B)
    estimator = Estimator(_rotating(model) if factors else model, machine(1, "CUDA"))
    settings = Settings(32768, n_gpu_layers=layers, use_extra_bufts=False)
    assert [use.compute for use in estimator.exact(settings).uses] == [gpu, host]


def test_small_batches_are_not_taken_over() -> None:
    """Fewer than 32 rows: nothing of a model in RAM is computed on the GPU."""
    model, settings = real_model(LLAMA_8B), Settings(8192, n_gpu_layers=0, n_ubatch=16)
    on_gpu, _ = Estimator(model, machine(1, "CUDA")).exact(settings).uses
    assert on_gpu.compute == 0
    assert Estimator(model, machine(1, "CUDA")).footprint(settings).uses[0].compute == 0


def test_a_chat_reads_one_row_of_logits_where_the_head_is() -> None:
    """One row is no large batch: the head's weights stay in RAM."""
    model = real_model(LLAMA_8B)
    head = next(t.n_bytes for t in model.tensors.output if t.name == "output.weight")
    settings = Settings(8192, n_gpu_layers=0)
    use = Estimator(model, machine(1, "CUDA")).exact(settings).uses[0]
    rows = Estimator(model, machine(1, "CUDA"), n_outputs_max=32).exact(settings).uses[0]
    assert use.compute < head < rows.compute


def test_an_accelerator_of_the_cpu_ends_the_pipeline() -> None:
    """A device without events among the engine's (BLAS): inputs are not kept four times."""
    model, settings = real_model(LLAMA_8B), Settings(8192, n_gpu_layers=99)
    two = machine(2, "CUDA")
    pipeline, plain = (
        Estimator(model, where).exact(settings).uses
        for where in (two, replace(two, accelerated=True))
    )
    assert sum(use.compute for use in pipeline) > 1.3 * sum(use.compute for use in plain)


@pytest.mark.parametrize(
    ("name", "gpu", "host"),
    [("mistral4-moe.gguf", 4_331_520, 29_761_440), ("kimi-linear-moe.gguf", 5_378_048, 29_759_424)],
)
def test_attention_without_a_kernel_is_the_hosts(name: str, gpu: int, host: int) -> None:
    """Heads of 576 and 512, one of Q for each of K: CUDA has no fused kernel, and the cache is
    copied to the host. Sizes as above."""
    estimator = Estimator(real_model(name), machine(1, "CUDA"))
    settings = Settings(8192, n_gpu_layers=99, use_extra_bufts=False)
    assert [use.compute for use in estimator.exact(settings).uses] == [gpu, host]
