"""What is kept of a conversation in RAM beside the engine's cache: where it can go back to, and
what it held before it went another way. Bounded in bytes; what is of least use goes first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

from tuner.settings import Settings
from tuner.units import INT32

# A checkpoint far from where a conversation goes on is asked for less often: as if so many tokens
# more lay between them.
_NEAR = 256


ALL = INT32  # tokens


class State(Protocol):
    """Bytes that the engine wrote; they go with the last that refers to them."""

    @property
    def n_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What of the engine's memory cannot be cut, as it was after so many tokens."""

    n_tokens: int
    state: State


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """A conversation as the cache held it: its tokens, all of its state, and its checkpoints."""

    tokens: tuple[int, ...]
    state: State
    checkpoints: tuple[Checkpoint, ...] = ()
    n_exact: int = ALL  # tokens up to which it is what reading them anew would give
    settings: Settings | None = None  # of the context that held it; None: of the one that is

    def is_as(self, settings: Settings | None) -> bool:
        """Whether a cache with these settings would have it so."""
        one, other = self.settings, settings
        return one is None or other is None or _kind(one) == _kind(other)

    @property
    def n_bytes(self) -> int:
        return self.state.n_bytes + sum(point.state.n_bytes for point in self.checkpoints)


def _kind(settings: Settings) -> tuple[str, str, str, bool]:
    return settings.type_k, settings.type_v, settings.flash_attn, settings.swa_full


def shared(tokens: Sequence[int], prompt: Sequence[int]) -> int:
    """With how many tokens both begin."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(tokens, prompt, strict=False))
    return sum(1 for _ in same)


def nearest(points: Sequence[Checkpoint], n_tokens: int) -> Checkpoint | None:
    """The last of them, in order, at or before so many tokens."""
    found = [point for point in points if point.n_tokens <= n_tokens]
    return found[-1] if found else None


class Kept:
    """The checkpoints of what the cache holds, in order, and the branches that it held before, the
    one that was used last at the end."""

    def __init__(self, most_bytes: int):
        self._most = most_bytes
        self.checkpoints: list[Checkpoint] = []
        self.branches: list[Branch] = []

    @property
    def n_bytes(self) -> int:
        """Of all states; a branch and what went on from it may have some in common."""
        points = [*self.checkpoints, *(p for branch in self.branches for p in branch.checkpoints)]
        states = [branch.state for branch in self.branches] + [point.state for point in points]
        return sum({id(state): state.n_bytes for state in states}.values())

    def room_for_checkpoint(self, n_bytes: int) -> bool:
        """Makes some. Branches go first, the newest checkpoint last: it is asked for most."""
        if n_bytes > self._most:
            return False
        while self.n_bytes + n_bytes > self._most:
            if self.branches:
                del self.branches[0]
            else:
                self._lose_one()
        return True

    def room_for_branch(self, n_bytes: int) -> bool:
        """Makes some: other branches go. None goes where that would not be enough."""
        points = sum(point.state.n_bytes for point in self.checkpoints)
        if points + n_bytes > self._most:
            return False
        while self.n_bytes + n_bytes > self._most:
            del self.branches[0]
        return True

    def take_over(self, branches: Iterable[Branch]) -> None:
        """Those of another cache on the same weights, in order."""
        for branch in branches:
            if self.room_for_branch(branch.n_bytes):
                self.branches.append(branch)

    def add(self, point: Checkpoint) -> None:
        """A checkpoint that there is room for, behind those before it."""
        self.lose_from(point.n_tokens)
        self.checkpoints.append(point)

    def lose_from(self, n_tokens: int) -> None:
        """The checkpoints at, or behind, so many tokens."""
        self.checkpoints = [point for point in self.checkpoints if point.n_tokens < n_tokens]

    def _lose_one(self) -> None:
        """The checkpoint without which the least is read again, as often as that is likely."""
        points = self.checkpoints
        before = [0, *(point.n_tokens for point in points)]
        end = before[-1]

        def worth(i: int) -> float:
            return (points[i].n_tokens - before[i]) / (end - points[i].n_tokens + _NEAR)

        del points[min(range(len(points)), key=worth)]
