"""Whatever was done with a conversation, what the model says next is what it would say had it read
everything anew: to within the rounding of an f16 cache that is filled in other steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.native import log
from tests.support.tiny_models import hybrid, model, plain, recurrent, windowed
from tuner.engine.abort import AbortFlag
from tuner.engine.kept import Kept
from tuner.engine.llama import DECODE_OK, Context, NativeModel, init
from tuner.engine.loaded_model import LoadedModel
from tuner.engine.protocol import (
    Event,
    Generate,
    Load,
    Message,
    Reshape,
    RestoreState,
    Sampling,
    SaveState,
    Text,
)
from tuner.engine.voice import Voice
from tuner.settings import Settings

F16 = Settings(2048, n_ubatch=32, use_extra_bufts=False)
KEPT = 600_000  # bytes: some branches and checkpoints, so that others go
# Of logits, tokens being read in batches or one by one. Of one other token, 150 before, they differ
# by 5, 0.1, 0.005 and 0.2.
ROUNDING = {plain: 0.05, windowed: 0.03, hybrid: 0.001, recurrent: 0.001}
SEED = 1  # with which only what is exact counts


class Said(Voice):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.text = ""

    def __call__(self, event: Event) -> None:
        self.text += event.text if isinstance(event, Text) and not event.thought else ""

    def doing(self, what: str) -> None:
        pass


class Talk:
    """A conversation with one loaded model, and the same model with a cache that starts anew."""

    def __init__(self, kind: Any, folder: Path):
        init()
        path, self._rounding = model(folder / "m.gguf", kind), ROUNDING[kind]
        self._abort, self._said, self._state = AbortFlag(), Said(), str(folder / "c.state")
        load = Load(str(path), F16, 1, kept_bytes=KEPT)
        self.it = LoadedModel(load, log(), self._abort, self._said)
        self._native = NativeModel(str(path), F16, log())
        self._anew = Context(self._native, F16, 1, log())
        self.begin()

    def close(self) -> None:
        self._anew.close()
        self._native.close()
        self.it.close()

    def begin(self) -> None:
        self.messages: list[Message] = []
        self._others: list[list[Message]] = []
        self.exact = True  # nothing was moved that was computed behind something else
        self.it.clear()
        self.it._cache._kept = Kept(KEPT)

    # ------------------------------------------------------------ what may happen

    def ask(self, n: int, *, stopped_after: float = math.inf) -> None:
        """Another question; its answer may be stopped in any of the engine's steps."""
        self.messages.append(Message("user", f"{n}: " + "what is it? " * (n % 5 + 1)))
        self.answer(n, stopped_after=stopped_after)

    def answer(self, n: int, *, stopped_after: float = math.inf, **more: Any) -> None:
        context: Any = self.it._context
        left, real, real_one = stopped_after, context.decode, context.decode_one

        def count(decode: Callable[[Any], int]) -> Callable[[Any], int]:
            def counted(what: Any) -> int:
                nonlocal left
                left -= 1
                if left < 0:
                    self._abort.set()
                return decode(what)

            return counted

        context.decode, context.decode_one = count(real), count(real_one)
        self._said.text = ""
        sampling = Sampling(temperature=0, max_tokens=n % 40 + 1)
        try:
            self.it.generate(Generate((*self.messages,), sampling, **more))
        finally:
            del context.decode, context.decode_one
            self._abort.clear()
        self.messages.append(Message("assistant", self._said.text))

    def again(self, n: int) -> None:
        """Another answer to the last question."""
        self.messages.pop()
        self.answer(n)

    def edit(self, n: int) -> None:
        """A question in other words; what followed is another branch."""
        self._others.append([*self.messages])
        self.messages = self.messages[: n % len(self.messages) // 2 * 2]
        self.ask(n)

    def go_back(self, n: int) -> None:
        """To a branch that was left."""
        if self._others:
            self._others.append(self.messages)
            self.messages = [*self._others[n % (len(self._others) - 1)]]

    def save(self, n: int) -> None:
        """And read it again, in place of something else."""
        assert self.it.save(SaveState(self._state, 1 << 30)).n_tokens
        if n % 2:
            self.it.clear()
        assert not self.it.restore(RestoreState(self._state)).why

    def reshape(self, n: int) -> None:
        """Another length, of which the cache knows nothing; or other types, and these again."""
        if n % 3 == 0:
            self.it.reshape(Reshape(replace(F16, type_k="q8_0", type_v="q8_0"), KEPT))
            self.exact = self.exact and not self.it._cache.tokens
        self.it.reshape(Reshape(replace(F16, n_ctx=2048 + 256 * (n % 3)), KEPT))

    def summarise(self, n: int) -> None:
        """The oldest turns go, and words stand in for them, or nothing does; or nothing comes of
        the words."""
        at = n % len(self.messages) // 2 * 2
        first = self.messages[at]
        if n % 2:
            wish = Message("user", "Sum up what was said.")
            sampling = Sampling(temperature=0, max_tokens=9)
            asked = Generate((*self.messages[:at], wish), sampling, rest_returns=True)
            self.it.generate(asked)
            if n % 3 == 0:
                return
            first = replace(first, content=f"It was said: {n}.\n\n{first.content}")
        self.messages = [first, *self.messages[at + 1 :], Message("user", "And now?")]
        self.answer(n, may_move=True)
        self.exact = False

    # ------------------------------------------------------------ what must be so

    def check(self) -> None:
        """The logits of the next token. Where something was moved, with a seed."""
        seed = None if self.exact else SEED
        asked = (*self.messages, Message("user", "So?"))
        sampling = Sampling(temperature=0, max_tokens=1, seed=seed)
        self.it.generate(Generate(asked, sampling))
        tokens = self.it._prompts.prompt(asked).tokens
        assert self.it._cache.tokens == tokens
        assert self.it._context.end_position == len(tokens)
        logits = self._logits(self.it._context)
        self._anew.clear()
        for at in range(0, len(tokens), F16.n_ubatch):
            assert self._anew.decode(tokens[at : at + F16.n_ubatch]) == DECODE_OK
        assert np.abs(logits - self._logits(self._anew)).max() < self._rounding

    def _logits(self, context: Context) -> NDArray[np.float32]:
        return np.ctypeslib.as_array(context.logits, (self._native.n_vocab,)).copy()


@pytest.fixture(scope="module", params=[plain, windowed, hybrid, recurrent])
def talk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Talk]:
    folder = tmp_path_factory.mktemp("same")
    with closing(Talk(request.param, folder)) as it:
        yield it


STEPS = ("ask", "stop", "again", "edit", "go_back", "save", "reshape", "summarise")


@settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@example([("ask", 14), ("ask", 24), ("summarise", 15), ("ask", 9), ("summarise", 13), ("save", 6)])
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 99)), min_size=4, max_size=8))
def test_what_is_said_does_not_depend_on_what_was_done(
    talk: Talk, steps: list[tuple[str, int]]
) -> None:
    talk.begin()
    talk.ask(3)
    for step, n in steps:
        if step == "stop":
            talk.ask(n, stopped_after=n % 12)
        else:
            getattr(talk, step)(n)
        if n % 3 == 0:
            talk.check()
    talk.check()
