"""Where the user writes."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

from tui.answering.keystrokes import Keystrokes

NEWLINE_KEYS = ("ctrl+j", "shift+enter", "alt+enter", "ctrl+enter")


class Prompt(TextArea):
    """Several lines; Enter sends, Ctrl+J (and Shift+Enter where the terminal tells it apart) makes
    a new line. Up in an empty prompt brings back earlier messages."""

    BINDINGS: ClassVar[list[BindingType]] = [
        # Ctrl+Y copies the last answer in this program.
        Binding("ctrl+shift+z,alt+z", "redo", "Redo", show=False),
    ]

    class Submitted(Message):
        """The user pressed Enter. The text stays until `take` is called."""

    def __init__(self, placeholder: str = "") -> None:
        super().__init__(
            soft_wrap=True,
            show_line_numbers=False,
            tab_behavior="focus",
            placeholder=placeholder,
            highlight_cursor_line=False,
        )
        self.keystrokes = Keystrokes()
        self._history: list[str] = []
        self._at = 0  # in the history; its length: the text being written
        self._recalled = ""

    def set_history(self, messages: list[str]) -> None:
        """The user's messages of this conversation, oldest first."""
        self._history = messages
        self._at = len(messages)
        self._recalled = ""

    def take(self) -> str:
        """The text, remembered and cleared."""
        text = self.text.strip("\n")
        self._history.append(text)
        self._at = len(self._history)
        self._recalled = ""
        self.clear()
        self.keystrokes.rest()
        return text

    def on_key(self, event: events.Key) -> None:
        self.keystrokes.key()
        self.call_after_refresh(self.keystrokes.key_shown)
        if event.key == "enter":
            event.stop()
            event.prevent_default()
            if self.text.strip():
                self.post_message(self.Submitted())
        elif event.key in NEWLINE_KEYS:
            event.stop()
            event.prevent_default()
            self.insert("\n")
        elif self._recalls(event.key):
            event.stop()
            event.prevent_default()

    def _recalls(self, key: str) -> bool:
        """Up or Down where they do not move the cursor: another message of the history."""
        if key == "up" and self._may_recall and self.cursor_at_first_line:
            return self._recall(-1)
        return bool(
            key == "down" and self._recalled and self.cursor_at_last_line and self._recall(1)
        )

    @property
    def _may_recall(self) -> bool:
        return not self.text or self.text == self._recalled

    def _recall(self, step: int) -> bool:
        at = self._at + step
        if not 0 <= at <= len(self._history):
            return False
        self._at = at
        self._recalled = self._history[at] if at < len(self._history) else ""
        self.text = self._recalled
        self.move_cursor(self.document.end)
        return True
