"""Turns that stay where those before them go, or a summary takes their place.

What was read of them moves to where they stand in the next prompt. Until that is read up to there,
their cells lie beside its sequence, in another one of the same cache: the engine reads only behind
the last position of a sequence (src/llama-batch.cpp), and to which one a cell belongs is a bit of
it (`llama_kv_cache::seq_cp`), so that this takes neither time nor memory.

They were computed with what is gone before them. That is what somebody wants who lets turns go or
has them summarised, and nobody else: behind a question that was edited they would go on from words
that were taken back. So it is done only where that was asked for (`Generate.may_move`), and where
all the turns that stay are found (`Turns`): an edit ends a conversation, what was found elsewhere
is not all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from tuner.engine.kept import shared

LEAST = 128  # tokens: fewer are read as fast
_GRAM = 24  # tokens by which a run is found,
_TRIES = 8  # of so many places that look alike


class AsideMemory(Protocol):
    """What is asked of the engine's memory; positions of one sequence, and of what lies aside."""

    @property
    def moves(self) -> bool: ...  # positions can be shifted

    def cut(self, length: int) -> bool: ...

    def lay_aside(self, first: int, end: int) -> None: ...  # out of the sequence

    def keep_aside(self, first: int, end: int) -> None: ...  # of what lies there, only these

    def shift_aside(self, by: int) -> None: ...

    def turn_keys(self) -> bool: ...  # of what was shifted. False: now it holds anything

    def take_back(self) -> None: ...  # into the sequence


@dataclass(frozen=True, slots=True)
class Turns:
    """Where the turns that stay stand in a prompt, in tokens."""

    begin_by: int  # at the latest
    end_from: int  # at the earliest


Stays = Callable[[], Turns]  # asked only where there is something to move


@dataclass(frozen=True, slots=True)
class Run:
    """`n` tokens of a prompt that were read before."""

    source: int  # where they begin in what was read
    at: int  # and in the prompt
    n: int


@dataclass(frozen=True, slots=True)
class Found:
    """One in the cache: in the sequence itself, or beside it. `as_it_was`: it goes on from what it
    was read behind."""

    run: Run
    own: bool
    as_it_was: bool = False


@dataclass(frozen=True, slots=True)
class _Lying:
    tokens: tuple[int, ...]
    first: int  # position of the first
    n_exact: int  # tokens up to which the cache holds, once they are joined, what reading gives
    moved: bool = False
    joins: bool = False  # the prompt that is read has them there


