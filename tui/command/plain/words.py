"""What the chat in lines says of a conversation and of a model."""

from __future__ import annotations

import time

from tui.answering import Chat
from tui.answering.words import how_it_ended
from tui.composing.parts import asked, shown
from tui.ports import RunningModel
from tui.status import SEPARATOR
from tui.storage import Conversation, StoredMessage
from tuner.safe_text import one_line
from tuner.units import count_text

WAYS = (
    "/grow loads a larger context, /drop lets the oldest turns go, /summarise has them summarised; "
    "then it goes on from there"
)


def ready(running: RunningModel) -> str:
    """The model, and how it is loaded."""
    what = ", ".join(filter(None, (running.model.name, running.model.quantization)))
    how = running.status().replace(SEPARATOR, ", ")
    return f"{what}, is ready with {running.settings.n_ctx:,} tokens of context: {how}"


def asked_text(message: StoredMessage) -> str:
    """A question as it was written, without the files that went along."""
    return asked(message.content, message.parts).whole


def spoken(message: StoredMessage) -> str:
    """A message, who said it, and how it ended where that is not as it should; of files, names."""
    if message.role == "user":
        return f"You: {shown(message.content, message.parts).strip()}"
    how = how_it_ended(message)
    ended = f"\n({how})" if how else ""
    who = one_line(message.model_name or "") or "The model"
    return f"{who}: {message.content.strip()}{ended}"


def whole(chat: Chat) -> str:
    """The conversation, as it is shown and as it is written to a file."""
    return "".join(f"{spoken(message)}\n\n" for message in chat.path)


def listed(conversation: Conversation) -> str:
    """One of several, on a line."""
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(conversation.updated))
    n = conversation.n_messages
    title = one_line(conversation.title) or "without a title"
    return f"{conversation.id}: {title}, {count_text(n, 'message')}, {day}"


def context(used: int, n_ctx: int) -> str:
    """Tokens of the conversation in tokens of context."""
    return f"{used:,} of {n_ctx:,} tokens of context are used; {max(0, n_ctx - used):,} are left"


def without_bars(report: str) -> str:
    """A report without the lines that only draw something."""
    lines = report.split("\n")
    return "\n".join(line for line in lines if not line.strip() or any(map(str.isalnum, line)))
