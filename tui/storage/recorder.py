"""Saves conversations from one background thread, in order, without ever stopping the chat."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from tui.composing.draft import Draft
from tui.storage.conversations import Conversations
from tui.storage.records import Conversation, StoredMessage
from tuner.errors import KvchatError

RETRY_SECONDS = 1.0  # between two attempts at what could not be saved
CLOSE_SECONDS = 3.0  # that the end waits for the last of them

_Job = tuple[Conversation, tuple[StoredMessage, ...], Future[None]]
_Errand = tuple[str, Callable[[], None]]  # a name, under which a newer one takes its place


def _nothing(_: str) -> None:
    pass


class Recorder:
    """What could not be saved (a locked file, a full disk, whatever it is) is kept and tried again
    until it is. Both callbacks come from the background thread: `on_problem` hears of each new
    problem once, `on_saved` when saving works again (of ""). What the store has to say comes there
    too, from whichever thread met it."""

    def __init__(
        self,
        store: Conversations,
        on_problem: Callable[[str], None],
        on_saved: Callable[[str], None] = _nothing,
    ):
        self._store = store
        self._on_problem = on_problem
        self._on_saved = on_saved
        self._jobs: queue.SimpleQueue[_Job | _Errand | None] = queue.SimpleQueue()
        self._unsaved: dict[str, tuple[Conversation, dict[str, StoredMessage]]] = {}
        self._errands: dict[str, Callable[[], None]] = {}  # unsaved, too
        # All of the conversation that was saved last, for a file that loses it meanwhile.
        self._written: tuple[str, dict[str, StoredMessage]] = ("", {})
        self._file = store.warning  # another one: perhaps another file
        store.heard = on_saved
        self.problem = ""  # why something is unsaved now
        self._thread = threading.Thread(target=self._run, name="conversations", daemon=True)
        self._thread.start()

    def save(self, conversation: Conversation, *messages: StoredMessage) -> Future[None]:
        """Queues a save; parents before children."""
        done: Future[None] = Future()
        self._jobs.put((conversation, messages, done))
        return done

    def keep_draft(self, key: str, draft: Draft) -> None:
        """Queues what is being written in a conversation (`Conversations.keep_draft`)."""
        self._jobs.put((f"draft {key}", partial(self._store.keep_draft, key, draft)))

    def remember(self, message_id: str, prompt: str) -> None:
        """Queues what was asked for the history of all conversations (`Conversations.remember`)."""
        work = partial(self._store.remember, message_id, prompt)
        self._jobs.put((f"prompt {message_id}", work))

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Waits for what is queued, so long at most; `problem` then says why something is not
        saved. Blocks."""
        self._jobs.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive() and not self.problem:
            self.problem = f"The conversations in {self._store.path} were not saved in time."

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        while True:
            waits = self._unsaved or self._errands
            try:
                job = self._jobs.get(timeout=RETRY_SECONDS if waits else None)
            except queue.Empty:
                self._attempt()
                continue
            match job:
                case None:
                    self._attempt()
                    return
                case (str() as name, errand):
                    self._errands[name] = errand
                    self._attempt()
                case (conversation, messages, done):
                    kept = self._unsaved.pop(conversation.id, (conversation, {}))[1]
                    for message in messages:
                        kept[message.id] = message  # a newer state of a message keeps its place
                    self._unsaved[conversation.id] = (conversation, kept)
                    self._attempt()
                    done.set_result(None)

    def _attempt(self) -> None:
        for key, (conversation, messages) in list(self._unsaved.items()):
            if self._done(partial(self._save, conversation, messages)):
                del self._unsaved[key]
        for name, errand in list(self._errands.items()):
            if self._done(errand):
                del self._errands[name]
        if self.problem and not self._unsaved and not self._errands:
            self.problem = ""
            self._on_saved("")

    def _done(self, work: Callable[[], None]) -> bool:
        """Whether something could be saved; what was in the way is told."""
        try:
            work()
        except Exception as error:  # whatever it is: it is not saved
            problem = str(error) if isinstance(error, KvchatError) else f"Not saved: {error!r}."
            if problem != self.problem:
                self.problem = problem
                self._on_problem(problem)
            return False
        return True

    def _save(self, conversation: Conversation, messages: dict[str, StoredMessage]) -> None:
        of, written = self._written
        if of != conversation.id:
            written = {}
        self._store.save(conversation, messages.values())
        written.update(messages)
        self._written = (conversation.id, written)
        if self._store.warning != self._file:  # it may lack the older ones
            self._file = self._store.warning
            self._store.save(conversation, written.values())
