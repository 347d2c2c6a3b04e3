"""Saved conversations.

`Conversations` is the store, `Conversation` and `StoredMessage` what it holds, `Recorder` saves
from a thread of its own.
"""

from tui.storage.conversations import Conversation, Conversations, Hit, StoredMessage
from tui.storage.recorder import Recorder

__all__ = ["Conversation", "Conversations", "Hit", "Recorder", "StoredMessage"]
