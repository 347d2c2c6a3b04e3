"""One message of the transcript."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Collapsible, Static

from tui.conversations import StoredMessage
from tui.widgets.markdown import MarkdownText


class UserMessage(Vertical):
    """What the user wrote, as it was written."""

    def __init__(self, message: StoredMessage):
        super().__init__(classes="message")
        self.message = message

    def compose(self) -> ComposeResult:
        yield Static(self.message.content, markup=False, classes="user-text")


class AnswerMessage(Vertical):
    """What the model wrote: its reasoning folded away, then the answer, then how it ended."""

    def __init__(self, message: StoredMessage, streaming: bool = False):
        super().__init__(classes="message")
        self.message = message
        self.n_updates = 0  # markdown updates made, for tests of the drawing rate
        self._streaming = streaming
        self._body = MarkdownText("" if streaming else message.content + "\n")
        # Plain text: reasoning is long, rarely read, and cheap to draw so.
        self._reasoning_text = Static(message.reasoning, markup=False, classes="reasoning-text")
        self._reasoning = Collapsible(
            self._reasoning_text, title=self._reasoning_title(), classes="reasoning"
        )
        self._meta = Static("", markup=False, classes="meta")

    def compose(self) -> ComposeResult:
        yield self._reasoning
        yield self._body
        yield self._meta

    def on_mount(self) -> None:
        self.update_message(self.message, self._streaming)

    def update_message(self, message: StoredMessage, streaming: bool = False) -> None:
        """Shows a newer state of the message; the text itself comes through `feed`."""
        self.message = message
        self._streaming = streaming
        self._reasoning.display = bool(message.reasoning)
        if message.reasoning:
            title = self._reasoning_title()
            if self._reasoning.title != title:
                self._reasoning.title = title
            if not self._reasoning.collapsed or not streaming:
                self._reasoning_text.update(message.reasoning.strip())
        meta = "" if streaming else meta_line(message)
        self._meta.update(meta)
        self._meta.display = bool(meta)

    def on_collapsible_expanded(self) -> None:
        self._reasoning_text.update(self.message.reasoning.strip())

    def _reasoning_title(self) -> str:
        thinking = self._streaming and not self.message.content
        n_words = len(self.message.reasoning.split())
        return f"{'thinking' if thinking else 'thought'} · {n_words:,} words"

    async def feed(self, text: str, final: bool = False) -> None:
        """Draws more of the answer."""
        self.n_updates += await self._body.feed(text, final)

    async def clear(self) -> None:
        """Takes the answer back: it turned out to be reasoning."""
        await self._body.clear()


def meta_line(message: StoredMessage) -> str:
    """How an answer ended, if not as it should; nothing to say about a complete one."""
    if message.state == "complete":
        return ""
    how = {
        "stopped": "stopped",
        "interrupted": "interrupted: kvchat ended while this was written",
        "error": "cut short by an error",
    }.get(message.state, message.state)
    return how if message.content else f"{how} · nothing was written"


class Notice(Static):
    """Something the program says in the transcript."""

    def __init__(self, text: str, kind: str = "info"):
        super().__init__(text, markup=False, classes=f"notice -{kind}")


def widget_for(message: StoredMessage) -> UserMessage | AnswerMessage:
    """The widget that shows a finished message."""
    return UserMessage(message) if message.role == "user" else AnswerMessage(message)
