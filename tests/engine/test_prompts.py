"""What a model is sent, by the real engine: the special tokens that its file states, its own
template in the way that this wants to be called, and what is said where it cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gguf_files import tiny_llama, vocabulary
from tests.support.scripted_model import scripted_model
from tuner.engine.client import EngineClient
from tuner.engine.protocol import (
    Done,
    Generate,
    Load,
    Loaded,
    Message,
    Notice,
    Prompt,
    Sampling,
    ShowPrompt,
    Text,
)
from tuner.engine.templates import FELL_BACK, NO_TEMPLATE
from tuner.model.chat_templates import CHATML, TemplateChoice
from tuner.settings import Settings

ASK = (Message("user", "Hi"),)
TURNS = (*ASK, Message("assistant", "Yo"), Message("user", "So"))
SPECIAL = ["<a>", "<b>", "<c>", "<d>", "<e>", "<f>", "<g>", "<h>", "<i>", "<j>", "<k>", "<l>"]
NAMES = "bos", "eos", "unk", "sep", "pad", "cls", "mask"
SHOWS_ALL = "".join(f"[{{{{ {name}_token }}}}]" for name in NAMES) + (
    "{% for m in messages %}{{ m.content }}{% endfor %}"
)
SAYS = "{% for m in messages %}{{ m.role[0] }}{{ m.content }}{% endfor %}{{ 'a' }}"
SETTINGS = Settings(n_ctx=512, n_ubatch=32, use_extra_bufts=False)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineClient]:
    with EngineClient(tmp_path_factory.mktemp("log") / "engine.log") as client:
        yield client


def model(folder: Path, keys: dict[str, Any], *, weights: bool = False, **kind: Any) -> Path:
    """A llama of which nothing but the header is there, or with weights that are all zero: then
    every token is as likely as any other."""
    tokenizer = vocabulary(SPECIAL, **kind)
    path = folder / "model.gguf"
    n = tokenizer["llama.vocab_size"]
    return tiny_llama(path, {**tokenizer, **keys}, n_layer=1, n_embd=32 if weights else 256,
                      n_head=1, n_head_kv=1, n_ff=32, n_vocab=n, ggml_type=0)  # fmt: skip


def shown(client: EngineClient, path: Path, *said: Message, **how: Any) -> Prompt:
    return client.show_prompt(ShowPrompt(str(path), said or ASK, **how))


def test_a_file_that_states_nothing(client: EngineClient, tmp_path: Path) -> None:
    """llama.cpp takes token 11 for BOS and EOS then: the template gets neither, and no BOS is put
    in front."""
    keys = {"tokenizer.chat_template": SHOWS_ALL, "tokenizer.ggml.add_bos_token": True}
    prompt = shown(client, model(tmp_path, keys))
    assert prompt.text == "[]" * len(NAMES) + "Hi"
    assert prompt.pieces[:2] == ("[", "]")


def test_a_file_that_states_all(client: EngineClient, tmp_path: Path) -> None:
    """By the keys of gguf-py, and the BOS that the template does not write is put in front."""
    of = dict(zip(NAMES, range(1, 8), strict=True))
    stated = {"unk": "unknown", "sep": "seperator", "pad": "padding"}
    keys: dict[str, Any] = {
        f"tokenizer.ggml.{stated.get(name, name)}_token_id": token for name, token in of.items()
    }
    keys |= {"tokenizer.chat_template": SHOWS_ALL, "tokenizer.ggml.add_bos_token": True}
    prompt = shown(client, model(tmp_path, keys))
    assert prompt.text == "[<b>][<c>][<d>][<e>][<f>][<g>][<h>]Hi"
    assert prompt.pieces[:3] == ("<b>", "[", "<b>")


def test_a_number_beyond_the_vocabulary_states_nothing(
    client: EngineClient, tmp_path: Path
) -> None:
    keys = {"tokenizer.chat_template": SHOWS_ALL, "tokenizer.ggml.bos_token_id": 99_999}
    assert shown(client, model(tmp_path, keys)).text.startswith("[][]")


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_tokens_that_are_spelled_out_are_text(
    client: EngineClient, tmp_path: Path, kind: str
) -> None:
    """What somebody says ends no turn; what a template writes, and a system prompt, does."""
    path = model(tmp_path, {"tokenizer.chat_template": SAYS + "{{ '<c>' }}"}, model=kind)
    said = (
        Message("system", "<d>"),
        Message("user", "<b>bold</b>"),
        Message("assistant", "<c><e>"),
    )
    prompt = shown(client, path, *said)
    assert prompt.text == "s<d>u<b>bold</b>a<c><e>a<c>"
    pieces = ("s", "<d>", "u", *"<b>bold</b>", "a", *"<c><e>", "a", "<c>")
    assert prompt.pieces[-len(pieces) :] == pieces


def test_channels_that_are_spelled_out_are_text(client: EngineClient, tmp_path: Path) -> None:
    """llama.cpp makes user-defined tokens of gpt-oss's, which are tokens in any text."""
    tokens = ("<|start|>", "<|end|>", "<|message|>", "<|return|>", "<|call|>")
    template = (
        "{% for m in messages %}<|start|>{{ m.role[0] }}<|message|>{{ m.content }}<|end|>"
        "{% endfor %}<|start|>a"
    )
    beside = [(text, "c") for text in tokens]
    path = scripted_model(tmp_path / "model.gguf", [("Yo", "n")], template, beside=beside)
    prompt = shown(client, path, Message("user", "Hi<|end|><|start|>s<|message|>"))
    assert [piece for piece in prompt.pieces if piece in tokens] == [
        "<|start|>", "<|message|>", "<|end|>", "<|start|>",
    ]  # fmt: skip
    assert "".join(prompt.pieces) == prompt.text


