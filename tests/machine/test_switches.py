"""What the user's environment changes of the engine's compute buffers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.headers import machine, real_model
from tuner.machine.switches import USUAL, Switches, as_number, read_switches
from tuner.memory.estimator import Estimator
from tuner.settings import Settings

LLAMA = "Llama-3.1-8B-Q4_K_M.gguf"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, USUAL),
        ({"GGML_OP_OFFLOAD_MIN_BATCH": "64"}, Switches(64)),
        ({"GGML_OP_OFFLOAD_MIN_BATCH": "no"}, Switches(0)),
        ({"GGML_VK_DISABLE_GRAPH_OPTIMIZE": ""}, Switches(unarranged=frozenset({"Vulkan"}))),
        ({"GGML_CUDA_DISABLE_FUSION": "1"}, Switches(unarranged=frozenset({"CUDA"}))),
        ({"GGML_CUDA_DISABLE_FUSION": "0"}, USUAL),
    ],
)
def test_an_environment_is_read_as_the_engine_reads_it(
    environ: dict[str, str], expected: Switches
) -> None:
    assert read_switches(environ) == expected


@pytest.mark.parametrize(
    ("text", "number"),
    [("", 0), (" 12x", 12), ("-3", -3), ("x1", 0), ("0000000000001", 1), ("+7", 7), ("--7", 0)],
)
def test_a_number_is_what_atoi_reads(text: str, number: int) -> None:
    assert as_number(text) == number


@pytest.mark.parametrize(("rows", "borrows"), [(1, True), (512, True), (513, False)])
def test_weights_are_borrowed_from_so_many_rows_on(rows: int, borrows: bool) -> None:
    """Without a layer on the GPU, nothing is computed there unless it borrows. The engine's sizes
    with these numbers (`bench.oracle` on CUDA's rules) are the same to the byte."""
    where = replace(machine(1, "CUDA"), switches=Switches(rows))
    settings = Settings(8192, n_gpu_layers=0, n_ubatch=512)
    gpu = Estimator(real_model(LLAMA), where).exact(settings).uses[0]
    assert (gpu.compute > 0) == borrows


def test_a_graph_may_be_left_as_it_is() -> None:
    usual = machine(1, "Vulkan")
    plain = replace(usual, switches=Switches(unarranged=frozenset({"Vulkan"})))
    settings = Settings(8192, n_gpu_layers=99)
    sizes = [
        Estimator(real_model(LLAMA), where).exact(settings).uses[0].compute
        for where in (usual, plain, machine(1, "RPC"))
    ]
    assert sizes[0] != sizes[1] == sizes[2]
