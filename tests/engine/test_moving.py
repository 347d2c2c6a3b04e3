"""What goes wrong while a cache is moved, in this process: the model goes on, and nothing of what
its cache holds is taken for something else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.native import log
from tests.support.tiny_models import WINDOW, hybrid, model, windowed
from tuner.demo import demo_model_path
from tuner.engine.abort import AbortFlag
from tuner.engine.blocks import Block
from tuner.engine.kept import Branch
from tuner.engine.llama import (
    DECODE_OK,
    Context,
    LlamaError,
    NativeModel,
    init,
    libraries,
)
from tuner.engine.loaded_model import LoadedModel
from tuner.engine.loss_run import divergence, log_probabilities
from tuner.engine.moving import NO_ROOM, Mover, pair_of
from tuner.engine.planned_file import PlannedFile
from tuner.engine.protocol import Event, Generate, Load, Message, Reshape, Sampling
from tuner.engine.sequence_state import Pair, StateError, caches_of, rotated
from tuner.engine.turned_keys import turns_quantized_keys
from tuner.engine.voice import Voice
from tuner.settings import Settings

F16 = Settings(256, n_ubatch=32, use_extra_bufts=False)
Q8_0 = replace(F16, type_k="q8_0", type_v="q8_0")


class Mute(Voice):
    """Says nothing to nobody."""

    def __init__(self) -> None:
        pass

    def __call__(self, event: Event) -> None:
        pass

    def doing(self, what: str) -> None:
        pass


@pytest.fixture
def native(tmp_path: Path) -> Iterator[NativeModel]:
    init()
    with closing(NativeModel(str(model(tmp_path / "m.gguf", windowed)), F16, log())) as of:
        yield of


@pytest.mark.parametrize("failure", [MemoryError(), RuntimeError("can't start new thread")])
def test_whatever_ends_a_conversion_the_old_context_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """With what it held: the new context cannot be had then, and the old one was freed for it."""
    init()
    path = str(model(tmp_path / "m.gguf", hybrid))
    with closing(LoadedModel(Load(path, F16, 1), log(), AbortFlag(), Mute())) as it:
        ask = Generate((Message("user", "Hello"),), Sampling(temperature=0, max_tokens=2))
        first = it.generate(ask)

        def fails(*_: object) -> None:
            raise failure

        with monkeypatch.context() as during:
            during.setattr(Mover, "moved", fails)
            with pytest.raises(type(failure)):
                it.reshape(Reshape(Q8_0, 1 << 28))
        assert it.usable
        assert it.generate(ask).n_reused >= first.n_prompt - 16
        assert it.reshape(Reshape(Q8_0, 1 << 28)).not_moved == ""


def test_what_ram_has_no_room_for_lies_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a cache is exchanged, which other programs that take RAM may be the reason for."""
    init()
    path, folder = str(model(tmp_path / "m.gguf", windowed)), tmp_path / "states"
    folder.mkdir()
    with closing(LoadedModel(Load(path, F16, 1), log(), AbortFlag(), Mute())) as it:
        ask = Generate((Message("user", "Hello"),), Sampling(temperature=0, max_tokens=2))
        n_tokens = it.generate(ask).n_ctx_used
        monkeypatch.setattr(Block, "in_ram", lambda _: None)
        loaded = it.reshape(Reshape(Q8_0, 1 << 28, str(folder)))
        assert (loaded.n_moved, loaded.not_moved) == (n_tokens, "")
        assert not [*folder.iterdir()]
        loaded = it.reshape(Reshape(F16, 1 << 28))
        assert (loaded.n_moved, loaded.not_moved) == (0, NO_ROOM)


def test_a_window_that_was_kept_whole_comes_back_as_a_window(tmp_path: Path) -> None:
    """A state has no more of it, whatever the cache keeps (`swa_full`): what lies before cannot be
    gone on from, though the engine cuts there without a word."""
    init()
    path, settings = str(model(tmp_path / "m.gguf", windowed)), replace(F16, swa_full=True)
    with closing(LoadedModel(Load(path, settings, 1), log(), AbortFlag(), Mute())) as it:
        ask = Generate((Message("user", "Hello"),), Sampling(temperature=0, max_tokens=200))
        it.generate(ask)
        tokens = [*it._cache.tokens]
        assert it._cache.reuse([*tokens[:150], 1]) == 150
        assert it.generate(ask).n_ctx_used > 200
        assert it.reshape(Reshape(settings, 1 << 28)).n_moved > 200
        assert it._context.first_position > 200 - WINDOW
        assert it._cache.reuse([*tokens[:150], 1]) <= len(tokens) - 200


def test_what_could_not_be_seen_once_is_looked_at_again(native: NativeModel) -> None:
    """How a cache is rotated: only what was seen is remembered, not that memory was missing, or
    that somebody stopped it."""
    tokens = [*range(40)]
    with closing(Context(native, F16, 1, log())) as context:
        assert context.decode(tokens[:32]) == context.decode(tokens[32:]) == DECODE_OK
        state = context.state(partial=False)
    assert state is not None
    stopped, abort = [True], AbortFlag()

    def opened(settings: Settings) -> Context:
        if stopped:
            stopped.pop()
            raise LlamaError("out_of_memory", "no room")
        return Context(native, settings, 1, log(), abort)

    def tell(_: float) -> None:
        if abort:
            raise InterruptedError

    mover, branch = Mover("", opened, 1, tell), Branch(tuple(tokens), state)
    pairs = pair_of(F16), pair_of(Q8_0)
    with pytest.raises(StateError, match="no room"):
        mover.moved(branch, *pairs)
    abort.set()
    with pytest.raises(InterruptedError):
        mover.moved(branch, *pairs)
    abort.clear()
    assert mover.moved(branch, *pairs).state.n_bytes < state.n_bytes


