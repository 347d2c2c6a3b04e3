"""The KV-cache types that llama.cpp offers: what they cost in bytes and, at first, in quality."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheType:
    """One ggml type usable for K or V.

    `ggml` is its number in `enum ggml_type` (ggml.h); `block` elements are stored in
    `block_bytes` bytes (ggml-common.h). `k_loss` and `v_loss` are the prior quality loss when
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


CACHE_TYPES: dict[str, CacheType] = {
    t.name: t
    for t in (
        CacheType("f32", 0, 1, 4, 0.0, 0.0),
        CacheType("f16", 1, 1, 2, 0.0, 0.0),
        CacheType("bf16", 30, 1, 2, 0.0002, 0.0002),
        CacheType("q8_0", 8, 32, 34, 0.0009, 0.0007),
        CacheType("q5_1", 7, 32, 24, 0.0090, 0.0018),
        CacheType("q5_0", 6, 32, 22, 0.0120, 0.0025),
        CacheType("q4_1", 3, 32, 20, 0.0300, 0.0060),
        CacheType("iq4_nl", 20, 32, 18, 0.0350, 0.0075),
        CacheType("q4_0", 2, 32, 18, 0.0400, 0.0090),
    )
}

_PRECISE_BITS = 8  # per element
# Types whose loss hardly anybody notices; a plan goes below them only where it gains by it.
HIGH_PRECISION = frozenset(t.name for t in CACHE_TYPES.values() if t.bits >= _PRECISE_BITS)
