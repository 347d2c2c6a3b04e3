"""Text of others never steers the terminal, whichever way it is shown."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.gguf_files import tiny_llama
from tui.command.cli import main
from tuner.safe_text import one_line, printable

BIDI = [chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))]
CONTROLS = [chr(code) for code in range(0xA0) if unicodedata.category(chr(code)) == "Cc"]


@pytest.mark.parametrize("character", [*CONTROLS, *BIDI, "\ud800"], ids=ascii)
def test_nothing_that_steers_is_left(character: str) -> None:
    """C0, DEL, C1, overrides of the direction, half a surrogate pair; a text keeps its lines."""
    text = f"before{character}after"
    if character in "\t\n":
        assert printable(text) == text
        assert one_line(text) == "before after"
    else:
        assert character not in printable(text)
        assert one_line(text) == printable(text)
        printable(text).encode()


@given(st.text())
def test_what_is_safe_stays_safe(text: str) -> None:
    """Nothing is left to do a second time, and one line is one line."""
    assert printable(printable(text)) == printable(text)
    assert len(one_line(text).splitlines()) <= 1
    one_line(text).encode()


def test_ordinary_text_is_left_alone() -> None:
    text = "naïve\u00a0日本語 שלום 👩\u200d🚀 {}[red]  two spaces"
    assert printable(text) == one_line(text) == text
    assert printable("a\x1b[31mb") == "a␛[31mb"


def test_a_file_s_own_name_is_safe_in_every_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The name of the file and the name in its header, in one report and in the table of many."""
    odd = tmp_path / "odd\x1b]0;x\x07\u202e.gguf"
    tiny_llama(odd, {"general.name": "ll\x1b[31mama\x9b2J"})
    missing = tmp_path / "none\x1b[2J.gguf"
    machine = ("--explain", "--vram", "24GiB", "--ram", "64GiB")
    for paths in ([odd], [odd, missing], [missing]):
        main([*map(str, paths), *machine])
        out, err = capsys.readouterr()
        for character in (*BIDI, *CONTROLS):
            assert character == "\n" or character not in out + err
