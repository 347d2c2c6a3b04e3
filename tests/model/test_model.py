"""Header -> Model: what kind of file it is, and its numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.support import giants
from tests.support.gguf_files import F16, F32, Q4_0, Q8_0, Tensor, Typed, tiny_llama, write_gguf
from tests.support.headers import machine, made_up, real_model
from tuner.errors import FileError
from tuner.gguf.header import read_header
from tuner.machine.backends import BufferLayout, row_padding
from tuner.memory import placement
from tuner.memory.estimator import Estimator
from tuner.model.model import describe
from tuner.planning import make_plan
from tuner.settings import MAX_CONTEXT, Settings
from tuner.wishes import Wishes


def _file(path: Path, metadata: dict[str, Any], tensors: tuple[Tensor, ...] | None = None) -> Path:
    some = (Tensor("token_embd.weight", (32, 8), F16),)
    return write_gguf(path / "m.gguf", metadata, some if tensors is None else tensors)


@pytest.mark.parametrize(
    ("metadata", "word"),
    [
        ({"general.type": "mmproj", "general.architecture": "clip"}, "projector"),
        ({"general.architecture": "clip"}, "projector"),
        ({"general.type": "adapter", "general.architecture": "llama"}, "LoRA adapter"),
        ({"adapter.type": "lora", "general.architecture": "llama"}, "LoRA adapter"),
        ({"general.type": "imatrix"}, "importance matrix"),
        ({"imatrix.chunk_count": 3}, "importance matrix"),
        ({"general.architecture": "controlvector"}, "control vector"),
        ({"general.architecture": "bert"}, "embedding model"),
        ({"general.architecture": "qwen3", "qwen3.pooling_type": 3}, "embedding model"),
        ({"general.architecture": "qwen3", "qwen3.pooling_type": 4}, "reranker"),
        ({"general.architecture": "llama", "llama.attention.causal": False}, "embedding model"),
        ({"general.architecture": "eagle3"}, "draft model"),
        ({"general.architecture": "dream"}, "diffusion model"),
        ({"general.architecture": "wavtokenizer-dec"}, "audio"),
        ({"general.architecture": "t5"}, "encoder-decoder"),
        ({"general.name": "nameless"}, "names no model architecture"),
    ],
)
def test_other_files_are_refused_by_name(
    tmp_path: Path, metadata: dict[str, Any], word: str
) -> None:
    """One sentence that says what the file is."""
    with pytest.raises(FileError, match=word) as caught:
        describe(read_header(_file(tmp_path, metadata)))
    assert caught.value.kind == "not_a_chat_model"
    assert str(caught.value).count(". ") == 0


def test_a_vocabulary_alone_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path, {"general.architecture": "llama", "llama.block_count": 2}, ())
    with pytest.raises(FileError, match="vocabulary"):
        describe(read_header(path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("block_count", 0),
        ("block_count", 513),
        ("expert_count", 1025),
        ("expert_used_count", 1),
        ("attention.head_count_kv", [1]),
        ("block_count", "two"),
        ("block_count", -1),
        ("context_length", -1),
        ("context_length", 1 << 32),
        ("embedding_length", math.inf),
        ("expert_group_count", 1),
        ("attention.head_count", 1 << 31),
        ("attention.head_count_kv", -2),
        ("attention.key_length", 0),
        ("attention.key_length", -64),
        ("attention.value_length", math.nan),
        ("feed_forward_length", [-1, 512]),
    ],
)
def test_numbers_on_which_the_engine_aborts(tmp_path: Path, key: str, value: object) -> None:
    """Absurd counts end the engine's process; here they are an error that names the key."""
    path = tiny_llama(tmp_path / "m.gguf", {f"llama.{key}": value})
    with pytest.raises(FileError, match=f"llama.{key}") as caught:
        describe(read_header(path))
    assert caught.value.kind == "malformed"


def test_a_new_architecture_is_planned_by_the_general_rule(tmp_path: Path) -> None:
    """Never refused, marked assumed, and counted as a dense model with grouped queries."""
    new = made_up(tmp_path / "new.gguf", "nextbigthing")
    old = made_up(tmp_path / "old.gguf", "llama")
    assert not new.known
    settings = Settings(4096, n_gpu_layers=99)
    ours, theirs = (Estimator(m, machine()).footprint(settings) for m in (new, old))
    assert ours.source == "assumed"
    assert ours.uses == theirs.uses


