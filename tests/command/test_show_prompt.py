"""`kvchat MODEL --show-prompt`, and the flags that change a prompt."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

import tui.command.show_prompt
from tests.support.gguf_files import tiny_llama, vocabulary
from tui.answering import Chat
from tui.command.cli import main
from tui.storage import Conversations
from tuner.engine.client import EngineClient

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    "{% if enable_thinking is defined and not enable_thinking %}no{% endif %}"
)


@pytest.fixture(autouse=True)
def _no_input(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        yield


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineClient]:
    with EngineClient(tmp_path_factory.mktemp("log") / "engine.log") as client:
        yield client


@pytest.fixture(autouse=True)
def _one_engine(client: EngineClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """To start one takes most of a command's time."""
    monkeypatch.setattr(tui.command.show_prompt, "EngineClient", lambda: nullcontext(client))


@pytest.fixture
def model(tmp_path: Path) -> str:
    """Nothing but a header is there."""
    keys = {
        **vocabulary(["<user>", "<assistant>"]),
        "tokenizer.chat_template": TEMPLATE,
        "tokenizer.chat_template.tool_use": "tools:" + TEMPLATE,
    }
    n_vocab = keys["llama.vocab_size"]
    return str(tiny_llama(tmp_path / "model.gguf", keys, n_vocab=n_vocab, ggml_type=0))


def test_a_question(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exactly what the model would be sent, and nothing else."""
    assert main([model, "--show-prompt", "-p", "Hi \x1b[1m", "--system", "Be kind."]) == 0
    out, err = capsys.readouterr()
    assert out == "<system>Be kind.<user>Hi \x1b[1m<assistant>"
    assert err == ""


def test_a_sample_and_its_tokens(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing is asked, a conversation of two turns; with `--json` token by token, and what
    the template offers."""
    assert main([model, "--show-prompt", "--json", "--think", "off"]) == 0
    got = json.loads(capsys.readouterr().out)
    assert got["prompt"].count("<user>") == 2
    assert got["prompt"].endswith("<assistant>no")
    assert got["tokens"][0] == {"id": 0, "text": "<user>"}
    assert "".join(token["text"] for token in got["tokens"]) == got["prompt"]
    assert got["n_tokens"] == len(got["tokens"])
    assert (got["think"], got["usual_think"]) == (["off", "on"], "on")
    assert (got["chat_template"], got["warnings"]) == ("file", [])


def test_a_saved_conversation(
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the next question, and with a system prompt in place of its own."""
    monkeypatch.setenv("KVCHAT_DATA_DIR", str(tmp_path))
    chat = Chat("Be kind.")
    asked = chat.add_user("One?")
    store = Conversations.open(None)
    store.save(chat.record(), [asked])
    store.close()
    begin = [model, "--show-prompt", "--resume", "-p", "Two?"]
    assert main(begin) == 0
    assert capsys.readouterr().out.startswith("<system>Be kind.<user>One?")
    assert main([*begin, "--system", "Be brief."]) == 0
    assert capsys.readouterr().out.startswith("<system>Be brief.<user>One?")
    assert main([model, "--show-prompt", "--resume", "nothing"]) == 2
    assert "no saved conversation 'nothing'" in capsys.readouterr().err


def test_another_template(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of the file's by name, or a file."""
    own = tmp_path / "own.jinja"
    own.write_text("mine: {{ messages[-1].content }}")
    for choice, begins in (("tool_use", "tools:<user>"), (str(own), "mine: Hi")):
        assert main([model, "--show-prompt", "-p", "Hi", "--chat-template", choice]) == 0
        assert capsys.readouterr().out.startswith(begins)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--chat-template", "rag"), "a template of the model (tool_use, default)"),
        (("--chat-template", "."), "(Is a directory)"),
        (("--chat-template", "empty.jinja"), "is empty"),
        (("--chat-template", "model.gguf"), "it is no text"),
        (("--think", "much"), "--think takes one of off, low, medium, high, on, not 'much'."),
        (("--when-full", "cut"), "--when-full takes one of ask, drop, summarise, grow, not 'cut'."),
        (("--verify",), "--verify goes with --explain."),
    ],
)
def test_wrong_usage(
    flags: tuple[str, ...],
    said: str,
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One sentence, status 2, and no engine is started."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jinja").write_text(" \n")
    (tmp_path / "model.gguf").open("r+b").write(b"GGUF")
    assert main([model, "--show-prompt", *flags]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_several_models(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([model, model, "--show-prompt"]) == 2
    assert "--show-prompt takes one model" in capsys.readouterr().err


def test_a_level_that_is_not_offered_is_said(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([model, "--show-prompt", "--think", "low", "-p", "Hi"]) == 0
    out, err = capsys.readouterr()
    assert out == "<user>Hi<assistant>"
    assert err == "kvchat: the chat template offers thinking off or on: low is taken as on\n"
