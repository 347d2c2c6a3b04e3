"""Files that are whole and that llama.cpp would refuse: told by their headers, one by one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.mutants import Parts, Words, structural
from bench.verdicts import blocks_ahead
from tests.support.gguf_files import (
    ARRAY,
    FLOAT64,
    INT32,
    UINT16,
    UINT64,
    Tensor,
    Typed,
    tiny_llama,
    write_gguf,
)
from tests.support.headers import unpacked
from tuner.engine_version import ENGINE_VERSION
from tuner.errors import ExitCode, FileError
from tuner.gguf import package_names
from tuner.gguf.header import read_header
from tuner.model import model as model_module
from tuner.model.architectures import KNOWN
from tuner.model.engine_reads import UNKNOWN, Names, certain, possible, rows_of, table
from tuner.model.load_hparams import load_hparams
from tuner.model.model import read_model

HEADS = "llama.attention.head_count"
BPE = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "default",
    "tokenizer.ggml.tokens": [f"t{i}" for i in range(512)],
    "tokenizer.ggml.merges": ["a b"],
}


def refusal(path: Path) -> FileError:
    with pytest.raises(FileError) as caught:
        read_model(path)
    assert caught.value.exit_code == ExitCode.FILE
    assert "damaged" not in str(caught.value)
    assert "download it again" not in str(caught.value)
    return caught.value


def test_what_the_engine_loads_is_never_refused() -> None:
    """All headers of the archive, of which every one was loaded when its sizes were recorded."""
    for path in unpacked()[0].values():
        read_model(path)


def test_a_complete_file_is_taken(tmp_path: Path) -> None:
    assert read_model(tiny_llama(tmp_path / "m.gguf")).known
    assert read_model(tiny_llama(tmp_path / "bpe.gguf", BPE)).known


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize(
    "key",
    [
        "llama.context_length",
        "llama.attention.layer_norm_rms_epsilon",
        "llama.embedding_length",
        "tokenizer.ggml.model",
    ],
)
def test_a_key_that_is_missing(tmp_path: Path, key: str) -> None:
    """Told by its name, and not as a 0 that nobody wrote."""
    found = refusal(tiny_llama(tmp_path / "m.gguf", without=[key]))
    assert f"lack the key {key};" in str(found)
    assert found.kind == "incompatible"


def test_missing_and_zero_are_told_apart(tmp_path: Path) -> None:
    assert "is missing" in str(refusal(tiny_llama(tmp_path / "m.gguf", without=[HEADS])))
    assert "is 0" in str(refusal(tiny_llama(tmp_path / "z.gguf", {HEADS: 0})))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("llama.context_length", Typed(4096, UINT64), "type u64 and must be a number of type u32"),
        ("llama.context_length", Typed(4096, INT32), "type i32 and must be a number of type u32"),
        (HEADS, 4.0, "type f32 and must be a number of type u32"),
        (HEADS, [4, 4, 4], "lists 3 values and must list 2"),
        (HEADS, Typed([4, 4], ARRAY, UINT64), "lists u64 and must list u32"),
        ("llama.attention.layer_norm_rms_epsilon", Typed(1e-5, FLOAT64), "type f64"),
        ("llama.rope.freq_base", 10000, "type u32 and must be a number of type f32"),
        ("llama.rope.scaling.type", 1, "must be a text"),
        ("llama.rope.scaling.type", "spiral", "'spiral', which is not known to this one"),
        ("llama.rope.scaling.finetuned", 1, "must be true or false"),
        ("general.file_type", "Q4_0", "is a text and must be a number of type u32"),
        ("general.name", 7, "must be a text"),
        ("split.count", 1, "type u32 and must be a number of type u16"),
        ("tokenizer.ggml.token_type_count", True, "is true or false"),
    ],
)
def test_a_key_of_another_type(tmp_path: Path, key: str, value: Any, words: str) -> None:
    """Nothing is converted: the loader throws on a u64 where it wants a u32."""
    found = str(refusal(tiny_llama(tmp_path / "m.gguf", {key: value})))
    assert key in found
    assert words in found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (HEADS, [4, 4]),
        (HEADS, Typed([4, 4], ARRAY, INT32)),
        ("split.count", Typed(1, UINT16)),
        ("llama.some.other.key", "anything"),
        ("qwen2.context_length", "of another architecture"),
        ("llama.attention.sliding_window", 1.5),  # llama does not read it
    ],
)
def test_what_the_loader_does_not_mind(tmp_path: Path, key: str, value: Any) -> None:
    assert read_model(tiny_llama(tmp_path / "m.gguf", {key: value})).known


# ---------------------------------------------------------------- the vocabulary


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokenizer.ggml.model": "of-tomorrow"}, "its tokenizer 'of-tomorrow' is not known"),
        ({"tokenizer.ggml.pre": "of-tomorrow"}, "its pre-tokenizer 'of-tomorrow' is not known"),
        ({"tokenizer.ggml.merges": None}, "lack the key tokenizer.ggml.merges"),
        ({"tokenizer.ggml.merges": [1, 2]}, "merges is arr[u32] and must be arr[str]"),
        ({"tokenizer.ggml.tokens": None}, "lack the key tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.tokens": "a b c"}, "tokens is str and must be arr[str]"),
        ({"tokenizer.ggml.scores": [0.5]}, "scores lists fewer than it has tokens"),
        ({"tokenizer.ggml.token_type": [1.0] * 512}, "token_type is arr[f32]"),
        ({"tokenizer.ggml.bos_token_id": -1}, "bos_token_id is a number of type i32"),
        ({"tokenizer.ggml.add_bos_token": 1}, "add_bos_token is a number of type u32"),
    ],
)
def test_a_vocabulary_that_the_engine_does_not_take(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    keys = {k: v for k, v in {**BPE, **change}.items() if v is not None}
    found = refusal(tiny_llama(tmp_path / "m.gguf", keys))
    assert words in str(found)
    assert ("newer llama.cpp" in str(found)) == ("is not known" in words)


def test_tokenizers_without_merges(tmp_path: Path) -> None:
    """Kimi K2's has none; llama's needs none."""
    kimi = {**BPE, "tokenizer.ggml.pre": "kimi-k2"}
    llama = {**BPE, "tokenizer.ggml.model": "llama"}
    for keys in (kimi, llama):
        del keys["tokenizer.ggml.merges"]
        assert read_model(tiny_llama(tmp_path / "m.gguf", keys)).known


# ---------------------------------------------------------------- tensors


def edited(path: Path, change: Callable[[list[Tensor]], list[Tensor]], **keys: Any) -> Path:
    """A tiny llama with another tensor table."""
    header = read_header(tiny_llama(path, keys))
    tensors = [Tensor(t.name, t.shape, t.ggml_type) for t in header.tensors]
    return write_gguf(path, header.metadata, change(tensors))


def test_a_tensor_that_is_missing(tmp_path: Path) -> None:
    """In one layer of several, named."""
    path = edited(
        tmp_path / "m.gguf", lambda ts: [t for t in ts if t.name != "blk.1.attn_norm.weight"]
    )
    assert "it lacks the tensor blk.1.attn_norm.weight" in str(refusal(path))


def test_what_is_not_required_may_be_missing(tmp_path: Path) -> None:
    """Without an output of its own a llama uses its embedding."""
    path = edited(tmp_path / "m.gguf", lambda ts: [t for t in ts if t.name != "output.weight"])
    assert read_model(path).tensors.tied is not None


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("token_embd.weight", (256, 480), "256 x 512"),  # fewer rows than the vocabulary has
        ("blk.1.ffn_up.weight", (512, 256), "256 x 512"),
        ("blk.0.attn_k.weight", (256, 256), "256 x 128"),
        ("output_norm.weight", (256, 2), "256"),
    ],
)
def test_a_tensor_of_another_shape(
    tmp_path: Path, name: str, shape: tuple[int, ...], wanted: str
) -> None:
    path = edited(
        tmp_path / "m.gguf",
        lambda ts: [Tensor(t.name, shape, t.ggml_type) if t.name == name else t for t in ts],
    )
    found = str(refusal(path))
    assert f"its tensor {name} is {' x '.join(map(str, shape))}" in found
    assert f"make it {wanted};" in found


@pytest.mark.parametrize(
    "name", ["blk.0.attn_sinks.weight", "blk.2.attn_norm.weight", "lm_head.weight", "nonsense"]
)
def test_a_tensor_that_the_architecture_does_not_have(tmp_path: Path, name: str) -> None:
    """Of another architecture, of a layer that is not there, of another naming, of nothing."""
    path = edited(tmp_path / "m.gguf", lambda ts: [*ts, Tensor(name, (256,))])
    found = refusal(path)
    assert f"it holds the tensor '{name}', which a llama model" in str(found)
    assert found.kind == "incompatible"


def test_many_tensors_too_many_are_one_sentence(tmp_path: Path) -> None:
    extra = [Tensor(f"extra.{i}\x1b[2J", (32,)) for i in range(300)]
    found = str(refusal(edited(tmp_path / "m.gguf", lambda ts: [*ts, *extra])))
    assert "and 299 more" in found
    assert "\x1b" not in found


def test_a_model_with_its_eyes_in_one_file(tmp_path: Path) -> None:
    """As Ollama makes them: named so, with the way out."""
    tower = [Tensor("v.blk.0.attn_q.weight", (64, 64)), Tensor("mm.input_projection.weight", (8,))]
    found = str(refusal(edited(tmp_path / "m.gguf", lambda ts: [*ts, *tower])))
    assert "its tensors mm.* and v.*" in found
    assert "made for Ollama" in found
    assert "two files" in found


def test_experts_of_a_dense_model(tmp_path: Path) -> None:
    """What a file may hold follows from its numbers: without experts, no tensors of them."""
    experts = Tensor("blk.0.ffn_gate_exps.weight", (256, 512, 8))
    path = edited(tmp_path / "m.gguf", lambda ts: [*ts, experts])
    assert "ffn_gate_exps" in str(refusal(path))


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("deepseek2-moe", {"whole", "without its own", "left out"}),
        ("qwen35-dense", {"whole"}),
        ("llama-dense", {"left out"}),
    ],
)
def test_blocks_that_predict_ahead(tmp_path: Path, name: str, taken: set[str]) -> None:
    """Where an architecture has them their tensors are taken, though a chat does not load them; as
    the engine's dry run has it (`python -m bench.verdicts`)."""
    found = set()
    for kind, parts in blocks_ahead(_parts(unpacked()[0][f"{name}.gguf"])):
        data, size = parts.packed()
        path = tmp_path / "m.gguf"
        path.write_bytes(data)
        os.truncate(path, size)
        with contextlib.suppress(FileError):
            read_model(path)
            found.add(kind.removeprefix("block ahead: "))
    assert found - {"the last layer"} == taken


