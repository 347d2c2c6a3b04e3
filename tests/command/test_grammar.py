"""`--grammar` and `--json-schema`: a file that cannot be used is told in a sentence, before any
model is loaded."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from tui.command.cli import main
from tui.command.grammar import grammar
from tuner.demo import demo_model_path
from tuner.engine.grammar_check import require_grammar
from tuner.errors import UsageError
from tuner.sampling import MAX_GRAMMAR

SCHEMA = '{"type": "object", "properties": {"a": {"type": "integer"}}}'


def said(*args: str | None) -> str:
    with pytest.raises(UsageError) as error:
        grammar(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_schema_becomes_a_grammar(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(SCHEMA, encoding="utf-8-sig")
    assert "root ::=" in grammar(None, str(tmp_path / "s.json"))
    assert grammar(None, None) == ""


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    """Missing, a folder, empty, too long, no text, no JSON, no schema that a grammar can say."""
    file = tmp_path / "f"
    assert "cannot be read" in said(None, str(file))
    assert "cannot be read" in said(str(tmp_path), None)
    for content, why in (
        (b" \n", "is empty"),
        (b"x" * (MAX_GRAMMAR + 1), "is longer than"),
        (b"\xff", "no text in UTF-8"),
        (b"root ::= \0", "is no text"),
    ):
        file.write_bytes(content)
        assert why in said(str(file), None)
        assert why in said(None, str(file))
    for text, why in (
        ("{", "is no JSON"),
        ('{"not": {}}', "cannot say 'not'"),
        ("[" * 100_000, "deeper than"),
        (json.dumps({"enum": ["\\" * 120] * 1000}), "longer than"),
    ):
        file.write_text(text)
        assert why in said(None, str(file))
    assert "use one" in said(str(file), str(file))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no named pipes")
def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "no plain file" in said(str(tmp_path / "pipe"), None)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "socket"))
        assert "cannot be read" in said(None, str(tmp_path / "socket"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('root ::= "a"\n\nother "b"\n\n# c', "expecting ::= at line 3"),
        ('other ::= "a"\n', "no rule named root"),
        ('root ::= "a"{3,1}\n', "too large"),
        ('root ::= "z" x\na ::= b\nb ::= ""\nx ::= a x "d" | "c"\n', "without end"),
        ("root ::= " + "(" * 100_000, "too large"),
        ("root ::= <nosuchtoken>\n", "invalid token"),
    ],
)
def test_what_the_engine_does_not_understand(text: str, why: str, demo: Path) -> None:
    with pytest.raises(UsageError) as error:
        require_grammar(text, demo, "--grammar")
    assert why in str(error.value)
    assert "\n" not in str(error.value)


def test_what_it_understands(demo: Path) -> None:
    require_grammar('root ::= <|im_end|> | [^"<]{1,20} # <', demo, "--grammar")


@pytest.fixture
def demo() -> Path:
    return demo_model_path()


def test_it_is_told_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    (tmp_path / "g").write_text("root ::= )")
    assert main(["--demo", "-p", "hi", "--grammar", str(tmp_path / "g")]) == 2
    assert "--grammar is no grammar" in capsys.readouterr().err
    assert main(["--demo", "--explain", "--json-schema", str(tmp_path / "no")]) == 2
    assert "--json-schema" in capsys.readouterr().err
