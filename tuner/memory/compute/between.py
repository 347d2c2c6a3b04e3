"""Few contexts stand for all: compute buffers at some of them, straight lines in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tuner.memory.placement import Placement
from tuner.model.hparams import HParams
from tuner.settings import Settings

LEAST_SAMPLED = 2048  # tokens; up to here a context may be smaller than a window or a batch
LARGE = 1 << 17  # tokens; what is linear is sampled here next
EVERY_CONTEXT = 1 << 62  # as `exact_up_to`: none is taken from a line


class Peak(NamedTuple):
    """What the compute buffer of one device must hold."""

    size: int  # bytes
    guessed: bool = False  # of layers for which there is no graph


class Peaks(NamedTuple):
    """What compute buffers must hold."""

    sizes: tuple[int, ...]  # bytes per GPU, then on the host
    guessed: bool = False  # of layers for which there is no graph, or none of a known order
    # operations of GPUs' layers that the host computes, as the GPU (its number) has no kernel
    on_cpu: tuple[tuple[int, str], ...] = ()


def sampled_contexts(n_ctx: int, exact_up_to: int, *, linear: bool) -> tuple[int, int]:
    """The two contexts with a replay that enclose this one, equal where it has its own. `linear`:
    the masks are all that grows, so few will do; else there is one to each power of two."""
    floor = 1 << (max(exact_up_to, LEAST_SAMPLED) - 1).bit_length()
    if n_ctx <= floor:
        return n_ctx, n_ctx
    if linear:
        low = floor
        high = max(2 * floor, LARGE)
        while high < n_ctx:
            low, high = high, 8 * high
        return (n_ctx, n_ctx) if n_ctx in (low, high) else (low, high)
    high = 1 << (n_ctx - 1).bit_length()
    return (n_ctx, n_ctx) if high == n_ctx else (high // 2, high)


def grows_unevenly(hp: HParams, settings: Settings, where: Placement, scratch: str) -> bool:
    """Whether more than the masks grows with the context, so that the largest of what is held at
    once may be another sum at every context. `scratch`: as in `Backend.attention_scratch`."""
    if any(hp.recurrent) or settings.n_cpu_moe > 0:
        return True
    if hp.n_swa > 0 and where.on_host and where.output >= 0:
        return True
    copied = scratch and not settings.type_k == settings.type_v == "f16"
    return bool(copied) or scratch == "Metal"


class ContextSamples:
    """Compute buffers of settings that differ by context alone.

    A line between two contexts is at least the truth, since the peak is the largest of sums that
    grow linearly. Not so under sparse attention, where the context decides which hole a tensor
    takes: there `exact_up_to` is EVERY_CONTEXT.
    """

    __slots__ = ("_devices", "_exact_up_to", "_known", "_linear", "_peak", "_peaks")

    def __init__(
        self, peak: Callable[[int, int], Peak], devices: int, exact_up_to: int, *, linear: bool
    ):
        """`peak` replays the graph at a context of so many tokens, on a device."""
        self._peak, self._devices = peak, range(devices)
        self._exact_up_to, self._linear = exact_up_to, linear
        self._known: dict[tuple[int, int], Peak] = {}
        self._peaks: dict[int, Peaks] = {}

    def at(self, n_ctx: int) -> Peaks:
        """What a context of `n_ctx` tokens, already padded, needs."""
        found = self._peaks.get(n_ctx)
        if found is None:
            peaks = [self.on(device, n_ctx) for device in self._devices]
            sizes, guessed = zip(*peaks, strict=True)
            found = self._peaks[n_ctx] = Peaks(sizes, any(guessed))
        return found

    def on(self, device: int, n_ctx: int) -> Peak:
        """The same of one device alone."""
        found = self._known.get((device, n_ctx))
        if found is None:
            low, high = sampled_contexts(n_ctx, self._exact_up_to, linear=self._linear)
            if low == high:
                found = self._peak(n_ctx, device)
            else:
                share = (n_ctx - low) / (high - low)
                found = _between(self.on(device, low), self.on(device, high), share)
            self._known[device, n_ctx] = found
        return found


def _between(below: Peak, above: Peak, share: float) -> Peak:
    """The point on the line, `share` of the way up."""
    a, b = below.size, above.size
    size = a if a == b else int(a + (b - a) * share)
    return Peak(size, below.guessed or above.guessed)
