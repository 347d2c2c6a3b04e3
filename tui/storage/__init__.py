"""Saved conversations.

`Conversations` is the store, `Conversation` and `StoredMessage` what it holds, `Tree` the order
of a conversation's messages; `Recorder` saves from a thread of its own. `Presence` tells whether
another kvchat has a conversation open.
"""

from tui.storage.conversations import Conversations
from tui.storage.presence import Presence
from tui.storage.recorder import Recorder
from tui.storage.records import Conversation, Hit, StoredMessage
from tui.storage.tree import Tree

__all__ = ["Conversation", "Conversations", "Hit", "Presence", "Recorder", "StoredMessage", "Tree"]
