"""The list of saved conversations: search, open, rename, delete."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.message import Message
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from tui.keymap import Keymap, Place, Show
from tui.screens.bindings import bindings
from tui.screens.choices import Opened
from tui.screens.line import LineScreen
from tui.storage import Conversations, Hit
from tui.widgets import Hints, Plain
from tuner.errors import KvchatError
from tuner.safe_text import one_line

SEARCH_DELAY = 0.12  # seconds after the last key


class ConversationsScreen(Screen[Opened | None]):
    """Gives back what to open, or None."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Place.LIST)

    @dataclass(eq=False)
    class Found(Message):
        """The result of a search."""

        text: str
        hits: list[Hit]
        problem: str = ""

    @dataclass(eq=False)
    class Deleted(Message):
        """A conversation is gone. Sent to the app."""

        conversation_id: str

    def __init__(self, store: Conversations, keymap: Keymap):
        super().__init__()
        self._keymap = keymap
        self._store = store
        self._hits: list[Hit] = []
        self._found = ""  # the words that they hold
        self._to_delete: str | None = None
        self._delay: Timer | None = None

    def compose(self) -> ComposeResult:
        yield Input(placeholder="Search all conversations", id="search")
        yield OptionList(id="conversations", markup=False)
        yield Plain(id="conversations-note")
        yield Hints()

    def on_mount(self) -> None:
        self.query_one(Hints).keys = self._keymap.hints(Show.IDLE, Place.LIST)
        self.query_one(OptionList).can_focus = False  # typing always searches
        self._search("")

    # ------------------------------------------------------------ search

    def on_input_changed(self, event: Input.Changed) -> None:
        if self._delay is not None:
            self._delay.stop()
        self._delay = self.set_timer(SEARCH_DELAY, lambda: self._search(event.value))

    @work(thread=True, exclusive=True, group="search")
    def _search(self, text: str) -> None:
        try:
            self.post_message(self.Found(text, self._store.search(text)))
        except KvchatError as error:
            self.post_message(self.Found(text, [], str(error)))

    def on_conversations_screen_found(self, message: Found) -> None:
        chosen = self._chosen
        self._hits, self._found = message.hits, message.text.strip()
        listing = self.query_one(OptionList)
        listing.clear_options()
        listing.add_options([Option(_entry(hit), id=hit.conversation.id) for hit in message.hits])
        keys = [hit.conversation.id for hit in message.hits]
        if keys:
            listing.highlighted = keys.index(chosen) if chosen in keys else 0
        if self._to_delete is not None and self._to_delete == self._chosen and not message.problem:
            return  # what is asked of it stays to be read
        self._to_delete = None
        empty = "Nothing found." if message.text.strip() else "No conversations yet."
        self._note(message.problem or ("" if keys else empty))

    # ------------------------------------------------------------ actions

    @property
    def _chosen(self) -> str | None:
        at = self.query_one(OptionList).highlighted
        return self._hits[at].conversation.id if at is not None and at < len(self._hits) else None

    def _note(self, text: str) -> None:
        self.query_one("#conversations-note", Plain).show(text)

    def action_open(self) -> None:
        chosen = next((hit for hit in self._hits if hit.conversation.id == self._chosen), None)
        if chosen is not None:
            self.dismiss(Opened(chosen.conversation.id, chosen.message_id, self._found))

    def on_option_list_option_selected(self) -> None:
        self.action_open()

    def action_leave(self) -> None:
        self.dismiss(None)

    def action_move(self, rows: int) -> None:
        self._to_delete = None
        self._note("")
        listing = self.query_one(OptionList)
        if self._hits:
            at = (listing.highlighted or 0) + rows
            listing.highlighted = min(max(at, 0), len(self._hits) - 1)

    def action_delete(self) -> None:
        chosen = self._chosen
        if chosen is None:
            return
        if self._to_delete != chosen:
            self._to_delete = chosen
            key = self._keymap.label("list.delete")
            self._note(f"{key} again deletes this conversation with all its answers.")
            return
        self._to_delete = None
        self._change(chosen, None)

    def action_rename(self) -> None:
        chosen = self._chosen
        if chosen is None:
            return
        title = next(h.conversation.title for h in self._hits if h.conversation.id == chosen)

        def renamed(new: str | None) -> None:
            if new:
                self._change(chosen, new)

        self.app.push_screen(LineScreen("New title", title), renamed)

    @work(thread=True, group="change")
    def _change(self, conversation_id: str, title: str | None) -> None:
        """Renames, or deletes where there is no title; then shows the list again."""
        text = self.query_one(Input).value
        try:
            if title is None:
                self._store.delete(conversation_id)
                self.app.post_message(self.Deleted(conversation_id))
            else:
                self._store.rename(conversation_id, title)
            self.post_message(self.Found(text, self._store.search(text)))
        except KvchatError as error:
            self.post_message(self.Found(text, self._hits, str(error)))


def _entry(hit: Hit) -> Content:
    conversation = hit.conversation
    facts = f"{_when(conversation.updated)} · {conversation.n_messages} messages"
    if hit.excerpt:
        facts += f" · {hit.excerpt}"
    return Content.assemble(
        one_line(conversation.title) or "(untitled)", "\n", (one_line(facts), "$muted")
    )


def _when(stamp: float) -> str:
    then, now = time.localtime(stamp), time.localtime()
    if then[:3] == now[:3]:
        return time.strftime("today %H:%M", then)
    return time.strftime("%d %b" if then[0] == now[0] else "%d %b %Y", then)
