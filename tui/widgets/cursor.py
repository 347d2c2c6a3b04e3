"""The cursor of the transcript: on a message, or on one of its code blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tui.storage import StoredMessage
from tui.widgets.entries import Entry, Item
from tui.widgets.parts import Part
from tui.widgets.reading.lines import Line


@dataclass(frozen=True, slots=True)
class Picked:
    """What the cursor is on. `text`: the source of the message, or the code of the block;
    `language`: the block's."""

    item: Item
    message: StoredMessage
    text: str
    language: str = ""


class Cursor:
    """Goes over messages and their blocks in the order in which they are read."""

    def __init__(self, entries: Callable[[], Sequence[Entry]], moved: Callable[[], None]) -> None:
        """`moved` is called when it is somewhere else: to scroll there and to draw it."""
        self._entries = entries
        self._moved = moved
        self.item: Item | None = None

    @property
    def entry(self) -> Entry | None:
        """The message that it is on, or in."""
        return self._entry(self.item.message_id) if self.item is not None else None

    @property
    def picked(self) -> Picked | None:
        """What it is on; None: nowhere."""
        item, entry = self.item, self.entry
        if item is None or entry is None or entry.message is None:
            return None
        if item.block is None:
            return Picked(item, entry.message, entry.source)
        block = entry.blocks()[item.block]
        return Picked(item, entry.message, block.code, block.language)

    def put(self, item: Item | None) -> None:
        """Goes to an item, or away."""
        if item is not None and self._entry(item.message_id) is None:
            return
        self.item = item
        self._moved()

    def move(self, step: int, *, messages_only: bool = False) -> bool:
        """Goes `step` items on (back, where it is negative); from nowhere, to the last message.
        False: there is none."""
        messages = [entry for entry in self._entries() if entry.message is not None]
        entry = self.entry
        if not messages:
            return False
        if entry is None or self.item is None:
            self.put(_items(messages[-1], messages_only)[-1 if step < 0 else 0])
            return True
        at = messages.index(entry)
        here = _items(entry, messages_only)
        n = here.index(self.item) if self.item in here else 0
        if messages_only and self.item.block is not None and step < 0:
            n, step = 0, step + 1
        n += step
        while n < 0 and at > 0:
            at -= 1
            here = _items(messages[at], messages_only)
            n += len(here)
        while n >= len(here) and at + 1 < len(messages):
            n -= len(here)
            at += 1
            here = _items(messages[at], messages_only)
        if not 0 <= n < len(here):
            return False
        self.put(here[n])
        return True

    def on(self, part: Part, line: Line) -> bool:
        """Whether a line belongs to what it is on."""
        message = part.entry.message
        if self.item is None or message is None or message.id != self.item.message_id:
            return False
        return self.item.block is None or part.entry.block_of(part, line) == self.item.block

    def _entry(self, message_id: str) -> Entry | None:
        return next(
            (e for e in self._entries() if e.message is not None and e.message.id == message_id),
            None,
        )


def _items(entry: Entry, messages_only: bool) -> list[Item]:
    """The message, then its blocks."""
    assert entry.message is not None
    name = entry.message.id
    n_blocks = 0 if messages_only else len(entry.blocks())
    return [Item(name), *(Item(name, n) for n in range(n_blocks))]
