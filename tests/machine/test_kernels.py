"""What backends have no kernels for, by their sources."""

from __future__ import annotations

import pytest

from tuner.machine.backends import backend
from tuner.machine.kernels import Asked

_MAMBA_1 = Asked("SSM_SCAN", 1, 8192, state=16)
_MAMBA_2 = Asked("SSM_SCAN", 64, 128, state=128, one_decay=True)
_WIDE_INDEX = Asked("LIGHTNING_INDEXER", 128, 64, "q8_0")
_NARROW_INDEX = Asked("LIGHTNING_INDEXER", 128, 32, "f16")


@pytest.mark.parametrize(
    ("asked", "lacking"),
    [
        (_WIDE_INDEX, {"OpenCL", "CANN"}),
        (_NARROW_INDEX, {"Metal", "OpenCL", "CANN"}),
        (_WIDE_INDEX._replace(type_k="iq4_nl"), {"CUDA", "ROCm", "Metal", "OpenCL", "CANN"}),
        (
            _WIDE_INDEX._replace(head=64),
            {"CUDA", "ROCm", "Vulkan", "Metal", "SYCL", "OpenCL", "CANN"},
        ),
        (_MAMBA_1, {"Vulkan", "SYCL", "CANN"}),
        (_MAMBA_1._replace(state=128), {"CUDA", "ROCm", "Vulkan", "SYCL", "CANN"}),
        (_MAMBA_2, {"CANN"}),
        (_MAMBA_2._replace(state=96), {"Vulkan", "SYCL", "OpenCL", "CANN"}),
        (_MAMBA_2._replace(state=64), {"CUDA", "ROCm", "Vulkan", "SYCL", "CANN"}),
        (Asked("MUL_MAT_ID", precise=True), {"CUDA", "ROCm", "Vulkan"}),
        (Asked("MUL_MAT_ID"), set()),
        (Asked("GATED_LINEAR_ATTN", 64), {"Metal", "OpenCL"}),
        (Asked("GATED_LINEAR_ATTN", 128), {"Metal", "Vulkan", "OpenCL"}),
        (Asked("DSV4_HC_PRE", streams=4), {"OpenCL", "CANN"}),
        (Asked("DSV4_HC_PRE", streams=2), {"Vulkan", "OpenCL", "CANN"}),
    ],
)
def test_who_has_no_kernel(asked: Asked, lacking: set[str]) -> None:
    names = ("CUDA", "ROCm", "Vulkan", "Metal", "SYCL", "OpenCL", "CANN", "RPC")
    assert {name for name in names if backend(name).lacks(asked)} == lacking