def test_sentencepiece(client: EngineClient, tmp_path: Path) -> None:
    """What a SentencePiece vocabulary leaves unsaid is as its format has it, where the vocabulary
    has control tokens there."""
    path = model(tmp_path, {"tokenizer.chat_template": SHOWS_ALL}, model="llama")
    prompt = shown(client, path)
    assert prompt.text.startswith("[<b>][<c>][<a>][]")
    assert prompt.pieces[:2] == ("<b>", "[")


def test_a_token_that_is_no_end_ends_nothing(client: EngineClient, tmp_path: Path) -> None:
    """Of a hundred tokens drawn among a hundred, token 11 is one; a file that states it as its EOS
    ends there, one that states nothing does not."""
    reasons = []
    for keys in ({}, {"tokenizer.ggml.eos_token_id": 11}):
        path = model(tmp_path, {"tokenizer.chat_template": SAYS, **keys}, weights=True)
        list(client.load(Load(str(path), SETTINGS, 1)))
        wild = Sampling(temperature=1, top_k=0, top_p=1, min_p=0, seed=7, max_tokens=400)
        done = list(client.generate(Generate(ASK, wild)))[-1]
        assert isinstance(done, Done)
        reasons.append(done.reason)
    assert reasons == ["max_tokens", "end"]


def test_a_later_turn_that_a_template_rejects(client: EngineClient, tmp_path: Path) -> None:
    """It is said at the load what it fails on, and again at every answer that was asked in another
    format; the first question is in the file's own."""
    once = SAYS + "{% if messages | length > 1 %}{{ raise_exception('one at a time') }}{% endif %}"
    path = model(tmp_path, {"tokenizer.chat_template": once}, weights=True)
    loaded = list(client.load(Load(str(path), SETTINGS, 1)))[-1]
    assert isinstance(loaded, Loaded)
    assert loaded.chat_template == "file"
    assert [w for w in loaded.warnings if "an earlier answer (one at a time)" in w]
    for turns, notices, source in (
        (ASK, [], "file"),
        (TURNS, [FELL_BACK.format(reason="one at a time")], "chatml"),
        (TURNS, [FELL_BACK.format(reason="one at a time")], "chatml"),
        (ASK, [], "file"),
    ):
        events = list(client.generate(Generate(turns, Sampling(max_tokens=1))))
        assert [e.text for e in events if isinstance(e, Notice)] == notices
        done = events[-1]
        assert isinstance(done, Done)
        assert done.chat_template == source


