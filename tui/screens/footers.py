"""What stands below a message: which of its versions it is, and how an answer came."""

from __future__ import annotations

from collections.abc import Container

from tui.answering import Chat
from tui.answering.figures import figures
from tui.answering.words import version_text
from tui.storage import StoredMessage
from tui.widgets import Transcript


class Footers:
    """Figures have the last answer and the message that the cursor is on, and no other."""

    def __init__(self, transcript: Transcript):
        self._transcript = transcript
        self._detailed: frozenset[str] = frozenset()  # ids of those with figures

    def mark(self, chat: Chat) -> None:
        """Writes those of all messages."""
        self._detailed = self._chosen(chat)
        self._write(chat, chat.path)

    def cursor_moved(self, chat: Chat) -> None:
        """Writes those that are others now."""
        before, self._detailed = self._detailed, self._chosen(chat)
        other = before ^ self._detailed
        if other:
            self._write(chat, [m for m in chat.path if m.id in other])

    def _chosen(self, chat: Chat) -> frozenset[str]:
        last, at = chat.last_answer, self._transcript.cursor.item
        return frozenset(([last.id] if last else []) + ([at.message_id] if at else []))

    def _write(self, chat: Chat, messages: list[StoredMessage]) -> None:
        entries = {e.message.id: e for e in self._transcript.entries if e.message is not None}
        for message in messages:
            entry, text = entries.get(message.id), _footer(chat, message, self._detailed)
            if entry is not None and entry.footer != text:
                entry.set_footer(text)


def _footer(chat: Chat, message: StoredMessage, detailed: Container[str]) -> str:
    parts = (version_text(chat.tree, message), figures(message) if message.id in detailed else "")
    return "  ".join(part for part in parts if part)
