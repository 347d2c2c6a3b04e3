"""The KV-cache types that llama.cpp offers: what they cost in bytes and, at first, in quality."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.errors import UsageError
from tuner.gguf.types import GGML_NUMBERS, GGML_TYPES

# Nats per token that any pair but f16 differs from f16 by, on the model that was measured (below).
# No loss: f16 itself, read in batches of 32 tokens, differs by 0.0045, since another of the CPU's
# kernels then rounds otherwise (`use_tiled`, ggml-cpu/ops.cpp). bf16 and q8_0 lose no more.
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
    `k_seconds` and `v_seconds`: what a core takes for an element of a row of it when one token is
    attended to: a product with K (`vec_dot`), V unpacked to f32 and added up (`to_float`; f16 is
    added up as it is). Measured kernel by kernel at head sizes of 64 to 256 on a core with AVX-512;
    the machine learns how fast its own cores are beside that (`Pace.attention`).
    """

    name: str
    ggml: int
    block: int
    block_bytes: int
    k_loss: Loss
    v_loss: Loss
    k_seconds: float
    v_seconds: float
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
    name: str,
    k: tuple[float, float],
    v: tuple[float, float],
    ns: tuple[float, float],
    *,
    chosen: bool = True,
) -> CacheType:
    """`k` and `v`: losses with rotation and without. `ns`: nanoseconds per element of K and V."""
    number = GGML_NUMBERS[name]
    form = GGML_TYPES[number]
    losses, seconds = (Loss(*k), Loss(*v)), (ns[0] * 1e-9, ns[1] * 1e-9)
    return CacheType(name, number, form.block, form.block_bytes, *losses, *seconds, chosen)


_NOTHING = (0.0, 0.0)

# From the most precise to the smallest. Losses of K and V, each with rotation and without. Their
# sum and `NOISE` give what was measured on SmolLM2-135M-Instruct (Q4_1, on a CPU) with
# llama-cpp-python 0.3.36 over 1,024 tokens: f16/q8_0 0.0042, q8_0/q8_0 0.0044, q8_0/q5_1 0.0058,
# q8_0/q4_0 0.0107, q5_1/q5_1 0.0147, q4_0/q8_0 0.0478, q4_0/q4_0 0.0536, and without rotation 0.17.
# The other types are of 512 tokens of a second text, each with q8_0 beside it, times 1.1, by which
# the pairs differ that both texts have.
CACHE_TYPES: dict[str, CacheType] = {
    t.name: t
    for t in (
        _type("f32", _NOTHING, _NOTHING, (0.06, 0.06), chosen=False),
        _type("f16", _NOTHING, _NOTHING, (0.045, 0.035)),
        _type("bf16", (0.0001, 0.0001), (0.0001, 0.0001), (0.045, 0.16), chosen=False),
        _type("q8_0", (0.0002, 0.0008), (0.0001, 0.0004), (0.03, 0.26)),
        _type("q5_1", (0.0091, 0.0190), (0.0015, 0.0019), (0.06, 1.27)),
        _type("q5_0", (0.0098, 0.0420), (0.0019, 0.0030), (0.06, 1.92)),
        _type("q4_1", (0.0379, 0.0810), (0.0058, 0.0066), (0.05, 0.66)),
        _type("iq4_nl", (0.0394, 0.1030), (0.0058, 0.0070), (0.06, 1.5), chosen=False),
        _type("q4_0", (0.0436, 0.1560), (0.0064, 0.0120), (0.05, 0.64)),
    )
}
CHOSEN_TYPES = tuple(t.name for t in CACHE_TYPES.values() if t.chosen)

_PRECISE_BITS = 8  # per element
# Types whose loss hardly anybody notices; a plan goes below them only where it gains by it.
HIGH_PRECISION = frozenset(t.name for t in CACHE_TYPES.values() if t.bits >= _PRECISE_BITS)


def cache_type(where: str, name: str) -> str:
    """The name of a type, however it is written. `where`: it was. Raises UsageError."""
    found = name.lower()
    if found not in CACHE_TYPES:
        known = ", ".join(CACHE_TYPES)
        raise UsageError(f"'{found}' is not a cache type; {where} takes one of {known}.")
    return found
