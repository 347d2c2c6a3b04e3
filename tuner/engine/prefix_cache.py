"""Which tokens the engine's cache holds, and how much of it a new prompt can keep.

A thought is not in the next prompt, so that the cache must go back behind it. A recurrent state
cannot, and a sliding window only as far as it reaches: for these a checkpoint is kept, as
llama-server keeps some (`n_ctx_checkpoints`, common/common.h), of where the prompt
was almost read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Protocol

# Tokens: more than a prompt's last ones, which open an answer and are written otherwise once that
# is an earlier one.
_OPENING = 16


class CacheMemory(Protocol):
    """What is asked of the engine's memory (llama_memory_*); positions of one sequence."""

    @property
    def first_position(self) -> int: ...

    def cut(self, length: int) -> bool: ...

    def clear(self) -> None: ...

    def checkpoint(self) -> Any | None: ...  # of what cannot be cut; None: too large

    def restore(self, state: Any) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """What the engine's memory held after so many tokens."""

    n_tokens: int
    state: Any


class PrefixCache:
    """`tokens` always names exactly what the engine's cache was given and can go on from."""

    def __init__(self, memory: CacheMemory, window: int, keeps_a_state: bool):
        """`window`: tokens of the model's sliding window, 0 for none. `keeps_a_state`: a
        recurrent or hybrid model, whose state only goes forward."""
        self._memory = memory
        self._window = window
        self._keeps_a_state = keeps_a_state
        self._checkpoint: _Checkpoint | None = None
        self.tokens: list[int] = []

    def reuse(self, prompt: Sequence[int]) -> int:
        """Cuts the cache back to what it has in common with the prompt and returns that many
        tokens. At least the prompt's last token stays to be computed, for its logits."""
        same = takewhile(lambda pair: pair[0] == pair[1], zip(self.tokens, prompt, strict=False))
        keep = min(sum(1 for _ in same), len(prompt) - 1)
        if keep == len(self.tokens):
            return keep
        if keep == 0 or not self._window_reaches(keep) or not self._memory.cut(keep):
            return self._go_back(keep)
        del self.tokens[keep:]
        if self._checkpoint is not None and self._checkpoint.n_tokens > keep:
            self._checkpoint = None
        return keep

    def checkpoint_at(self, prompt: Sequence[int]) -> int:
        """After how many of a prompt's tokens `keep_checkpoint` is to be called, once it is known
        what is reused of it; 0 for never."""
        if self._window <= 0 and not self._keeps_a_state:  # can be cut anywhere
            return 0
        at = max(0, len(prompt) - _OPENING)
        if at >= len(self.tokens):
            return at
        return 0 if self._checkpoint else len(self.tokens)

    def keep_checkpoint(self) -> None:
        """Keeps what the engine's memory holds now, in place of what was kept before."""
        self._checkpoint = None  # first: two may not fit
        state = self._memory.checkpoint()
        if state is not None:
            self._checkpoint = _Checkpoint(len(self.tokens), state)

    def repair(self) -> None:
        """Brings the engine's memory back to `tokens` after a decode that was aborted or failed
        midway, and these to its checkpoint where it cannot go back otherwise: a recurrent state
        has gone on."""
        keep = len(self.tokens)
        if self._keeps_a_state or keep == 0 or not self._memory.cut(keep):
            self._go_back(keep)

    def forget(self) -> None:
        self._memory.clear()
        self._checkpoint = None
        self.tokens.clear()

    def _go_back(self, keep: int) -> int:
        """To the checkpoint, which is to be among the first `keep` tokens; without one, to
        nothing."""
        found = self._checkpoint
        if (
            found is None
            or found.n_tokens > keep
            or not self._memory.restore(found.state)
            or not self._memory.cut(found.n_tokens)
        ):
            self.forget()
            return 0
        del self.tokens[found.n_tokens :]
        return found.n_tokens

    def _window_reaches(self, keep: int) -> bool:
        """Whether a sliding window's cache still holds what the token at position `keep` looks
        at: it drops positions as it moves on, and seq_rm says nothing about that. The cache is
        without holes from its first position on (llama-kv-cache.cpp, apply_ubatch)."""
        if self._window <= 0:
            return True
        return self._memory.first_position <= max(0, keep - self._window + 1)
