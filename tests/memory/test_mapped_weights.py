"""How the engine counts the weights of a file that it maps."""

from __future__ import annotations

from pathlib import Path

from tests.support.headers import made_up
from tuner.gguf.header import read_header
from tuner.memory.mapped_weights import mapped_weights
from tuner.memory.placement import place
from tuner.settings import Settings


def test_mapped_weights_are_a_range_of_the_file(tmp_path: Path) -> None:
    """From the embedding, first in the file, to the last tensor that stays in RAM; matrices in
    the CPU's own order are copies beside it."""
    n_embd, n_ff, layers = 256, 512, 4
    model = made_up(tmp_path / "m.gguf", n_embd=n_embd, n_ff=n_ff, n_layer=layers)
    tensors = {t.name: t for t in read_header(model.path).tensors}
    last = tensors["blk.0.ffn_down.weight"]
    upper = place(layers, 1, Settings(512, n_gpu_layers=layers))  # the first layer stays
    assert mapped_weights(model, upper, repacked=False) == last.offset + last.n_bytes
    whole = place(layers, 0, Settings(512))
    end = max(t.offset + t.n_bytes for t in tensors.values())
    assert mapped_weights(model, whole, repacked=False) == end
    matrices = sum(
        t.n_bytes for t in tensors.values() if len(t.shape) == 2 and "token_embd" not in t.name
    )
    norms = max(t.offset + t.n_bytes for t in tensors.values() if len(t.shape) == 1)
    with_copies = mapped_weights(model, whole, repacked=True)
    assert with_copies in (norms + matrices, None)  # None: not this kind of CPU
