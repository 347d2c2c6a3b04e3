"""The messages of a conversation as the tree that they are: another answer to a question, and
another wording of it, have the same parent as the first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from tui.storage.records import DELETED, StoredMessage

Messages = list[StoredMessage]


class Tree:
    """`path` leads from the first message that is shown to the last. A message whose parent is not
    there, as in a damaged file, begins a path."""

    def __init__(self, messages: Iterable[StoredMessage] = (), head: str | None = None):
        """`messages`: in the order in which they were written. `head`: the end of the path; where
        it is not among them, the last that was written."""
        self._messages: dict[str, StoredMessage] = {}
        self._children: dict[str | None, list[str]] = {None: []}
        self._chosen: dict[str | None, str] = {}  # of the children of each, the one shown last
        self.path: Messages = []
        for message in messages:
            self._put(message)
        there = [m.id for m in self._messages.values() if m.state != DELETED]
        end = head if head in there else (there[-1] if there else None)
        self._lead_to(end)

    def __contains__(self, message_id: object) -> bool:
        return message_id in self._messages

    def __getitem__(self, message_id: str) -> StoredMessage:
        return self._messages[message_id]

    @property
    def ids(self) -> set[str]:
        """Of all messages, whether they are shown or not."""
        return set(self._messages)

    @property
    def head(self) -> str | None:
        return self.path[-1].id if self.path else None

    def versions(self, message: StoredMessage) -> tuple[str, ...]:
        """Of a message all that stand in its place, itself among them, the oldest first."""
        return tuple(self._there(self._parent(message)))

    def version(self, message: StoredMessage, step: int) -> str | None:
        """The version `step` further on; None: there is none."""
        versions = self.versions(message)
        at = versions.index(message.id) + step
        return versions[at] if 0 <= at < len(versions) else None

    @property
    def n_following(self) -> int:
        """How often what the path ends with was answered, or gone on from, so far."""
        return len(self._children.get(self.head, []))

    def outline(self) -> Iterator[tuple[int, StoredMessage]]:
        """All messages that were not deleted, each before what follows it, with the number of forks
        that lead to it."""
        waiting = [(0, i) for i in reversed(self._there(None))]
        if len(waiting) > 1:
            waiting = [(1, i) for _, i in waiting]
        seen: set[str] = set()
        while waiting:
            depth, at = waiting.pop()
            if at in seen:
                continue
            seen.add(at)
            yield depth, self._messages[at]
            children = self._there(at)
            below = depth + (len(children) > 1)
            waiting += [(below, child) for child in reversed(children)]

    # ------------------------------------------------------------ changes

    def add(self, message: StoredMessage) -> StoredMessage:
        """A new message, which the path leads to."""
        self._put(message)
        self._lead_to(message.id)
        return message

    def change(self, message: StoredMessage) -> StoredMessage:
        """Puts a newer state of a message in its place."""
        self._messages[message.id] = message
        for index in range(len(self.path) - 1, -1, -1):
            if self.path[index].id == message.id:
                self.path[index] = message
                break
        return message

    def discard(self, message: StoredMessage) -> None:
        """Forgets the last message, which was never saved."""
        del self._messages[message.id]
        self._children[message.parent_id].remove(message.id)
        self._chosen.pop(self._parent(message), None)
        self._lead_to(self._parent(message))

    def merge(self, messages: Iterable[StoredMessage]) -> Messages:
        """Takes in what is not there yet, as another program wrote it; the path stays. Returns the
        news."""
        news = [message for message in messages if message.id not in self._messages]
        for message in news:
            self._put(message)
        return news

    def show(self, message_id: str) -> None:
        """Lets the path lead through a message, and on as it did when that was last shown."""
        end, seen = message_id, {message_id}
        while children := [c for c in self._there(end) if c not in seen]:
            chosen = self._chosen.get(end)
            end = chosen if chosen in children else children[-1]
            seen.add(end)
        self._lead_to(end)

    def end_at(self, message_id: str | None) -> None:
        """Lets the path end at a message: what comes next has it as its parent."""
        self._lead_to(message_id)

    def remove(self, message_id: str) -> Messages:
        """Takes a message away with all that follows it, and returns them as they were, parents
        first. The path leads to another version then, or ends before it."""
        message = self._messages[message_id]
        parent = self._parent(message)
        gone = [self._messages[i] for i in self._from(message_id)]
        for each in gone:
            nothing = replace(each, content="", reasoning="", parts=None, let_go=None)
            self.change(replace(nothing, state=DELETED))
        if others := self._there(parent):
            self.show(others[-1])
        else:
            self._lead_to(parent)
        return gone

    def restore(self, gone: Iterable[StoredMessage]) -> None:
        """Puts back what was removed, and shows it."""
        back = list(gone)
        for message in back:
            self.change(message)
        if back:
            self.show(back[0].id)

    # ------------------------------------------------------------ inside

    def _put(self, message: StoredMessage) -> None:
        self._messages[message.id] = message
        self._children.setdefault(message.parent_id, []).append(message.id)

    def _parent(self, message: StoredMessage) -> str | None:
        return message.parent_id if message.parent_id in self._messages else None

    def _there(self, parent: str | None) -> list[str]:
        """The children that were not deleted."""
        ids = self._children.get(parent, [])
        if parent is None:
            ids = [m.id for m in self._messages.values() if self._parent(m) is None]
        return [i for i in ids if self._messages[i].state != DELETED]

    def _from(self, message_id: str) -> Iterator[str]:
        """A message and all that follow it, which are not deleted; parents first."""
        waiting, seen = [message_id], {message_id}
        while waiting:
            at = waiting.pop(0)
            yield at
            children = [c for c in self._there(at) if c not in seen]
            seen.update(children)
            waiting += children

    def _lead_to(self, end: str | None) -> None:
        path: Messages = []
        seen: set[str] = set()
        at = end
        while at is not None and at not in seen:  # damage may have made a circle
            seen.add(at)
            message = self._messages[at]
            if message.state == DELETED:
                break
            path.append(message)
            at = self._parent(message)
        self.path = path[::-1]
        for message in path:
            self._chosen[self._parent(message)] = message.id
