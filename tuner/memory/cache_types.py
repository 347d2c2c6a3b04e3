"""The KV-cache types that llama.cpp offers: what they cost in bytes and, at first, in quality."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.gguf.types import GGML_NUMBERS, GGML_TYPES

# Nats per token: a pair of types other than f16 loses at least this beside it, measured on
# SmolLM2-135M-Instruct (Q4_1). It is no loss: f16 read in batches of 32 tokens, by another of the
# CPU's kernels (`use_tiled`, ggml-cpu/ops.cpp), differs from f16 by 0.0045.
NOISE = 0.0041


@dataclass(frozen=True, slots=True)
class Loss:
    """Nats per token beyond `NOISE`, where the engine rotates the cache (`rotation.py`), or not."""

    rotated: float
    plain: float

    def of(self, rotated: bool) -> float:
        return self.rotated if rotated else self.plain


@dataclass(frozen=True, slots=True)
class CacheType:
    """One ggml type usable for K or V.

    `ggml` is its number in `enum ggml_type`; `block` elements are stored in `block_bytes` bytes:
    both stand in `tuner/gguf/types.py`. `k_loss` and `v_loss` are what this type is taken to lose
    where it holds K or V: they rank types, whatever the model. Models differ: some break at q4_0.
    """

    name: str
    ggml: int
    block: int
    block_bytes: int
    k_loss: Loss
    v_loss: Loss
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


def _type(
    name: str, k: tuple[float, float], v: tuple[float, float], *, chosen: bool = True
) -> CacheType:
    """`k` and `v`: losses with rotation and without."""
    number = GGML_NUMBERS[name]
    form = GGML_TYPES[number]
    return CacheType(name, number, form.block, form.block_bytes, Loss(*k), Loss(*v), chosen)


_NOTHING = (0.0, 0.0)

# From the most precise to the smallest. Losses: @@SOURCE@@
CACHE_TYPES: dict[str, CacheType] = {
    t.name: t
    for t in (
        _type("f32", _NOTHING, _NOTHING, chosen=False),
        _type("f16", _NOTHING, _NOTHING),
        _type("bf16", (0.0002, 0.0002), (0.0001, 0.0001), chosen=False),
        _type("q8_0", (0.0002, 0.0003), (0.0001, 0.0001)),
        _type("q5_1", (0.0091, 0.02), (0.0015, 0.002)),
        _type("q5_0", (0.012, 0.03), (0.002, 0.003)),
        _type("q4_1", (0.035, 0.09), (0.006, 0.008)),
        _type("iq4_nl", (0.035, 0.09), (0.006, 0.008), chosen=False),
        _type("q4_0", (0.0436, 0.14), (0.0064, 0.02)),
    )
}
CHOSEN_TYPES = tuple(t.name for t in CACHE_TYPES.values() if t.chosen)

_PRECISE_BITS = 8  # per element
# Types whose loss hardly anybody notices; a plan goes below them only where it gains by it.
HIGH_PRECISION = frozenset(t.name for t in CACHE_TYPES.values() if t.bits >= _PRECISE_BITS)