def test_layers_like_none_we_know_still_get_a_figure(tmp_path: Path) -> None:
    """A made-up tensor set must not end in a traceback, but in a generous guess."""
    metadata = {
        "general.architecture": "odd", "odd.block_count": 1, "odd.embedding_length": 64,
        "odd.context_length": 512, "odd.attention.head_count": 2, "tokenizer.ggml.model": "x",
    }  # fmt: skip
    tensors = [Tensor("token_embd.weight", (64, 100), F16), Tensor("blk.0.attn_q.weight", (64, 64))]
    model = describe(read_header(write_gguf(tmp_path / "o.gguf", metadata, tensors)))
    assert Estimator(model, machine()).footprint(Settings(512, n_gpu_layers=99)).total > 0


def test_what_a_model_is(tmp_path: Path) -> None:
    """The figures of a file, from its metadata and tensor table."""
    path = tiny_llama(
        tmp_path / "m.gguf", {"general.file_type": 15, "tokenizer.chat_template": "{{ x }}"}
    )
    model = describe(read_header(path))
    assert (model.name, model.architecture, model.quantization) == ("tiny", "llama", "Q4_K_M")
    assert (model.n_layer, model.n_layer_all, model.n_embd, model.n_vocab) == (2, 2, 256, 512)
    assert (model.n_ctx_train, model.n_expert, model.moe_layers) == (4096, 0, ())
    assert model.size_bytes == path.stat().st_size
    assert model.chat_template == "{{ x }}"
    embeddings, layer = 2 * 256 * 512, 256 * (256 * 2 + 128 * 2) + 3 * 256 * 512 + 2 * 256
    assert model.n_params == embeddings + 256 + 2 * layer


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ({"": "bare", ".chat": "chat", ".default": "default"}, "bare"),
        ({".tool_use": "tools", ".default": "default"}, "default"),
        ({".rag": "rag", ".tool_use": "tools", ".chat": "chat"}, "chat"),
        ({".rag": "rag", ".tool_use": "tools", ".custom": "custom"}, "custom"),
        ({".tool_use": "tools"}, "tools"),
        ({"": " \n", ".chat": "chat"}, "chat"),
        ({"s": "no template", "": 7}, None),
    ],
)
def test_which_template_is_the_one_to_chat_with(
    named: dict[str, object], found: str | None, tmp_path: Path
) -> None:
    """The one without a name, "default", "chat", whatever is not for tools or documents, these."""
    keys = {f"tokenizer.chat_template{name}": source for name, source in named.items()}
    assert describe(read_header(tiny_llama(tmp_path / "m.gguf", keys))).chat_template == found


def test_quantization_without_a_file_type_is_the_commonest(tmp_path: Path) -> None:
    assert describe(read_header(tiny_llama(tmp_path / "m.gguf"))).quantization == "Q4_0"
    eight = tiny_llama(tmp_path / "8.gguf", {"general.file_type": 7 | 1024}, ggml_type=Q8_0)
    assert describe(read_header(eight)).quantization == "Q8_0"


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    """The same under another name and folder, another for another file."""
    first = describe(read_header(tiny_llama(tmp_path / "a.gguf")))
    (tmp_path / "sub").mkdir()
    moved = describe(read_header(tiny_llama(tmp_path / "sub" / "b.gguf")))
    other = describe(read_header(tiny_llama(tmp_path / "c.gguf", {"general.name": "other"})))
    assert first.fingerprint == moved.fingerprint != other.fingerprint
    assert len(first.fingerprint) == 32


def test_blocks_that_predict_ahead_are_no_layers(tmp_path: Path) -> None:
    """MTP blocks count as slots for n_gpu_layers, and take no weights and no cache."""
    model = made_up(tmp_path / "m.gguf", "glm4moe", {"nextn_predict_layers": 1}, n_layer=4)
    assert (model.n_layer, model.n_layer_all) == (3, 4)
    assert model.tensors.layers[3].others == ()
    footprint = Estimator(model, machine()).footprint(Settings(1024, n_gpu_layers=99))
    assert footprint.uses[0].kv_cache == 3 * 1024 * 2 * 128 * 2


