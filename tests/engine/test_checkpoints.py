"""What a cache that cannot be cut is brought back to, by the engine's own memories; and what a
cache holds, moved to another one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_models import hybrid, model, plain, recurrent, windowed
from tuner.engine.client import EngineClient
from tuner.engine.protocol import (
    Done,
    Generate,
    Load,
    Loaded,
    Message,
    Progress,
    Reshape,
    Sampling,
    Text,
)  # fmt: skip
from tuner.errors import EngineError
from tuner.settings import Settings

ASK = (Message("user", "Hello"),)
LATER = (*ASK, Message("assistant", "Yes"), Message("user", "And now"))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineClient]:
    with EngineClient(tmp_path_factory.mktemp("log") / "engine.log") as client:
        yield client


def said(client: EngineClient, messages: tuple[Message, ...], n: int) -> tuple[str, Done]:
    events = list(client.generate(Generate(messages, Sampling(temperature=0, max_tokens=n))))
    done = events[-1]
    assert isinstance(done, Done)
    return "".join(e.text for e in events if isinstance(e, Text)), done


@pytest.mark.parametrize("kind", [windowed, hybrid, recurrent])
def test_after_a_long_answer_that_is_left_out(
    client: EngineClient, tmp_path: Path, kind: Any
) -> None:
    """The next prompt goes on from what came before the answer, and its own answer is that of an
    engine that has read it anew."""
    path = str(model(tmp_path / "model.gguf", kind))
    load = Load(path, Settings(n_ctx=1024, n_ubatch=32, use_extra_bufts=False), 1)
    list(client.load(load))
    expected, _ = said(client, LATER, 8)
    list(client.load(load))
    _, first = said(client, ASK, 400)
    assert first.n_decoded == 400
    again, done = said(client, LATER, 8)
    assert 0 < done.n_reused < first.n_prompt
    assert first.n_prompt - done.n_reused <= 16
    assert again == expected


# ---------------------------------------------------------------- moved


MOVES: list[tuple[Any, int]] = [
    (plain, 32),
    (windowed, 32),
    (hybrid, 32),
    (recurrent, 32),
]  # and n of the answers


def path_of(tmp_path: Path, kind: Any) -> str:
    return str(model(tmp_path / "model.gguf", kind))


def first_load(path: str) -> Load:
    return Load(path, Settings(n_ctx=512, n_ubatch=32, use_extra_bufts=False), 1)


@pytest.mark.parametrize(("kind", "n"), MOVES)
def test_a_state_that_was_saved_is_gone_on_with_by_another_process(
    client: EngineClient, tmp_path: Path, kind: Any, n: int
) -> None:
    """Only what is new is read, and the answer is what it would have been; also by a cache of
    other types. One that is damaged changes nothing."""
    load, state = first_load(path_of(tmp_path, kind)), tmp_path / "c.state"
    list(client.load(load))
    said(client, ASK, n)
    expected, done = said(client, LATER, n)
    saved = client.save_state(state, 1 << 30)
    assert (saved.why, saved.n_tokens) == ("", done.n_ctx_used)
    assert saved.n_bytes == state.stat().st_size
    assert client.save_state(state.with_name("other"), 10).why
    client.close()
    for settings in (load.settings, replace(load.settings, type_k="q8_0", n_ctx=1024)):
        list(client.load(replace(load, settings=settings)))
        restored = client.restore_state(state)
        assert (restored.why, restored.n_tokens) == ("", saved.n_tokens)
        again, then = said(client, LATER, n)
        assert then.n_reused == then.n_prompt - 1 or kind is not plain
        assert then.n_prompt - then.n_reused <= 16
        if settings is load.settings:
            assert again == expected
    data = bytearray(state.read_bytes())
    data[100] ^= 1
    state.write_bytes(data)
    before = said(client, LATER, 1)[1]
    assert client.restore_state(state).why == "it is damaged"
    assert client.restore_state(tmp_path / "none").why == "there is none"
    assert said(client, LATER, 1)[1].n_reused >= before.n_reused


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux has files in memory")
def test_a_state_lies_in_memory(client: EngineClient, tmp_path: Path) -> None:
    """By a file that has no name on any disk; one that is too large is none."""
    load = first_load(path_of(tmp_path, hybrid))
    list(client.load(load))
    n_tokens = said(client, ASK, 8)[1].n_ctx_used
    descriptor = os.memfd_create("state")
    path = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    try:
        assert client.save_state(path, 100, is_memory=True).n_tokens == 0
        assert client.save_state(path, 1 << 28, is_memory=True).n_tokens == n_tokens
        list(client.load(load))
        assert client.restore_state(path).n_tokens == n_tokens
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(("kind", "n"), MOVES)
def test_a_cache_changes_its_shape_while_the_weights_stay(
    client: EngineClient, tmp_path: Path, kind: Any, n: int
) -> None:
    """Nothing is read again; where the new context cannot be had, all is as it was."""
    load = first_load(path_of(tmp_path, kind))
    loaded = list(client.load(load))[-1]
    assert isinstance(loaded, Loaded)
    said(client, ASK, n)
    expected, done = said(client, LATER, n)
    larger = replace(load.settings, n_ctx=1024)
    other = replace(larger, type_k="q8_0", type_v="q8_0")
    for settings in (larger, other, replace(other, type_v="q4_0"), load.settings):
        *progress, reshaped = client.reshape(Reshape(settings, 1 << 28))
        assert isinstance(reshaped, Loaded)
        assert all(isinstance(event, Progress) for event in progress)
        assert (reshaped.not_moved, reshaped.n_moved) == ("", done.n_ctx_used)
        assert reshaped.n_ctx == settings.n_ctx
        assert {b.kind for b in reshaped.buffers} == {b.kind for b in loaded.buffers}
        again, then = said(client, LATER, n)
        assert then.n_prompt - then.n_reused <= 16
        if settings is larger:
            assert again == expected
    with pytest.raises(EngineError):  # a quantized V needs flash attention
        list(client.reshape(Reshape(replace(other, flash_attn="off"), 1 << 28)))
    then = said(client, LATER, n)[1]
    assert then.n_prompt - then.n_reused <= 16


@pytest.mark.parametrize(
    ("kind", "types"), [(plain, "f16"), (plain, "q8_0"), (windowed, "q8_0"), (hybrid, "f16")]
)
def test_turns_go_without_reading_the_others_again(
    client: EngineClient, tmp_path: Path, kind: Any, types: str
) -> None:
    """What was read of these moves up, or on behind a summary, and into another cache then; what
    the engine cannot move (a state, positions of two caches that differ in size) is read, which is
    said. A seed promises the same answer: then they are read."""
    load = first_load(path_of(tmp_path, kind))
    settings = replace(load.settings, n_ctx=1024, type_k=types, type_v=types)
    list(client.load(replace(load, settings=settings)))
    system, text = Message("system", "You are short."), "The fox jumps over the dog. " * 4
    turns = [Message("user" if n % 2 == 0 else "assistant", f"{n}: {text}") for n in range(5)]

    def ask(*messages: Message, seed: int | None = None, **more: Any) -> Done:
        sampling = Sampling(temperature=0, max_tokens=4, seed=seed)
        done = [*client.generate(Generate((system, *messages), sampling, **more))][-1]
        assert isinstance(done, Done)
        return done

    def n_read(done: Done) -> int:
        return done.n_prompt - done.n_reused

    ask(*turns[:3])
    ask(*turns)
    done = ask(*turns[2:], may_move=True)
    assert (n_read(done) <= 16) is (kind is plain) is (not done.read_again)
    ask(*turns)
    assert (n_read(ask(*turns[2:], may_move=True, seed=1)) > 100) is (kind is plain)
    ask(*turns)
    ask(*turns[:2], Message("user", "Sum this up."), rest_returns=True)
    first = replace(turns[2], content=f"In short: a fox.\n\n{turns[2].content}")
    done = ask(first, *turns[3:], may_move=True)
    assert (n_read(done) <= 32) is (kind is plain)
    edited = replace(turns[4], content=f"Now {turns[4].content}")
    assert kind is not plain or n_read(ask(first, turns[3], edited, may_move=True)) > 50
    ask(first, *turns[3:])
    *_, reshaped = client.reshape(Reshape(replace(settings, type_k="q5_0"), 1 << 28))
    assert isinstance(reshaped, Loaded)
    assert (reshaped.not_moved, reshaped.n_moved) == ("", done.n_ctx_used)


@pytest.mark.parametrize("kind", [plain, windowed, hybrid])
def test_what_was_set_aside_outlives_another_cache(
    client: EngineClient, tmp_path: Path, kind: Any
) -> None:
    """It is converted once it is asked for; where the cache is then again what it was, it is what
    was read to the bit, which a seed asks for."""
    load = replace(first_load(path_of(tmp_path, kind)), kept_bytes=1 << 28)
    load = replace(load, settings=replace(load.settings, n_ctx=1024))
    other = replace(load.settings, type_k="q8_0", type_v="q8_0")
    list(client.load(load))
    one, two = (Message("user", f"The dog jumps over the {who}. " * 8) for who in ("fox", "cat"))

    def n_read(message: Message, seed: int | None = None) -> int:
        sampling = Sampling(temperature=0, max_tokens=30, seed=seed)
        done = [*client.generate(Generate((message,), sampling))][-1]
        assert isinstance(done, Done)
        return done.n_prompt - done.n_reused

    n_tokens = n_read(one)
    n_read(two)
    list(client.reshape(Reshape(other, 1 << 28)))
    list(client.reshape(Reshape(load.settings, 1 << 28)))
    assert n_read(one, seed=1) <= 16
    list(client.reshape(Reshape(other, 1 << 28)))
    assert n_read(two, seed=1) > n_tokens // 2
    assert n_read(one) <= 16
    assert n_read(two) <= 16
