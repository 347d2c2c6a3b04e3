"""Another kvchat in the open conversation: that it is there, and what it has written meanwhile."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from tui.answering.conversation import Chat
from tui.storage import Conversations, StoredMessage
from tuner.errors import KvchatError

ALSO_OPEN = (
    "This conversation is also open in another kvchat. What is written there is shown here before "
    "your next message is sent."
)


def written(
    store: Conversations, conversation_id: str, known: AbstractSet[str]
) -> list[StoredMessage]:
    """All of a conversation's messages, where there are some beside the `known` ones, else none.
    Blocks."""
    try:
        if store.message_ids(conversation_id) <= known:
            return []
        return store.messages(conversation_id)
    except KvchatError:
        return []  # what cannot be read now is saved as it is known here


def taken_in(chat: Chat, messages: list[StoredMessage]) -> str:
    """Takes them in, and says so; "" where there is nothing new. Where the other one went on from
    the end of what is shown, that is shown; where it took another way, it is a version."""
    head = chat.tree.head
    news = {message.id for message in chat.tree.merge(messages)}
    if not news:
        return ""
    if head is not None:
        chat.tree.show(head)
    n = sum(message.id in news for message in chat.path)
    if n:
        return f"Another kvchat went on with this conversation: {n} more message{'s' * (n > 1)}."
    return "Another kvchat is in this conversation, too; what it wrote is another version."