class Aside:
    """What lies beside the sequence of a cache that can be cut anywhere."""

    def __init__(self, memory: AsideMemory):
        self._memory = memory
        self._lying: _Lying | None = None

    @property
    def joins_at(self) -> int | None:
        """After how many tokens of the prompt that is read it is to be joined."""
        return self._lying.first if self._lying is not None and self._lying.joins else None

    @property
    def n_joining(self) -> int:
        """Tokens that this will bring."""
        return len(self._lying.tokens) if self._lying is not None and self._lying.joins else 0

    def forget(self) -> None:
        """The memory was cleared."""
        self._lying = None

    def drop(self) -> None:
        """Its cells are free."""
        if self._lying is not None:
            self._memory.keep_aside(0, 0)
            self._lying = None

    # ------------------------------------------------------------ finding

    def found(
        self,
        tokens: Sequence[int],
        prompt: Sequence[int],
        keep: int,
        stays: Stays | None,
        exact: bool,
    ) -> Found | None:
        """What else of a prompt was read, of which the sequence has the first `keep` tokens.
        `exact`: only what reading it anew would give."""
        lying = self._lying
        if lying is not None and not lying.moved and lying.first == keep:
            n = min(shared(lying.tokens, prompt[keep:]), len(prompt) - 1 - keep)
            n = min(n, lying.n_exact - keep) if exact else n
            if n > 0:
                return Found(Run(0, keep, n), own=False, as_it_was=True)
        if stays is None or exact:
            return None
        beside = staying(lying.tokens, prompt, keep, stays) if lying is not None else None
        own = staying(tokens[keep:], prompt, keep, stays)
        if own is not None and (beside is None or own.n >= beside.n):
            return Found(replace(own, source=own.source + keep), own=True)
        return Found(beside, own=False) if beside is not None else None

    # ------------------------------------------------------------ moving

    def lay_rest(self, tokens: Sequence[int], keep: int, n_exact: int, room: int) -> bool:
        """Lays aside what comes behind `keep` tokens, where so many cells may hold it, and cuts the
        sequence there. What lies there from before stays, and what was asked since goes."""
        lying = self._lying
        if lying is None or lying.moved or lying.first > keep or len(lying.tokens) > room:
            self.drop()
            if not LEAST <= len(tokens) - keep <= room:
                return False
            self._memory.lay_aside(keep, len(tokens))
            self._lying = _Lying((*tokens[keep:],), keep, n_exact)
        self._memory.cut(keep)
        return True

    def arrange(self, tokens: Sequence[int], found: Found, keep: int, n_exact: int) -> bool:
        """Has a run lie where the prompt has it; the sequence ends after `keep` tokens then. False:
        the memory holds anything."""
        memory, run, lying = self._memory, found.run, self._lying
        if found.own:
            self.drop()
            first = run.source
            memory.lay_aside(first, first + run.n)
        else:
            assert lying is not None
            first = lying.first + run.source
            memory.keep_aside(first, first + run.n)
            tokens, n_exact = lying.tokens, lying.n_exact
        memory.cut(keep)
        if run.at != first:
            memory.shift_aside(run.at - first)
            if not memory.turn_keys():
                return False
        some = (*tokens[run.source : run.source + run.n],)
        exact = n_exact if found.as_it_was else min(run.at, n_exact)
        self._lying = _Lying(some, run.at, exact, moved=not found.as_it_was, joins=True)
        return True

    def join(self) -> tuple[tuple[int, ...], int]:
        """It goes on from what the sequence holds. Returns its tokens, and up to which that is
        exact."""
        lying = self._lying
        assert lying is not None
        self._lying = None
        self._memory.take_back()
        return lying.tokens, lying.n_exact


def staying(read: Sequence[int], prompt: Sequence[int], keep: int, stays: Stays) -> Run | None:
    """The turns that stay, behind the first `keep` tokens of a prompt, in what was read."""
    if min(len(prompt) - keep, len(read)) < LEAST:
        return None
    run = longest_run(read, prompt, keep)
    if run is None or run.n < LEAST:
        return None
    turns = stays()
    whole = run.at <= turns.begin_by and run.at + run.n >= turns.end_from
    return run if whole else None


def longest_run(read: Sequence[int], prompt: Sequence[int], first: int = 0) -> Run | None:
    """The longest part of a prompt, from its token `first` on but for its last one, that was read:
    of those that some of their tokens tell."""
    grams: dict[tuple[int, ...], list[int]] = {}
    for at in range(0, len(read) - _GRAM + 1, _GRAM):
        grams.setdefault((*read[at : at + _GRAM],), []).append(at)
    best, end = None, len(prompt) - 1
    at = first
    while at + _GRAM <= end:
        places = grams.get((*prompt[at : at + _GRAM],), ())
        runs = [_grown(read, prompt, place, at, first, end) for place in places[:_TRIES]]
        longest = max(runs, key=lambda run: run.n, default=None)
        if longest is not None and (best is None or longest.n > best.n):
            best = longest
        at = at + 1 if longest is None else longest.at + longest.n
    return best


def _grown(
    read: Sequence[int], prompt: Sequence[int], place: int, at: int, first: int, end: int
) -> Run:
    """The run around two places that are alike."""
    before = 0
    while before < min(place, at - first) and read[place - before - 1] == prompt[at - before - 1]:
        before += 1
    n = 0
    while place + n < len(read) and at + n < end and read[place + n] == prompt[at + n]:
        n += 1
    return Run(place - before, at - before, before + n)
