"""Lines that are typed, and Ctrl+C, which is a signal here."""

from __future__ import annotations

import sys
from types import ModuleType

from tui.command.output import ask, dumb
from tui.command.signals import leave_by_signals, on_signals
from tui.parachute import Parachute
from tuner.safe_text import pasted, printable

STOP, LEAVE = "Ctrl+C", "Ctrl+D"  # the terminal's own, which no keymap changes


class Left(BaseException):
    """The system or another program ends kvchat."""


class Keyboard:
    """A signal raises where a line is waited for; whatever else goes on asks `interrupted` and
    `left`, and is not torn."""

    def __init__(self, parachute: Parachute):
        self.left = False  # SIGTERM or SIGHUP came
        self.had_text = False  # the line at which Ctrl+C was pressed last, where that is known
        self._interrupted = False
        self._waits = False
        self._editor = None if dumb() or not sys.stdout.isatty() else _readline()
        leave_by_signals(self._leave, parachute, ("SIGTERM", "SIGHUP"))
        on_signals(("SIGINT",), self._interrupt)

    @property
    def interrupted(self) -> bool:
        """Ctrl+C was pressed since this was last asked."""
        was, self._interrupted = self._interrupted, False
        return was

    @property
    def edits(self) -> bool:
        """Lines can be edited, and brought back with Up."""
        return self._editor is not None

    def remember(self, *entries: str) -> None:
        """What Up brings back, the oldest first."""
        if self._editor is not None:
            for entry in entries:
                self._editor.add_history(printable(entry))

    def line(self, prompt: str, prefilled: str = "") -> str:
        """A line without its end; one that was pasted may be several. `prefilled`: what stands
        there already, where lines can be edited. Raises EOFError at the end of all,
        KeyboardInterrupt at Ctrl+C, and Left."""
        if self._editor is not None and prefilled:
            text = printable(prefilled)
            self._editor.set_startup_hook(lambda: self._insert(text))
        self._waits = True
        try:
            if self.left:
                raise Left
            return pasted(ask(prompt, edited=self.edits))
        finally:
            self._waits = False
            if self._editor is not None:
                self._editor.set_startup_hook()

    def _insert(self, text: str) -> None:
        if self._editor is not None:
            self._editor.insert_text(text)

    def _interrupt(self, *_: object) -> None:
        if not self._waits:
            self._interrupted = True
            return
        self.had_text = self._editor is not None and bool(self._editor.get_line_buffer())
        raise KeyboardInterrupt

    def _leave(self) -> None:
        self.left = True
        if self._waits:
            raise Left


def _readline() -> ModuleType | None:
    """Line editing and its history, where Python has them. Asked for on a terminal only: it may
    write to it as it is imported."""
    try:
        import readline  # noqa: PLC0415
    except ImportError:  # Windows
        return None
    readline.set_auto_history(False)  # a text of several lines is one entry
    if "libedit" not in (readline.__doc__ or ""):  # which knows no such thing
        readline.parse_and_bind("set enable-bracketed-paste on")
    return readline
