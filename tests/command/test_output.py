"""What reaches a terminal that is narrow, or that has no more than ASCII."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.giants import AYA_35B, giant_path
from tui.command import output
from tui.command.ascii_signs import FOR_SCREENS, FOR_TEXT
from tuner.cells import cells

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "tui.start", str(giant_path(AYA_35B)), "--explain")
MACHINE = ("--vram", "24GiB", "--ram", "64GiB")


def written(text: str, encoding: str, errors: str) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors=errors)
    stream.write(text)
    stream.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "koi8-r", "cp437"])
def test_the_kinds_of_memory_stay_apart(encoding: str) -> None:
    """Each mark of the bar becomes one that no other has, of as many cells."""
    marks = "█▓▒░×-·"
    shown = written(marks, encoding, FOR_TEXT)
    assert len(set(shown)) == len(shown) == len(marks)
    assert "?" not in shown


def test_ascii_of_what_screens_draw() -> None:
    """Lines, corners and blocks, cell by cell."""
    drawn = {
        "╭─╮": "+-+", "│ │": "| |", "╰━╯": "+-+", "┃╸╹": "|-|", "▊▎▌": "|||", "▔▁": "--", "█": "#",
        "⠋": "*", "…": "~", "↑↓": "^v", "→": ">", "é": "e", "模": "??", "Ａ": "A ", "e\u0301": "e",
        "\udcff": "?",
    }  # fmt: skip
    for signs, plain in drawn.items():
        assert written(signs, "ascii", FOR_SCREENS) == plain
        if not any("\ud800" <= sign <= "\udfff" for sign in signs):
            assert len(plain) == cells(signs)


def test_ascii_of_text_reads_well() -> None:
    assert written("a … b → “c” – größe ≥ 5", "ascii", FOR_TEXT) == 'a ... b -> "c" - grosse >= 5'
    assert written("größe → 模", "utf-8", FOR_TEXT) == "größe → 模", "what can be written is"


def test_whoever_reads_what_was_written_is_not_disturbed() -> None:
    assert b"a\xb8b".decode("utf-8", FOR_TEXT) == "a\ufffdb"


@pytest.mark.parametrize(
    ("environment", "width"), [({}, 80), ({"COLUMNS": "50"}, 50), ({"COLUMNS": "999"}, 120)]
)
def test_the_width_of_a_pipe(
    environment: dict[str, str], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.__stdout__", None)
    assert output.columns() == width


@pytest.mark.parametrize("columns", [30, 50])
def test_the_report_has_the_width_of_the_terminal(columns: int) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [*COMMAND, *MACHINE], cwd=ROOT, stdout=theirs, env={**environment, "NO_COLOR": "1"}
    )
    os.close(theirs)
    raw = b""
    try:
        while more := os.read(ours, 65536):
            raw += more
    except OSError:  # Linux says so at the end
        pass
    os.close(ours)
    assert process.wait(60) == 0
    lines = raw.decode().splitlines()
    assert columns - 5 < max(map(cells, lines)) <= columns


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_a_report_in_ascii(environment: dict[str, str]) -> None:
    found = subprocess.run(
        [*COMMAND, *MACHINE],
        cwd=ROOT,
        capture_output=True,
        env={**os.environ, **environment},
        timeout=60,
        check=True,
    )
    text = found.stdout.decode("latin-1")
    assert "?" not in text
    assert "# weights" in text
    assert "= cache" in text
    assert found.stderr == b""


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_dumb_terminal_is_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """One a second at most, and no escape; elsewhere one line is rewritten."""
    now = iter([0.0, 0.5, 1.5])
    clock = SimpleNamespace(monotonic=lambda: next(now))
    monkeypatch.setattr("tui.command.output.time", clock)
    shown = {}
    for term in ("dumb", "xterm"):
        monkeypatch.setenv("TERM", term)
        monkeypatch.setattr("sys.stderr", stderr := _Terminal())
        progress = output.Progress()
        for text in ("loading", "loading 10%", "loading 90%", ""):
            progress.show(text)
        progress.say("done")
        shown[term] = stderr.getvalue()
    assert shown["dumb"] == "kvchat: loading\nkvchat: loading 90%\nkvchat: done\n"
    assert "\x1b[K" in shown["xterm"]
