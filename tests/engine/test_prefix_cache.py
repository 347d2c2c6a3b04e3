"""Prefix reuse against models of llama.cpp's memories, whatever the conversation does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.engine.beside import Run, Turns, longest_run
from tuner.engine.kept import Branch
from tuner.engine.prefix_cache import PrefixCache


@dataclass(frozen=True)
class Snapshot:
    """Of a memory: a byte a token."""

    held: tuple[int, ...]
    first: int

    @property
    def n_bytes(self) -> int:
        return len(self.held)


class Full:
    """A plain cache: keeps everything, cuts anywhere."""

    def __init__(self) -> None:
        self.held: list[int] = []  # the token at every position that was decoded
        self.first = 0
        self.aside: dict[int, int] = {}  # by position
        self.lost = 0  # of these, gone from a window

    @property
    def first_position(self) -> int:
        return self.first if self.held else -1

    @property
    def end_position(self) -> int:
        return len(self.held)

    def cut(self, length: int) -> bool:
        del self.held[length:]
        return True

    @property
    def moves(self) -> bool:
        return True

    def lay_aside(self, first: int, end: int) -> None:
        """What came behind is cut next."""
        assert not self.aside
        self.aside = dict(zip(range(first, end), self.held[first:end], strict=True))
        self.lost = max(0, self.first - first)
        del self.held[first:]

    def keep_aside(self, first: int, end: int) -> None:
        self.aside = {at: token for at, token in self.aside.items() if first <= at < end}

    def shift_aside(self, by: int) -> None:
        self.aside = {at + by: token for at, token in self.aside.items()}

    def turn_keys(self) -> bool:
        return True

    def take_back(self) -> None:
        assert [*self.aside] == [*range(len(self.held), len(self.held) + len(self.aside))]
        if self.lost:
            self.first = len(self.held) + self.lost
        self.held += self.aside.values()
        self.aside = {}

    def clear(self) -> None:
        self.held.clear()
        self.aside = {}
        self.first = 0

    def state_bytes(self, *, partial: bool) -> int:
        return len(self.held)

    def state(self, *, partial: bool) -> Snapshot | None:
        return Snapshot((*self.held,), self.first)

    def restore(self, state: Snapshot, *, partial: bool) -> bool:
        """A part is only what cannot be cut: all else holds on to what came after."""
        if partial:
            assert self.held[: len(state.held)] == [*state.held]
        else:
            self.held = [*state.held]
        self.first = state.first
        return True

    def decode(self, tokens: list[int]) -> None:
        self.held += tokens

    def abort_decode(self) -> None:
        """Half a batch went in."""
        self.held += [9, 9]


class Windowed(Full):
    """A sliding window's cache: as it goes on, positions before the window are overwritten, and
    cutting back does not bring them home (llama-kv-cache-iswa.cpp)."""

    WINDOW, SLACK = 4, 3

    def decode(self, tokens: list[int]) -> None:
        for token in tokens:
            # What a token looks at must be there, or the answer is silently wrong.
            assert self.first <= max(0, len(self.held) - self.WINDOW + 1)
            self.held.append(token)
            self.first = max(self.first, len(self.held) - self.WINDOW - self.SLACK)


class Recurrent(Full):
    """A state: it cannot go back (llama-memory-recurrent.cpp)."""

    def cut(self, length: int) -> bool:
        return length >= len(self.held)

    def restore(self, state: Snapshot, *, partial: bool) -> bool:
        self.held = [*state.held]
        return True

    def abort_decode(self) -> None:
        """The state has moved on, whatever its position says."""
        self.held[-1] = 9


MOST = 60  # bytes


def read(
    memory: Full,
    cache: PrefixCache,
    prompt: list[int],
    answer: list[int],
    starts: Sequence[int] = (),
) -> None:
    """What is not in the cache yet, with the checkpoints that it wants."""
    wanted = cache.checkpoints(prompt, starts)
    assert wanted == sorted(wanted)
    while len(cache.tokens) < len(prompt) + len(answer):
        if len(cache.tokens) in wanted:
            cache.keep_checkpoint()
        if len(cache.tokens) == cache.joins_at:
            assert cache.join() < len(prompt)
        token = (prompt + answer)[len(cache.tokens)]
        memory.decode([token])
        cache.tokens.append(token)


tokens = st.integers(1, 3)  # few, so that prompts share beginnings
turns = st.lists(
    st.tuples(
        st.lists(tokens, min_size=1, max_size=25), st.lists(tokens, max_size=6), st.booleans()
    )
)


@pytest.mark.parametrize("kind", [Full, Windowed, Recurrent])
@given(turns=turns)
def test_what_is_reused_is_really_there(
    kind: type[Full], turns: list[tuple[list[int], list[int], bool]]
) -> None:
    """After any sequence of prompts, answers and aborted decodes, the engine's memory holds
    exactly the prompt and the answer, and no token looked at a position that was gone."""
    memory = kind()
    window = Windowed.WINDOW if kind is Windowed else 0
    cache = PrefixCache(memory, window, keeps_a_state=kind is Recurrent, most_bytes=MOST)
    for prompt, answer, aborted in turns:
        reused = cache.reuse(prompt)
        assert 0 <= reused < len(prompt)
        assert memory.held == cache.tokens == prompt[:reused]
        read(memory, cache, prompt, answer)
        assert cache.kept_bytes <= MOST
        assert memory.held == prompt + answer
        if aborted:
            memory.abort_decode()
            cache.repair()
            assert memory.held == cache.tokens
            assert cache.tokens == (prompt + answer)[: len(cache.tokens)]
            assert kind is Recurrent or cache.tokens == prompt + answer


def test_a_growing_conversation_is_reused_by_every_kind() -> None:
    """The usual case, a prompt that goes on from the last answer, costs only what is new."""
    for kind in (Full, Windowed, Recurrent):
        memory = kind()
        cache = PrefixCache(memory, Windowed.WINDOW, keeps_a_state=kind is Recurrent)
        first = list(range(40))
        assert cache.reuse(first) == 0
        memory.decode(first)
        cache.tokens += first
        assert cache.reuse([*first, 100, 101]) == 40


def test_same_prompt_again() -> None:
    """Asked again, a plain cache computes one token; a state starts over."""
    for kind, expected in ((Full, 9), (Recurrent, 0)):
        memory = kind()
        cache = PrefixCache(memory, 0, keeps_a_state=kind is Recurrent)
        prompt = list(range(10))
        memory.decode(prompt)
        cache.tokens += prompt
        assert cache.reuse(prompt) == expected


@pytest.mark.parametrize(("kind", "n_kept"), [(Full, 39), (Windowed, 24), (Recurrent, 24)])
def test_a_thought_that_the_next_prompt_leaves_out(kind: type[Full], n_kept: int) -> None:
    """What came before it is not read again, but for the prompt's last tokens where the memory
    cannot go back by itself: they opened the answer."""
    memory = kind()
    cache = PrefixCache(memory, Windowed.WINDOW * (kind is Windowed), kind is Recurrent)
    prompt, thought = list(range(40)), [7] * 30
    cache.reuse(prompt)
    read(memory, cache, prompt, thought)
    for _ in range(2):  # also when it is asked again
        assert cache.reuse([*prompt[:39], 100, 101]) == n_kept
        assert memory.held == cache.tokens == prompt[:n_kept]


def test_a_prompt_of_which_little_is_new() -> None:
    """Its end is read already: the checkpoint is where reading goes on, if there is none before."""
    memory = Windowed()
    cache = PrefixCache(memory, Windowed.WINDOW, keeps_a_state=False)
    memory.decode(list(range(30)))
    cache.tokens += range(30)
    prompt = [*range(30), 100, 101]
    cache.reuse(prompt)
    assert cache.checkpoints(prompt) == [30]
    cache.keep_checkpoint()
    assert cache.checkpoints(prompt) == []


def test_where_prompts_part() -> None:
    """Once edited, a question may be edited again: nothing before it is read a second time."""
    memory = Recurrent()
    cache = PrefixCache(memory, 0, keeps_a_state=True)
    start = list(range(300))
    for question, n_reused in ((7, 0), (8, 284), (9, 300)):
        prompt = [*start, *[question] * 40]
        assert cache.reuse(prompt) == n_reused
        read(memory, cache, prompt, [5] * 30, starts=[284] if not n_reused else [])


@pytest.mark.parametrize("kind", [Full, Windowed, Recurrent])
def test_back_and_forth_between_two_branches(kind: type[Full]) -> None:
    """What was read of either is not read again, while there is room for both."""
    memory = kind()
    window = Windowed.WINDOW * (kind is Windowed)
    cache = PrefixCache(memory, window, kind is Recurrent)
    one, other = [1, *[2] * 300], [1, *[3] * 300]
    for prompt in (one, other):
        assert cache.reuse(prompt) <= 1
        read(memory, cache, prompt, [4] * 20)
    for prompt in (one, other, one):
        assert cache.reuse([*prompt, *[4] * 20, 5]) == 321
        assert memory.held == cache.tokens == [*prompt, *[4] * 20]
    assert cache.kept_bytes >= 321
    cache = PrefixCache(memory := kind(), window, kind is Recurrent, most_bytes=300)
    for prompt in (one, other):
        cache.reuse(prompt)
        read(memory, cache, prompt, [4] * 20)
    assert cache.kept_bytes <= 300
    assert cache.reuse(one) <= 1


def test_a_window_that_was_set_aside_cannot_go_back() -> None:
    """Its state has the window alone, so that what the cache holds is gone on from, where no
    checkpoint of the branch reaches further."""
    memory, one = Windowed(), list(range(320))
    cache = PrefixCache(memory, Windowed.WINDOW, keeps_a_state=False)
    memory.decode(one)
    held = Snapshot(tuple(one), len(one) - Windowed.WINDOW)
    cache._kept.branches.append(Branch(tuple(one), held))
    cache.forget()
    read(memory, cache, one[:150], [])
    assert cache.reuse([*one[:318], 7, 7]) == 150
    assert cache.reuse([*one, 7, 7]) == 320


def test_a_thought_that_is_left_out_is_no_branch() -> None:
    """Nobody comes back to it, so that no copy is made."""
    memory = Full()
    cache = PrefixCache(memory, 0, keeps_a_state=False)
    read(memory, cache, [1] * 50, [*[2] * 300, *range(10, 40)])
    cache.reuse([*[1] * 50, *range(10, 40), 6, 6])
    assert cache.kept_bytes == 0


@pytest.mark.parametrize("kind", [Full, Windowed, Recurrent])
def test_turns_that_are_let_go(kind: type[Full]) -> None:
    """What is behind them is moved up where that may be, and else read again, which is said where
    it was asked for."""
    prompt = list(range(1000))
    for stays in (None, lambda: Turns(110, 490)):
        memory = kind()
        window = Windowed.WINDOW * (kind is Windowed)
        cache = PrefixCache(memory, window, kind is Recurrent, most_bytes=0)
        cache.reuse(prompt)
        read(memory, cache, prompt, [5] * 2)
        left = [*prompt[:100], *prompt[600:], 7, 7]
        moved = stays is not None and kind is not Recurrent
        assert cache.reuse(left, stays=stays) == (500 if moved else 100 * (kind is Full))
        assert bool(cache.why) is (kind is Recurrent or (kind is Windowed and not moved))
        assert memory.held == cache.tokens == left[: len(cache.tokens)]
        read(memory, cache, left, [5])
        exact = cache.reuse([*left, 5, 8], exact=True)
        assert exact == (100 * (kind is Full) if moved else 503)
        read(memory, cache, [*left, 5, 8], [])
        assert cache.reuse([*left, 5, 8, 9], exact=True) == 504


ASK, SUMMARY = [2001] * 10, [2002] * 40


@pytest.mark.parametrize("room", [0, 300, 400])
def test_a_summary_in_place_of_turns(room: int) -> None:
    """What stays is not read again: it lies aside while the summary is written, in cells or in
    RAM, and goes on behind it; also where its writing, or the reading of it, was broken off, and
    where nothing came of it."""
    turns = list(range(1000))
    for n_summaries, comes_of_it in ((1, True), (2, True), (1, False)):
        memory = Full()
        cache = PrefixCache(memory, 0, keeps_a_state=False, most_bytes=5000)
        read(memory, cache, turns, [])
        for n in range(n_summaries):
            asked = [*turns[:700], *ASK, n]
            assert cache.reuse(asked, room_aside=room) == (700 if not n else 710)
            assert len(memory.aside) == (300 if room else 0)
            read(memory, cache, asked, SUMMARY)
        if not comes_of_it:
            assert cache.reuse([*turns, 7, 7], exact=True) == 1000
            assert memory.held == turns
            continue
        # The first of what stays is cut into tokens otherwise behind other words.
        left = [*turns[:20], *SUMMARY, *turns[702:], 7, 7]
        assert cache.reuse(left, stays=lambda: Turns(80, 300)) == 20
        assert (cache.joins_at, cache.n_joining) == (60, 298)
        memory.decode(left[20:40])
        cache.tokens += left[20:40]
        memory.abort_decode()
        cache.repair()
        assert cache.reuse(left, stays=lambda: Turns(80, 300)) == 40
        read(memory, cache, left, [8])
        assert memory.held == cache.tokens == [*left, 8]
        assert not memory.aside
        assert cache.reuse([*left, 8, 9], exact=True) == 60


def test_what_stays_and_had_no_room_is_read_again() -> None:
    """Neither in the cache nor in RAM: that is said, once."""
    turns, memory = list(range(1000)), Full()
    cache = PrefixCache(memory, 0, keeps_a_state=False, most_bytes=100)
    read(memory, cache, turns, [])
    asked = [*turns[:700], *ASK]
    assert cache.reuse(asked, room_aside=299) == 700
    read(memory, cache, asked, SUMMARY)
    left = [*turns[:20], *SUMMARY, *turns[700:], 7]
    assert cache.reuse(left, stays=lambda: Turns(80, 300)) == 20
    assert "no room" in cache.why
    read(memory, cache, left, [])
    assert cache.reuse([*left, 7, 7], stays=lambda: Turns(80, 300)) == len(left)
    assert not cache.why


def test_only_turns_that_stay_are_moved() -> None:
    """Behind an edit, or what only looks alike, nothing is: it would go on from what is gone."""
    turns = list(range(1000))
    for begin_by, end_from, moves in ((120, 500, True), (119, 500, False), (120, 521, False)):
        memory = Full()
        cache = PrefixCache(memory, 0, keeps_a_state=False, most_bytes=0)
        read(memory, cache, turns, [])
        edited = [*turns[:100], *[7] * 20, *turns[600:], 7]
        assert cache.reuse(edited, stays=lambda: Turns(begin_by, end_from)) == 100  # noqa: B023
        assert cache.n_joining == (400 if moves else 0)


@given(st.lists(tokens, max_size=90), st.lists(tokens, max_size=90), st.integers(0, 9))
def test_the_longest_run(one: list[int], other: list[int], first: int) -> None:
    """What is found is there, and of twice the tokens that tell a run, wherever they lie, some run
    is; of what is all there, all is found."""
    middle = range(10, 10 + 9 + 2 * 24)
    read_, prompt = [*one, *middle, *other], [*other, *middle, *one, 1]
    run = longest_run(read_, prompt, first)
    assert run is not None
    assert run.at >= first
    assert run.at + run.n < len(prompt)
    assert read_[run.source : run.source + run.n] == prompt[run.at : run.at + run.n]
    assert longest_run(read_, [*read_, 1], 0) == Run(0, 0, len(read_))


@pytest.mark.parametrize("kind", [Full, Windowed, Recurrent])
def test_what_ended_midway_is_noticed(kind: type[Full]) -> None:
    """Whatever it was: tokens that were read and not written down, or the other way round."""
    memory = kind()
    cache = PrefixCache(memory, Windowed.WINDOW * (kind is Windowed), kind is Recurrent)
    prompt = list(range(40))
    read(memory, cache, prompt, [])
    memory.decode([7])
    for _ in range(2):
        reused = cache.reuse([*prompt, 8])
        assert memory.held == cache.tokens == prompt[:reused]
        cache.tokens.append(8)


def test_keys_that_cannot_be_turned() -> None:
    """Nothing is taken for what was read then."""
    memory = Full()
    memory.turn_keys = lambda: False  # type: ignore[method-assign]
    cache = PrefixCache(memory, 0, keeps_a_state=False, most_bytes=0)
    prompt = list(range(1000))
    read(memory, cache, prompt, [])
    stays = lambda: Turns(100, 500)  # noqa: E731
    assert cache.reuse([*prompt[:100], *prompt[600:], 7], stays=stays) == 0
    assert memory.held == cache.tokens == []


def test_what_is_read_again_is_said() -> None:
    memory = Recurrent()
    cache = PrefixCache(memory, 0, keeps_a_state=True, most_bytes=0)
    cache.reuse([1] * 100)
    assert not cache.why
    read(memory, cache, [1] * 100, [2] * 50)
    assert cache.reuse([*[1] * 100, 3]) == 0
    assert "recurrent state" in cache.why
    assert "100 tokens" in cache.why
