"""What a GPU gives for a load beside the engine's buffers: at once (`overhead`: the driver's
context, its kernels) and more with the first long prompt (`growth`: scratch memory that a backend
takes when it first needs it, CUDA graphs, libraries of matrix products).

The figures are what people's logs of llama.cpp show, of 2025 and 2026, in MiB; none was measured
here. Most logs tell the sum alone, at a program's end. `most` is the largest that was seen or,
where that had a desktop inside or was of one card, what is likely. A first load teaches better.

A CUDA context alone has some 70 MiB, and 1.8 for each 1,024 threads that the card can hold: RTX
3060 (28 multiprocessors of 1,536 threads) 113, RTX 5060 Ti (36) 137 and 211, A40 (84) 267, RTX 3090
(82) 279 and 344, RTX PRO 6000 (188) 561 and 569; of 1,024 threads RTX 2070 (36) 99, GTX 1650 (14)
123. So large cards have more; of those before 7.0 nothing is known but that they are small. At a
program's end, growth included, an RTX 4090 had 451 to 456, an RTX 5090 under Windows 325.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from tuner.units import GIB, MIB

USUAL_UBATCH = 512  # tokens: of the logs that say nothing else


class Spread(NamedTuple):
    """Bytes: what is planned with, and what it may come to."""

    usual: int = 0
    most: int = 0

    @classmethod
    def mib(cls, usual: int, most: int) -> Spread:
        return cls(usual * MIB, most * MIB)


NO_SPREAD = Spread()


class Shown(NamedTuple):
    """A growth that was measured on this machine, with micro-batches of so many tokens."""

    n_ubatch: int
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Growth:
    """By how much more a device gives once a prompt has filled a micro-batch."""

    assumed: Spread = NO_SPREAD
    # With experts, bytes for each token of a micro-batch: what larger ones than the usual are taken
    # to need, and the usual one may. 0: as without.
    by_experts: int = 0
    shown: tuple[Shown, ...] = ()  # of this model or a larger one; both ascend

    def of(self, n_ubatch: int, *, experts: bool) -> Spread:
        """Bytes with micro-batches of so many tokens, which never fall as these grow."""
        least = 0
        for shown in self.shown:
            if n_ubatch <= shown.n_ubatch:
                return Spread(shown.size, shown.size)
            least = shown.size
        usual, most = self.assumed
        if experts:
            by_batch = self.by_experts * n_ubatch
            most = max(most, by_batch)
            usual = max(usual, by_batch) if n_ubatch > USUAL_UBATCH else usual
        return Spread(max(usual, least), max(most, least))

    def source(self, n_ubatch: int) -> str:
        """Where that is from: "measured" on this machine, or "assumed"."""
        measured = bool(self.shown) and n_ubatch <= self.shown[-1].n_ubatch
        return "measured" if measured else "assumed"

    def unknown_from(self, *, experts: bool) -> int | None:
        """The tokens of a micro-batch beyond which nobody knows what one costs here; None: none."""
        if not (experts and self.by_experts):
            return None
        return max(USUAL_UBATCH, self.shown[-1].n_ubatch if self.shown else 0)

    def learned(self, shown: tuple[Shown, ...], at_least: int = 0) -> Growth:
        """With what was measured here; `at_least`: of smaller models, which says that little."""
        usual, most = (max(size, at_least) for size in self.assumed)
        return replace(self, assumed=Spread(usual, most), shown=shown)


NO_GROWTH = Growth()


class Card(NamedTuple):
    """What of a card tells its class."""

    name: str = ""
    capability: tuple[int, int] = (8, 0)  # as most cards have it, where it is not known
    total: int = 0  # bytes of memory of its own
    n_sm: int = 0  # multiprocessors; 0: not known


@dataclass(frozen=True, slots=True)
class CardClass:
    """Cards of one backend that are alike in this. What a class leaves out says nothing."""

    overhead: Spread = NO_SPREAD
    growth: Growth = NO_GROWTH
    capability: tuple[int, int] = (0, 0)  # the least of its cards; CUDA only
    total: int = 0  # bytes of memory of their own, the least
    n_sm: int = 0  # multiprocessors, the most; 0: any number
    words: tuple[str, ...] = ()  # of which one is in the card's name

    def has(self, card: Card) -> bool:
        """Whether a card is one of them."""
        few = not self.n_sm or 0 < card.n_sm <= self.n_sm
        named = not self.words or any(word in card.name for word in self.words)
        return few and named and card.capability >= self.capability and card.total >= self.total


CardClasses = tuple[CardClass, ...]  # the first that has a card counts, the last has all

NOTHING: CardClasses = (CardClass(),)
# Of backends of which nothing is known, as of Metal: no context, but heaps and pipelines.
LITTLE: CardClasses = (CardClass(Spread.mib(128, 500)),)

# After a long prompt 98 (RTX 5090, 200,000 tokens) and 172 (RTX 4070, 28,000) more.
_CUDA_GROWTH = Growth(Spread.mib(130, 190))
_LARGE = 64 * GIB
CUDA: CardClasses = (
    # Those of 28 and 36 multiprocessors above had 113 to 211 for the context.
    CardClass(Spread.mib(300, 350), _CUDA_GROWTH, capability=(8, 0), n_sm=48),
    # 9.0 and 10.0 have 2,048 threads and over 130 multiprocessors: about 540 for the context, no
    # less than the RTX PRO 6000's. Their parts (MIG), with less memory, have fewer.
    CardClass(Spread.mib(720, 810), _CUDA_GROWTH, capability=(9, 0), total=_LARGE),
    CardClass(Spread.mib(520, 660), _CUDA_GROWTH, capability=(9, 0)),
    # An A100's context would be about 450.
    CardClass(Spread.mib(520, 660), _CUDA_GROWTH, capability=(8, 0), total=_LARGE),
    CardClass(Spread.mib(350, 410), _CUDA_GROWTH, capability=(8, 0)),
    CardClass(Spread.mib(220, 260), _CUDA_GROWTH),
)

# Idle MI50 253 and 254, an integrated one 313; a MI355X 1,488 after a load, with something beside
# it. The same source as CUDA's, graphs included, so it is taken to grow alike.
ROCM: CardClasses = (
    CardClass(Spread.mib(894, 1310), _CUDA_GROWTH, words=("MI300", "MI308", "MI325", "MI35")),
    CardClass(Spread.mib(255, 315), _CUDA_GROWTH),
)

# On NVIDIA's after a load 5 to 54, after a prompt 13 to 207 more, at an end 251. With experts one
# log: 1,872 more at n_ubatch 2,048. On AMD's only with a desktop inside: 450 of an integrated one.
_VULKAN_GROWTH = Growth(Spread.mib(192, 208), by_experts=1872 * MIB // 2048)
VULKAN: CardClasses = (
    CardClass(Spread.mib(64, 64), _VULKAN_GROWTH, words=("NVIDIA",)),
    CardClass(Spread.mib(192, 258), _VULKAN_GROWTH),
)
# At an end 0, 0, 0, 495 and 933, growth included.
METAL: CardClasses = LITTLE
# One log, of a card that had nothing left: 2,265.
SYCL: CardClasses = (CardClass(Spread.mib(512, 2265)),)
