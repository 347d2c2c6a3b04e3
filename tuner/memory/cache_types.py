"""The KV-cache types that llama.cpp offers: what they cost in bytes and, at first, in quality."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.gguf.types import GGML_NUMBERS, GGML_TYPES


@dataclass(frozen=True, slots=True)
class CacheType:
    """One ggml type usable for K or V.

    `ggml` is its number in `enum ggml_type`; `block` elements are stored in `block_bytes` bytes:
    both stand in `tuner/gguf/types.py`. `k_loss` and `v_loss` are the prior quality loss when
    this type holds K or V: mean KL divergence (nats per token) against f16, read from the
    measurements in ggml-org/llama.cpp#7412 and rounded; types not measured there are placed
    between their neighbours by bits. They rank types, whatever the model.
    """

    name: str
    ggml: int
    block: int
    block_bytes: int
    k_loss: float
    v_loss: float
    chosen: bool  # a search may choose it; others are used only where a user asks for them

    @property
    def bits(self) -> float:
        """Bits per element."""
        return 8 * self.block_bytes / self.block

    @property
    def quantized(self) -> bool:
        return self.block > 1

    def row_bytes(self, n: int) -> int:
        """Bytes of a row of `n` elements (`ggml_row_size`); `n` must divide into blocks."""
        return n // self.block * self.block_bytes


def _type(name: str, *, k_loss: float, v_loss: float, chosen: bool = True) -> CacheType:
    number = GGML_NUMBERS[name]
    form = GGML_TYPES[number]
    return CacheType(name, number, form.block, form.block_bytes, k_loss, v_loss, chosen)


# from the most precise to the smallest
CACHE_TYPES: dict[str, CacheType] = {
    t.name: t
    for t in (
        _type("f32", k_loss=0.0, v_loss=0.0, chosen=False),
        _type("f16", k_loss=0.0, v_loss=0.0),
        _type("bf16", k_loss=0.0002, v_loss=0.0002, chosen=False),
        _type("q8_0", k_loss=0.0009, v_loss=0.0007),
        _type("q5_1", k_loss=0.0090, v_loss=0.0018),
        _type("q5_0", k_loss=0.0120, v_loss=0.0025),
        _type("q4_1", k_loss=0.0300, v_loss=0.0060),
        _type("iq4_nl", k_loss=0.0350, v_loss=0.0075, chosen=False),
        _type("q4_0", k_loss=0.0400, v_loss=0.0090),
    )
}
CHOSEN_TYPES = tuple(t.name for t in CACHE_TYPES.values() if t.chosen)

_PRECISE_BITS = 8  # per element
# Types whose loss hardly anybody notices; a plan goes below them only where it gains by it.
HIGH_PRECISION = frozenset(t.name for t in CACHE_TYPES.values() if t.bits >= _PRECISE_BITS)
