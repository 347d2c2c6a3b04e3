"""Prefix reuse against models of llama.cpp's memories, whatever the conversation does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.engine.prefix_cache import PrefixCache


class Full:
    """A plain cache: keeps everything, cuts anywhere."""

    def __init__(self) -> None:
        self.held: list[int] = []  # the token at every position that was decoded
        self.first = 0

    @property
    def first_position(self) -> int:
        return self.first if self.held else -1

    def cut(self, length: int) -> bool:
        del self.held[length:]
        return True

    def clear(self) -> None:
        self.held.clear()
        self.first = 0

    def checkpoint(self) -> tuple[list[int], int] | None:
        return [*self.held], self.first

    def restore(self, state: tuple[list[int], int]) -> bool:
        """Only what cannot be cut: all else holds on to what came after."""
        then, self.first = state
        assert self.held[: len(then)] == then
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

    def restore(self, state: tuple[list[int], int]) -> bool:
        self.held = [*state[0]]
        return True

    def abort_decode(self) -> None:
        """The state has moved on, whatever its position says."""
        self.held[-1] = 9


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
    cache = PrefixCache(memory, window, keeps_a_state=kind is Recurrent)
    for prompt, answer, aborted in turns:
        reused = cache.reuse(prompt)
        assert 0 <= reused < len(prompt)
        assert memory.held == cache.tokens == prompt[:reused]
        at = cache.checkpoint_at(prompt)
        assert 0 <= at < len(prompt)
        for token in prompt[reused:] + answer:
            if len(cache.tokens) == at > 0:
                cache.keep_checkpoint()
            memory.decode([token])
            cache.tokens.append(token)
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
    at = cache.checkpoint_at(prompt)
    for token in prompt + thought:
        if len(cache.tokens) == at > 0:
            cache.keep_checkpoint()
        memory.decode([token])
        cache.tokens.append(token)
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
    assert cache.checkpoint_at(prompt) == 30
    cache.keep_checkpoint()
    assert cache.checkpoint_at(prompt) == 0
