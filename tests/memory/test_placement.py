"""Weights per device: which layer goes where, and what that copies, pads or leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.gguf_files import F32, Q4_0, Tensor
from tests.support.headers import machine, made_up, real_model
from tuner.memory.estimator import Estimator
from tuner.memory.placement import place
from tuner.model.model import Model
from tuner.settings import Settings
from tuner.units import padded

_EMBEDDING = 256 * 1024 // 32 * 18  # bytes of a 256 x 1024 tensor in q4_0


def _weights(model: Model, n_gpus: int = 1, backend: str = "RPC", **kw: object) -> list[int]:
    settings = Settings(1024, use_extra_bufts=False, **kw)  # type: ignore[arg-type]
    footprint = Estimator(model, machine(n_gpus, backend)).footprint(settings)
    return [use.weights for use in footprint.uses]


def _layer(model: Model, il: int = 0) -> int:
    return sum(padded(t.n_bytes, 32) for t in model.tensors.layers[il].others)


def test_one_layer_on_the_gpu_is_the_output(tmp_path: Path) -> None:
    """n_gpu_layers counts from the end, and the output comes first."""
    model = made_up(tmp_path / "m.gguf")
    assert _weights(model, n_gpu_layers=1)[0] == _EMBEDDING + 4 * 256
    assert _weights(model, n_gpu_layers=2)[0] == _EMBEDDING + 4 * 256 + _layer(model, 3)


def test_layers_are_capped(tmp_path: Path) -> None:
    """99 means all; there is no 99 of 5."""
    model = made_up(tmp_path / "m.gguf")
    assert _weights(model, n_gpu_layers=99) == _weights(model, n_gpu_layers=5)
    assert _weights(model, n_gpu_layers=-1) == _weights(model, n_gpu_layers=5)
    assert _weights(model, n_gpu_layers=99)[1] == _EMBEDDING  # the input stays on the host


def test_a_tied_output_is_counted_where_it_is_copied(tmp_path: Path) -> None:
    """On the GPU it is a second copy of the embedding, on the host it is the same."""
    tied = made_up(tmp_path / "t.gguf", tied=True)
    apart = made_up(tmp_path / "a.gguf")
    assert sum(_weights(tied, n_gpu_layers=0)) == sum(_weights(apart, n_gpu_layers=0)) - _EMBEDDING
    assert _weights(tied, n_gpu_layers=99) == _weights(apart, n_gpu_layers=99)
    assert _weights(tied, n_gpu_layers=1) == _weights(apart, n_gpu_layers=1)


def test_repacked_weights_part_a_tied_output_from_its_embedding(tmp_path: Path) -> None:
    """Without a GPU, extra buffers hold the output repacked, beside the embedding."""
    model = made_up(tmp_path / "t.gguf", tied=True)
    estimator = Estimator(model, machine(0))
    plain = estimator.footprint(Settings(1024, use_extra_bufts=False)).host.weights
    assert estimator.footprint(Settings(1024)).host.weights == plain + _EMBEDDING


def test_without_gpus_everything_is_on_the_host(tmp_path: Path) -> None:
    model = made_up(tmp_path / "m.gguf")
    (host,) = _weights(model, n_gpus=0, n_gpu_layers=99)
    assert host == sum(_weights(model, n_gpu_layers=99))


def test_cuda_pads_rows_and_aligns_wider(tmp_path: Path) -> None:
    """128 bytes, and rows that do not fill 512 elements get the rest of them once per tensor."""
    model = made_up(tmp_path / "m.gguf")
    extra = sum(
        padded(t.n_bytes + (18 * 8 if t.ggml_type == Q4_0 and t.shape[0] == 256 else 0), 128)
        - padded(t.n_bytes, 32)
        for group in model.tensors.layers
        for t in group.others
    )
    output = 18 * 8  # 256 missing elements of the output's rows: 8 blocks of 18 bytes
    rpc = _weights(model, n_gpu_layers=99)[0]
    assert _weights(model, backend="CUDA", n_gpu_layers=99)[0] == rpc + extra + padded(output, 128)


def test_experts_of_the_first_layers_stay_on_the_host() -> None:
    model = real_model("Qwen3-30B-A3B-Q4_K_M.gguf")
    before, after = _weights(model, n_gpu_layers=99), _weights(model, n_gpu_layers=99, n_cpu_moe=10)
    experts = sum(t.n_bytes for il in range(10) for t in model.tensors.layers[il].experts)
    assert [after[0] - before[0], after[1] - before[1]] == [-experts, experts]


def test_rope_tables_are_copied_to_every_device_with_layers(tmp_path: Path) -> None:
    rope = (Tensor("rope_freqs.weight", (32,), F32),)
    with_rope = made_up(tmp_path / "r.gguf", extra=rope)
    without = made_up(tmp_path / "n.gguf")
    for layers, copies in ((0, [0, 1]), (1, [0, 1]), (3, [1, 1]), (99, [1, 0])):
        pairs = zip(
            _weights(with_rope, n_gpu_layers=layers),
            _weights(without, n_gpu_layers=layers),
            strict=True,
        )
        assert [a - b for a, b in pairs] == [128 * n for n in copies]


@pytest.mark.parametrize(
    ("layers", "n_gpu_layers", "split", "slots"),
    [
        (4, 5, (1.0, 1.0), (0, 0, 0, 1, 1)),
        (4, 3, (1.0, 1.0), (-1, -1, 0, 0, 1)),
        (4, 5, (0.0, 1.0), (1, 1, 1, 1, 1)),
        (4, 5, (), (0, 0, 0, 0, 0)),
        (4, 5, (3.0, 1.0), (0, 0, 0, 0, 1)),
    ],
)
def test_split_over_gpus(
    layers: int, n_gpu_layers: int, split: tuple[float, ...], slots: tuple[int, ...]
) -> None:
    """Shares are cut as the engine cuts them; without shares the first GPU takes all."""
    settings = Settings(512, n_gpu_layers=n_gpu_layers, tensor_split=split)
    assert place(layers, 2, settings).slots == slots
