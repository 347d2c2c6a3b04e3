"""Saves conversations from one background thread, in order, without ever stopping the chat."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from tui.storage.conversations import Conversation, Conversations, StoredMessage
from tuner.errors import KvchatError


class Recorder:
    """What could not be saved (a locked file, a full disk) is kept and tried again with the next
    save; `on_problem` hears of each new problem once, from the background thread."""

    def __init__(self, store: Conversations, on_problem: Callable[[str], None]):
        self._store = store
        self._on_problem = on_problem
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="conversations")
        self._unsaved: dict[str, tuple[Conversation, dict[str, StoredMessage]]] = {}
        self._last_problem = ""

    def save(self, conversation: Conversation, *messages: StoredMessage) -> Future[None]:
        """Queues a save; parents before children."""
        return self._thread.submit(self._save, conversation, messages)

    def _save(self, conversation: Conversation, messages: tuple[StoredMessage, ...]) -> None:
        kept = self._unsaved.pop(conversation.id, (conversation, {}))[1]
        for message in messages:
            kept[message.id] = message  # a newer state of a message keeps its place in the order
        self._unsaved[conversation.id] = (conversation, kept)
        for key, (record, pending) in list(self._unsaved.items()):
            try:
                self._store.save(record, pending.values())
            except KvchatError as error:
                if str(error) != self._last_problem:
                    self._last_problem = str(error)
                    self._on_problem(str(error))
            else:
                del self._unsaved[key]
                self._last_problem = ""

    def close(self) -> None:
        """Waits for what is queued. Blocks."""
        self._thread.shutdown(wait=True)