def test_keys_that_moved_are_turned_at_once(tmp_path: Path) -> None:
    """Whatever is stopped: a state that is taken then is what the cache predicts by, but for the
    order of its cells. Of keys that are not turned yet the divergence is 0.4."""
    init()
    settings, abort = replace(F16, n_ctx=512), AbortFlag()
    with closing(NativeModel(str(demo_model_path()), settings, log())) as of:
        tokens = of.tokenize("The fox jumps over the dog, which is lazy and brown. " * 8)

        def predicted(context: Context) -> np.ndarray:
            assert context.decode_one(tokens[0]) == DECODE_OK
            logits = np.ctypeslib.as_array(context.logits, (of.n_vocab,))
            return log_probabilities(logits.copy())

        with closing(Context(of, settings, 1, log(), abort)) as context:
            assert context.decode(tokens) == DECODE_OK
            context.lay_aside(60, len(tokens))
            assert context.cut(10)
            context.shift_aside(-50)
            abort.set()
            assert context.turn_keys()
            context.take_back()
            abort.clear()
            state = context.state(partial=False)
            expected = predicted(context)
        assert state is not None
        with closing(Context(of, settings, 1, log(), abort)) as context:
            assert context.restore(state, partial=False)
            assert divergence(expected, predicted(context)) < 0.02
            abort.set()
            assert context.decode(tokens) != DECODE_OK  # it is heard again
            abort.clear()


@pytest.mark.parametrize("types", ["f16", "q8_0", "q4_0"])
def test_keys_that_moved_are_those_of_where_they_are(types: str) -> None:
    """Of the first layer, whose keys follow from a token and its place alone: but for one more
    rounding."""
    init()
    settings = replace(F16, n_ctx=512, type_k=types, type_v=types)
    with closing(NativeModel(str(demo_model_path()), settings, log())) as of:
        tokens = of.tokenize("The fox jumps over the dog, which is lazy and brown. " * 8)
        left = [*tokens[:10], *tokens[60:]]

        def keys(context: Context, kind: str) -> np.ndarray:
            state = context.state(partial=False)
            assert state is not None
            with state.view() as view:
                rows = caches_of(view, Pair.named(kind, kind))[0].k[0]
                cells = np.frombuffer(view[16 : 16 + 12 * rows.n_rows], "<i4").reshape(-1, 3)
                out = np.empty((rows.n_rows, rows.n), np.float32)
                libraries.floats(rows.kind, view[rows.at : rows.at + rows.n_bytes], out)
            return rotated(out, 64 if kind != "f16" else 0)[np.argsort(cells[:, 0])]

        def read(kind: str, what: list[int]) -> Context:
            context = Context(of, replace(settings, type_k=kind, type_v=kind), 1, log())
            assert context.decode(what) == DECODE_OK
            return context

        with closing(read("f16", left)) as context:
            expected = keys(context, "f16")
        with closing(read(types, left)) as context:
            rounded = np.linalg.norm(keys(context, types) - expected)
        with closing(read(types, tokens)) as context:
            assert context.moves
            context.lay_aside(60, len(tokens))
            assert context.cut(10)
            context.shift_aside(-50)
            assert context.turn_keys()
            context.take_back()
            off = np.linalg.norm(keys(context, types) - expected)
    assert off <= 1.6 * rounded + 0.001 * np.linalg.norm(expected)


def test_keys_that_cannot_be_turned_stay(native: NativeModel) -> None:
    """These are too short to be rotated: the engine's process would end."""
    for settings, moves in ((F16, True), (replace(F16, type_v="q8_0"), True), (Q8_0, False)):
        with closing(Context(native, settings, 1, log())) as context:
            assert context.moves is moves


@pytest.mark.parametrize(
    ("file", "turn"),
    [
        ({"embedding_length": 4096, "attention.head_count": 32}, True),  # Llama 3
        ({"attention.key_length": 128, "rope.dimension_count": 64}, False),  # GLM-4.5
        ({"embedding_length": 3072, "attention.head_count": 32}, False),  # Phi-3
        ({"attention.key_length": 576, "rope.dimension_count": 64,
          "attention.kv_lora_rank": 512}, False),  # DeepSeek
        ({"attention.key_length": 256, "attention.key_length_swa": 128}, False),
        ({"attention.key_length": 192, "rope.dimension_count": 128}, True),  # in runs of 64
    ],
)  # fmt: skip
def test_which_quantized_keys_turn(file: dict[str, int], turn: bool) -> None:
    read = {"attention.head_count": 8, **file}
    assert turns_quantized_keys(lambda key: read.get(key, 0), {}) is turn
    assert not turns_quantized_keys(lambda key: read.get(key, 0), {"LLAMA_ATTN_ROT_DISABLE": "1"})


def test_files_that_say_the_same_of_themselves_are_told_apart(tmp_path: Path) -> None:
    """Weights that were trained on, or quantized anew, under the same header."""
    one, other = (model(tmp_path / name, windowed) for name in ("a.gguf", "b.gguf"))
    contents = [PlannedFile(str(path), "").content() for path in (one, other)]
    assert contents[0] == contents[1]
    data = np.fromfile(other, np.uint8)
    data[len(data) // 2 :: 50] ^= 1
    data.tofile(other)
    assert PlannedFile(str(other), "").content() != contents[0]
