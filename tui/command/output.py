"""The one door to the terminal outside the screens: what others wrote (a file, a template, an
engine, a model, a path) is cleaned here."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
import time

from tui.command.ascii_signs import FOR_SCREENS, FOR_TEXT
from tui.command.pace import Pace
from tuner.safe_text import one_line, printable

_COLOUR = re.compile(r"(\x1b\[(?:[0-2]|3[0-7])m)")
PROGRESS_SECONDS = 1.0  # between two lines of it
MAX_COLUMNS = 120  # a wider report is no easier to read


def prepare_streams() -> None:
    """What a stream cannot carry is written in ASCII, never a reason to fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=FOR_TEXT)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")


def prepare_screen() -> None:
    """The same for the screens of the chat, which Textual draws on stderr, cell by cell."""
    if isinstance(sys.__stderr__, io.TextIOWrapper):
        sys.__stderr__.reconfigure(errors=FOR_SCREENS)


def columns() -> int:
    """How wide a report may be: as the terminal, COLUMNS, or 80 in a pipe."""
    return min(shutil.get_terminal_size().columns, MAX_COLUMNS)


def colours() -> bool:
    """Whether a report on stdout may be coloured: on a terminal, and https://no-color.org."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and not dumb()


def dumb() -> bool:
    """Whether the terminal understands no escapes."""
    return os.environ.get("TERM") == "dumb"


def write(text: str, *, coloured: bool = False) -> None:
    """Text to stdout: cleaned where that is a terminal, as it is in a pipe. `coloured`: the plain
    colours of a report stay."""
    if sys.stdout.isatty():
        parts = _COLOUR.split(text) if coloured else [text]
        text = "".join(part if _COLOUR.fullmatch(part) else printable(part) for part in parts)
    sys.stdout.write(text)
    sys.stdout.flush()


def write_aside(text: str) -> None:
    """Text to stderr, beside what goes to stdout: cleaned where that is a terminal."""
    if sys.stderr is not None:
        sys.stderr.write(printable(text) if sys.stderr.isatty() else text)
        sys.stderr.flush()


def ask(prompt: str, *, edited: bool = False) -> str:
    """A line from the terminal. `prompt`: kvchat's own words. `edited`: readline is there to edit
    it. Raises EOFError where there is no more."""
    if edited:
        return input(prompt)
    if sys.stdout.isatty():
        write(prompt)
    else:
        write_aside(prompt)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.removesuffix("\n")


def tell(message: str) -> None:
    """One line on stderr."""
    if sys.stderr is not None:
        print(f"kvchat: {one_line(message)}", file=sys.stderr)


def complain(message: str) -> None:
    """One line on stderr, and on the terminal too where that is stdout only."""
    stderr_shows = sys.stderr is not None and sys.stderr.isatty()
    if not stderr_shows and sys.stdout is not None and sys.stdout.isatty():
        print(f"kvchat: {one_line(message)}")
    tell(message)


class Progress:
    """One line on stderr that is rewritten in place; on a dumb terminal a line from time to time,
    and nothing where stderr is no terminal."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._pace = Pace(PROGRESS_SECONDS) if dumb() else None
        self._shown = False

    def show(self, text: str) -> None:
        if self._live and self._pace is not None:
            if text and self._pace.due(text, time.monotonic()):
                tell(text)
        elif self._live and (text or self._shown):
            sys.stderr.write(f"\r\x1b[K{one_line(text)}")
            sys.stderr.flush()
            self._shown = bool(text)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.show("")
        tell(text)
