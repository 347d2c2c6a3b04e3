"""Where the user writes."""

from __future__ import annotations

from textual import events
from textual.message import Message
from textual.widgets import TextArea

from tui.keymap import Keymap, Place
from tui.widgets.keystrokes import Keystrokes
from tuner.safe_text import printable


class Prompt(TextArea):
    """Several lines. Its keys are heard here and not as bindings of Textual's: one with priority
    would overtake letters that are still on their way, one without would come after the text."""

    class Submitted(Message):
        """The user sends the text. It stays until `take` is called."""

    def __init__(self, keymap: Keymap, placeholder: str = "") -> None:
        super().__init__(
            soft_wrap=True,
            show_line_numbers=False,
            tab_behavior="focus",
            placeholder=placeholder,
            highlight_cursor_line=False,
        )
        self.keystrokes = Keystrokes()
        self._actions = keymap.actions(Place.PROMPT)
        self._history: list[str] = []
        self._at = 0  # in the history; its length: the text being written
        self._recalled = ""

    def set_history(self, messages: list[str]) -> None:
        """The user's messages of this conversation, oldest first."""
        self._history = [printable(message) for message in messages]
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
        action = self._actions.get(event.key)
        # An action that says False leaves the key to the text: Up and Down also move the cursor.
        if action is not None and getattr(self, f"action_{action}")() is not False:
            event.stop()
            event.prevent_default()

    def action_send(self) -> None:
        if self.text.strip():
            self.post_message(self.Submitted())

    def action_newline(self) -> None:
        self.insert("\n")

    def action_earlier(self) -> bool:
        return self._may_recall and self.cursor_at_first_line and self._recall(-1)

    def action_later(self) -> bool:
        return bool(self._recalled) and self.cursor_at_last_line and self._recall(1)

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