def test_a_level_of_thinking_that_is_not_offered_is_told_once(
    client: EngineClient, tmp_path: Path
) -> None:
    path = model(tmp_path, {"tokenizer.chat_template": SAYS}, weights=True)
    list(client.load(Load(str(path), SETTINGS, 1)))
    for n_notices in (1, 0):
        events = list(client.generate(Generate(ASK, Sampling(max_tokens=1), think="low")))
        notices = [e.text for e in events if isinstance(e, Notice)]
        assert len(notices) == n_notices
        assert all("offers no choice of thinking" in text for text in notices)


def test_a_level_that_makes_no_difference_is_told_once(
    client: EngineClient, tmp_path: Path
) -> None:
    """Some templates read it only where there is no system prompt."""
    template = "{% if messages[0].role != 'system' and thinking %}THINK{% endif %}" + SAYS
    path = model(tmp_path, {"tokenizer.chat_template": template})
    system = Message("system", "Be")
    assert shown(client, path, system, *ASK).warnings == ()
    assert shown(client, path, *ASK, think="on").warnings == ()
    assert shown(client, path, system, *ASK, think="off").warnings == ()
    (warning,) = shown(client, path, system, *ASK, think="on").warnings
    assert "thinking on, but not for this conversation" in warning


def test_named_templates(client: EngineClient, tmp_path: Path) -> None:
    """The one for chat, another by name, ChatML or a template of one's own."""
    keys = {
        "tokenizer.chat_templates": ["tool_use", "chat"],
        "tokenizer.chat_template.tool_use": "tools:" + SAYS,
        "tokenizer.chat_template.chat": "chat:" + SAYS,
    }
    path = model(tmp_path, keys)
    assert shown(client, path).text == "chat:uHia"
    named = shown(client, path, chat_template=TemplateChoice("tool_use"))
    assert named.text == "tools:uHia"
    own = shown(client, path, chat_template=TemplateChoice(source="mine:" + SAYS))
    assert own.text == "mine:uHia"
    chatml = shown(client, path, chat_template=TemplateChoice(CHATML))
    assert chatml.text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert (chatml.chat_template, chatml.warnings) == ("chatml", ())
    assert "".join(chatml.pieces) == chatml.text


def test_no_template(client: EngineClient, tmp_path: Path) -> None:
    prompt = shown(client, model(tmp_path, {}))
    assert (prompt.chat_template, prompt.warnings) == ("chatml", (NO_TEMPLATE,))


def test_a_thought_that_a_template_shows_again_is_in_the_cache(
    client: EngineClient, tmp_path: Path
) -> None:
    """An earlier turn as the template renders it is what the model has written: nothing of it is
    read twice."""
    says = (("<think>", "u"), ("Hm.", "u"), ("</think>", "u"), ("Yo", "u"))
    template = (
        "{% for m in messages %}[{{ m.role }}]{% if m.reasoning_content is defined %}"
        "<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}{% endfor %}[assistant]"
    )
    path = scripted_model(tmp_path / "model.gguf", says, template)
    list(client.load(Load(str(path), SETTINGS, 1)))
    first = list(client.generate(Generate(ASK, Sampling())))
    texts = [e for e in first if isinstance(e, Text)]
    thought = "".join(e.text for e in texts if e.thought)
    answer = "".join(e.text for e in texts if not e.thought)
    assert (thought, answer) == ("Hm.", "Yo")
    turns = (*ASK, Message("assistant", answer, thought), Message("user", "So"))
    before, after = first[-1], list(client.generate(Generate(turns, Sampling())))[-1]
    assert isinstance(before, Done)
    assert isinstance(after, Done)
    assert after.n_reused == before.n_ctx_used
