"""Which tokens the engine's cache holds, and how much of it a new prompt can keep."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Protocol


class CacheMemory(Protocol):
    """What is asked of the engine's memory (llama_memory_*); positions of one sequence."""

    @property
    def first_position(self) -> int: ...

    def cut(self, length: int) -> bool: ...

    def clear(self) -> None: ...


class PrefixCache:
    """`tokens` always names exactly what the engine's cache was given and can go on from."""

    def __init__(self, memory: CacheMemory, window: int, keeps_a_state: bool):
        """`window`: tokens of the model's sliding window, 0 for none. `keeps_a_state`: a
        recurrent or hybrid model, whose state only goes forward."""
        self._memory = memory
        self._window = window
        self._keeps_a_state = keeps_a_state
        self.tokens: list[int] = []

    def reuse(self, prompt: Sequence[int]) -> int:
        """Cuts the cache back to what it has in common with the prompt and returns that many
        tokens. At least the prompt's last token stays to be computed, for its logits."""
        same = takewhile(lambda pair: pair[0] == pair[1], zip(self.tokens, prompt, strict=False))
        keep = min(sum(1 for _ in same), len(prompt) - 1)
        if keep == len(self.tokens):
            return keep
        if keep == 0 or not self._window_reaches(keep) or not self._memory.cut(keep):
            self.forget()
            return 0
        del self.tokens[keep:]
        return keep

    def repair(self) -> None:
        """Brings the engine's memory back to `tokens` after a decode that was aborted or failed
        midway. A recurrent state has gone on and cannot go back: all of it is forgotten."""
        keep = len(self.tokens)
        if self._keeps_a_state or keep == 0 or not self._memory.cut(keep):
            self.forget()

    def forget(self) -> None:
        self._memory.clear()
        self.tokens.clear()

    def _window_reaches(self, keep: int) -> bool:
        """Whether a sliding window's cache still holds what the token at position `keep` looks
        at: it drops positions as it moves on, and seq_rm says nothing about that. The cache is
        without holes from its first position on (llama-kv-cache.cpp, apply_ubatch)."""
        if self._window <= 0:
            return True
        return self._memory.first_position <= max(0, keep - self._window + 1)