def test_experts_are_found_by_their_tensors() -> None:
    model = real_model("Qwen3-30B-A3B-Q4_K_M.gguf")
    assert model.moe_layers == tuple(range(48))
    assert (model.n_expert, model.n_expert_used) == (128, 8)


def test_ten_thousand_tensors_are_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header is summed up in one pass for each alignment in use; placements read the sums."""
    extra = tuple(
        Tensor(f"blk.{i % 400}.extra_{i}.weight", (64, 64), F32 if i % 2 else Q4_0)
        for i in range(8000)
    )
    path = tmp_path / "m.gguf"
    made_up(path, extra=extra, n_layer=400)
    header = read_header(path)
    assert len(header.tensors) > 10_000
    looked_at = 0

    def counted(ggml_type: int, ne0: int, layout: BufferLayout) -> int:
        nonlocal looked_at
        looked_at += 1
        return row_padding(ggml_type, ne0, layout)

    monkeypatch.setattr(placement, "row_padding", counted)
    estimator = Estimator(describe(header), machine(1, "CUDA"))
    assert looked_at <= 2 * len(header.tensors)
    looked_at = 0
    layers = [estimator.totals(Settings(512, n_gpu_layers=n), "nothing") for n in range(400)]
    assert looked_at == 0
    assert len({gpu for gpu, _ in layers}) == 400


def test_pooling_left_open_is_a_chat_model(tmp_path: Path) -> None:
    """Some writers store the engine's "unspecified", -1 as an unsigned number."""
    path = tiny_llama(tmp_path / "m.gguf", {"llama.pooling_type": Typed(0xFFFFFFFF, 4)})
    assert describe(read_header(path)).architecture == "llama"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention.indexer.top_k", "many"),
        ("attention.key_length_swa", -5),
        ("attention.sliding_window", 1.5),
        ("embedding_length_per_layer_input", math.inf),
        ("expert_feed_forward_length", -1),
        ("hrm.h_cycles", 1 << 63),
        ("leading_dense_block_count", 0.5),
        ("rope.dimension_sections", [math.nan, 1.0]),
        ("ssm.state_size", -(1 << 63)),
        ("use_parallel_residual", "yes"),
        ("vocab_size", 1 << 63),
    ],
)
def test_keys_that_this_architecture_never_reads_may_say_anything(
    tmp_path: Path, key: str, value: object
) -> None:
    """llama.cpp does not look at them, and loads the file."""
    plain = describe(read_header(tiny_llama(tmp_path / "a.gguf", {"tokenizer.ggml.tokens": ["x"]})))
    stated = {"tokenizer.ggml.tokens": ["x"], f"llama.{key}": value}
    odd = describe(read_header(tiny_llama(tmp_path / "b.gguf", stated)))
    assert odd.hparams == plain.hparams


@pytest.mark.parametrize("mark", [{"adapter.type": "lora"}, {"general.type": "adapter"}])
def test_a_model_marked_as_something_else_is_a_model(tmp_path: Path, mark: dict[str, str]) -> None:
    """The engine does not look at the mark where there are layers."""
    assert describe(read_header(tiny_llama(tmp_path / "m.gguf", mark))).n_layer == 2


def test_a_trained_context_of_nothing_is_one_not_stated(tmp_path: Path) -> None:
    """llama.cpp loads such a file; a plan has a context all the same."""
    model = describe(read_header(tiny_llama(tmp_path / "m.gguf", {"llama.context_length": 0})))
    plan = make_plan(model, giants.machine(giants.gpu(8)), Wishes())
    assert plan.chosen.fits
    assert all(c.settings.n_ctx > 0 for c in (plan.chosen, *plan.alternatives))


def test_no_context_is_longer_than_the_engine_counts(tmp_path: Path) -> None:
    stated = {"llama.context_length": (1 << 32) - 1}
    assert describe(read_header(tiny_llama(tmp_path / "m.gguf", stated))).n_ctx_train == MAX_CONTEXT


def test_long_names_are_cut(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m.gguf", {"general.name": "n" * 100_000})
    assert describe(read_header(path)).name == "n" * 200
    path = tiny_llama(tmp_path / "m.gguf", {"general.architecture": "n" * 100_000})
    with pytest.raises(FileError, match="names no model architecture"):
        describe(read_header(path))
