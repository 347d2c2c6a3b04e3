"""What another kvchat has written into the open conversation meanwhile."""

from __future__ import annotations

import asyncio

from tui.answering import Chat
from tui.storage import Conversations
from tuner.errors import KvchatError


async def catch_up(chat: Chat, store: Conversations) -> str:
    """Takes it in, and says so; "" where there is nothing. Where the other one went on from the
    end of what is shown, that is shown; where it took another way, it is a version."""
    of = chat.conversation.id
    try:
        if await asyncio.to_thread(store.message_ids, of) <= chat.tree.ids:
            return ""
        messages = await asyncio.to_thread(store.messages, of)
    except KvchatError:
        return ""  # what cannot be read now is saved as it is known here
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
