"""One message of the transcript."""

from __future__ import annotations

import re

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Collapsible

from tui.storage import StoredMessage
from tui.widgets.markdown import MarkdownText
from tui.widgets.plain import Plain

# As word processors count: each character where a script has no spaces between words.
_WORD = re.compile("[\u3040-\u9fff]|[^\\s\u3040-\u9fff]+")


class UserMessage(Vertical):
    """What the user wrote, as it was written."""

    def __init__(self, message: StoredMessage):
        super().__init__(classes="message")
        self.message = message

    def compose(self) -> ComposeResult:
        yield Plain(self.message.content, classes="user-text")
        if meta_line(self.message):
            yield Plain(meta_line(self.message), classes="meta")


class Reasoning(Collapsible):
    """What the model wrote for itself, folded away. Plain text: it is long and rarely read."""

    def __init__(self) -> None:
        self._text = Plain(classes="reasoning-text")
        self._source = ""
        super().__init__(self._text, classes="reasoning")

    def show(self, text: str, growing: bool, seconds: float | None = None) -> None:
        """The reasoning so far, and how long it took; drawn only while it is unfolded."""
        self._source = text
        n_words = len(_WORD.findall(text))
        words = f"{n_words:,} word{'' if n_words == 1 else 's'}"
        title = f"{'thinking' if growing else 'thought'} · {words}"
        if seconds and not growing:
            title += f" · {took(seconds)}"
        if self.title != title:
            self.title = title
        if not self.collapsed:
            self._text.show(text.strip())

    def on_collapsible_expanded(self) -> None:
        self._text.show(self._source.strip())


class AnswerMessage(Vertical):
    """What the model wrote: its reasoning folded away, then the answer, then how it ended."""

    def __init__(self, message: StoredMessage, streaming: bool = False):
        super().__init__(classes="message")
        self.message = message
        self._body = MarkdownText("" if streaming else message.content + "\n")
        # Most answers have neither of these, and a widget less is a widget less to lay out.
        self._reasoning: Reasoning | None = None
        self._meta: Plain | None = None
        if message.reasoning:
            self._reasoning = Reasoning()
            self._reasoning.show(message.reasoning, False, message.thought_seconds)
        if not streaming and meta_line(message):
            self._meta = Plain(meta_line(message), classes="meta")

    def compose(self) -> ComposeResult:
        if self._reasoning is not None:
            yield self._reasoning
        yield self._body
        if self._meta is not None:
            yield self._meta

    async def update_message(self, message: StoredMessage, streaming: bool = False) -> None:
        """Shows a newer state of the message; the text itself comes through `feed`."""
        self.message = message
        if message.reasoning:
            if self._reasoning is None:
                self._reasoning = Reasoning()
                await self.mount(self._reasoning, before=self._body)
            growing = streaming and not message.content
            self._reasoning.show(message.reasoning, growing, message.thought_seconds)
        meta = "" if streaming else meta_line(message)
        if meta and self._meta is None:
            self._meta = Plain(meta, classes="meta")
            await self.mount(self._meta)

    async def feed(self, text: str, final: bool = False) -> None:
        """Draws more of the answer."""
        await self._body.feed(text, final)

    async def clear(self) -> None:
        """Takes the answer back: it turned out to be reasoning."""
        await self._body.clear()


def meta_line(message: StoredMessage) -> str:
    """What is not as it should be with a message, how an answer ended for example; "" where all
    is well."""
    if message.damaged:
        return "this message was damaged on disk: it may not say what it said"
    if message.state == "complete":
        only = message.reasoning and not message.content
        return "the model thought, and answered nothing" if only else ""
    how = {
        "stopped": "stopped",
        "max_tokens": "ends at --max-tokens",
        "context_full": "cut short: the context is full",
        "interrupted": "interrupted: kvchat ended while this was written",
        "error": "cut short by an error",
    }.get(message.state, message.state)
    if message.content:
        return how
    return f"{how} · nothing was {'answered yet' if message.reasoning else 'written'}"


def took(seconds: float) -> str:
    """A length of time as one says it."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes:
        return f"{minutes} min {rest} s"
    return f"{rest} s" if rest else "under 1 s"


class Notice(Plain):
    """Something the program says in the transcript."""

    def __init__(self, text: str, kind: str = "info"):
        super().__init__(text, classes=f"notice -{kind}")


def widget_for(message: StoredMessage) -> UserMessage | AnswerMessage:
    """The widget that shows a finished message."""
    return UserMessage(message) if message.role == "user" else AnswerMessage(message)