# ---------------------------------------------------------------- architectures


def renamed(path: Path, name: str) -> Path:
    """A tiny llama under another architecture's name."""
    header = read_header(tiny_llama(path))
    keys = {k.replace("llama.", f"{name}.", 1): v for k, v in header.metadata.items()}
    tensors = [Tensor(t.name, t.shape, t.ggml_type) for t in header.tensors]
    return write_gguf(path, {**keys, "general.architecture": name}, tensors)


@pytest.mark.parametrize(("name", "known"), [("gptoss", "gpt-oss"), ("Qwen3_MoE", "qwen3moe")])
def test_a_name_of_another_program(tmp_path: Path, name: str, known: str) -> None:
    found = refusal(renamed(tmp_path / "m.gguf", name))
    assert found.kind == "unknown_architecture"
    assert f"'{name}', which llama.cpp (0.3.36) does not know" in str(found)
    assert f"another program's name for {known}" in str(found)


def test_a_name_that_the_gguf_package_knows_is_newer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package_names, "is_architecture", lambda name: name == "next-thing")
    assert "it is newer; update" in str(refusal(renamed(tmp_path / "m.gguf", "next-thing")))
    assert "newer, or another program's" in str(refusal(renamed(tmp_path / "n.gguf", "whatever")))


def test_another_engine_decides_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of one llama.cpp says nothing of the next."""
    path = renamed(tmp_path / "m.gguf", "next-thing")
    extra = edited(tmp_path / "x.gguf", lambda ts: [*ts, Tensor("blk.0.new.weight", (256,))])
    monkeypatch.setattr(model_module, "installed_engine_version", lambda: "0.3.99")
    assert not read_model(path).known
    assert read_model(extra).known


# ---------------------------------------------------------------- the table itself


def test_each_architecture_of_this_engine_is_recorded() -> None:
    """Another engine asks for other things: `python -m bench.record_reads` (docs/upgrading.md)."""
    assert table()["engine"] == ENGINE_VERSION
    assert set(table()["architectures"]) == KNOWN


def test_every_expression_can_be_evaluated() -> None:
    """Each text of the table compiles, no value leads back to itself, and none raises."""
    for name, path in unpacked()[0].items():
        header = read_header(path)
        architecture = str(header.metadata["general.architecture"])
        hparams = load_hparams(header, architecture)
        names, rows = Names(header, architecture, hparams), rows_of(architecture)
        for text in (*rows.values.values(), *(key.required for key in rows.keys)):
            names.of(text)
        for part in ("tensors", "layers", "all_layers"):
            for _ in names.layers(part):
                for row in getattr(rows, part):
                    for text in (row.when, row.shape, row.flags):
                        names.of(text)
        assert names["n_embd"] == hparams.n_embd, name


def test_what_is_unknown_decides_nothing() -> None:
    """Three-valued: unknown and false is false, unknown or true is true, all else unknown."""
    assert (UNKNOWN & False) is False
    assert (False & UNKNOWN) is False
    assert (UNKNOWN | True) is True
    assert (True | UNKNOWN) is True
    for value in (UNKNOWN & True, UNKNOWN | False, UNKNOWN + 1, 1 - UNKNOWN, UNKNOWN == 1):
        assert value is UNKNOWN
    assert not certain(UNKNOWN)
    assert possible(UNKNOWN)


# ---------------------------------------------------------------- anything at all


def _parts(path: Path) -> Parts:
    with path.open("rb") as file:
        return Parts.of(file.read(read_header(path).data_offsets[0]))


@cache
def seeds() -> dict[str, Parts]:
    """Headers of architectures that load in different ways."""
    names = ("llama-moe", "deepseek2-moe", "qwen35-dense", "gemma3n-dense", "hrm_text-dense")
    return {name: _parts(unpacked()[0][f"{name}.gguf"]) for name in names}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 4), st.randoms(use_true_random=False))
def test_edited_at_random_a_header_has_one_verdict(tmp_path: Path, seed: int, chance: Any) -> None:
    """A model or one sentence, the same the second time, and never a traceback."""
    data, size = structural(
        list(seeds().values())[seed], chance, Words.of(seeds().values())
    ).packed()
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with path.open("ab") as file:
        file.truncate(max(len(data), min(size, 1 << 40)))

    def verdict() -> str:
        try:
            return read_model(path).fingerprint
        except FileError as error:
            return str(error)

    said = verdict()
    assert said == verdict()
    assert "\n" not in said
