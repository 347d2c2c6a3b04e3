"""The decision itself: how a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

ALL_LAYERS = 99  # as people write "all of them" for n_gpu_layers


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the tuner decides about one load. Field names are llama.cpp's own."""

    n_ctx: int  # tokens; llama.cpp pads it to a multiple of 256
    type_k: str = "f16"  # a name in cache_types.CACHE_TYPES
    type_v: str = "f16"
    n_gpu_layers: int = 0  # 0..n_layer+1; the first one is the output layer
    n_cpu_moe: int = 0  # the first N layers keep their expert tensors in RAM
    n_ubatch: int = 512  # tokens per compute graph; n_batch is the larger of it and 512
    tensor_split: tuple[float, ...] = ()  # share of the offloaded layers per GPU; empty: one GPU
    flash_attn: str = "on"  # "on" | "off" | "auto"
    swa_full: bool = False  # a sliding window keeps only its window
    use_extra_bufts: bool = True  # repacked CPU weights (AMX, REPACK); off after such a crash

    @property
    def n_batch(self) -> int:
        """Tokens handed to one llama_decode call."""
        return max(512, self.n_ubatch)
