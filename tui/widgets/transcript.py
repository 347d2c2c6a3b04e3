"""The scrolling conversation: a window of live widgets over all the messages."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.message import Message
from textual.widget import Widget

from tui.storage import StoredMessage
from tui.widgets.messages import AnswerMessage, Notice, UserMessage, widget_for

PAGE = 12  # messages mounted at a time
LIVE = 48  # messages that have a widget
NEAR = 2  # rows from an end at which more is loaded

MessageWidget = UserMessage | AnswerMessage


class Transcript(VerticalScroll, can_focus=False):
    """Shows a conversation from its end; older messages appear as one scrolls up to them, and
    those far from view lose their widgets. Follows new text until the user scrolls away.

    The answer that is being written keeps its widget, which is hidden while the window is
    elsewhere."""

    class Moved(Message):
        """The view moved, or what is below it changed."""

    class Trimmed(Message):
        """Widgets were let go."""

    def __init__(self) -> None:
        super().__init__()
        self._messages: list[StoredMessage] = []
        self._first = 0  # the window: messages [first, last) have widgets
        self._last = 0
        self._widgets: list[MessageWidget] = []
        # As high as the view at least: an anchored view of less would hang at its lower edge.
        self._page = Vertical(id="page")
        self._loading = False
        self._streaming = False
        self._tail: MessageWidget | None = None  # of the answer that is being written

    def compose(self) -> ComposeResult:
        yield self._page

    def on_mount(self) -> None:
        self.anchor()

    @property
    def streaming(self) -> bool:
        """An answer is being written."""
        return self._streaming

    @streaming.setter
    def streaming(self, value: bool) -> None:
        self._streaming = value
        if not value and self._tail is not None:
            if not self._tail.display:  # made again where the window comes there
                self._tail.remove()
            self._tail = None

    @property
    def at_end(self) -> bool:
        """The end of the conversation is in view."""
        return self._last == len(self._messages) and self.max_scroll_y - self.scroll_y <= 1

    async def show(self, messages: list[StoredMessage]) -> None:
        """Another conversation, seen from its end."""
        self._tail = None
        self._messages = list(messages)
        await self._show_end()

    async def _show_end(self) -> None:
        end = len(self._messages)
        await self._show_window(max(0, end - PAGE), end)
        self.follow()

    async def _show_window(self, first: int, last: int) -> None:
        """Only the messages [first, last) have widgets."""
        self._loading = True
        try:
            widgets = self._made(first, last)
            await self._page.remove_children(
                [child for child in self._page.children if child is not self._tail]
            )
            self._first, self._last, self._widgets = first, last, widgets
            self._show_tail()
            fresh = [widget for widget in widgets if widget is not self._tail]
            with self.app.batch_update():
                await self._page.mount_all(fresh, before=self._tail)
        finally:
            self._loading = False
        self.post_message(self.Trimmed())

    def _made(self, first: int, last: int) -> list[MessageWidget]:
        """Widgets of these messages, of which the last may have one already."""
        if self._tail is not None and last == len(self._messages) > first:
            return [*map(widget_for, self._messages[first : last - 1]), self._tail]
        return [*map(widget_for, self._messages[first:last])]

    def _show_tail(self) -> None:
        if self._tail is not None:
            self._tail.display = self._last == len(self._messages)

    async def add(self, message: StoredMessage, streaming: bool = False) -> MessageWidget:
        """Appends a message and goes to the end."""
        await self.to_end()
        if len(self._widgets) >= LIVE + PAGE:
            await self._let_go(above=len(self._widgets) - LIVE)
        widget = AnswerMessage(message, streaming=True) if streaming else widget_for(message)
        self._messages.append(message)
        self._widgets.append(widget)
        self._last += 1
        await self._page.mount(widget)
        if streaming:
            self._tail = widget
        return widget

    def replace(self, message: StoredMessage) -> None:
        """A newer state of the last message, for when its widget is made again."""
        if self._messages and self._messages[-1].id == message.id:
            self._messages[-1] = message

    async def drop_last(self) -> None:
        """Takes the last message out of sight."""
        await self.to_end()
        if self._messages:
            self._messages.pop()
            self._last -= 1
            gone = self._widgets.pop()
            self._tail = None if gone is self._tail else self._tail
            await gone.remove()
            self._first = min(self._first, self._last)

    async def notice(self, text: str, kind: str = "info") -> Notice:
        """The program says something at the end of the conversation."""
        notice = Notice(text, kind)
        await self._page.mount(notice)
        return notice

    async def clear_notices(self) -> None:
        await self.query(Notice).remove()

    async def to_end(self) -> None:
        """Shows the end and follows what comes."""
        if self._last < len(self._messages):
            await self._show_end()
        self.follow()

    async def to_start(self) -> None:
        """Shows the first message."""
        if self._first:
            await self._show_window(0, min(PAGE, len(self._messages)))
        self.scroll_home(animate=False)

    def follow(self) -> None:
        """Stays at the end from now on."""
        self.anchor()
        self.scroll_end(animate=False)

    # ------------------------------------------------------------ the window

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self.post_message(self.Moved())

    def on_transcript_moved(self) -> None:
        if self._loading:
            return
        if self.scroll_y <= NEAR and self._first > 0:
            self.run_worker(self._load_older(), group="transcript", exclusive=False)
        elif self.max_scroll_y - self.scroll_y <= NEAR and self._last < len(self._messages):
            self.run_worker(self._load_newer(), group="transcript", exclusive=False)

    async def _load_older(self) -> None:
        if self._loading or self._first == 0:
            return
        self._loading = True
        try:
            start = max(0, self._first - PAGE)
            fresh: list[MessageWidget] = [*map(widget_for, self._messages[start : self._first])]
            before = self._widgets[0] if self._widgets else None
            await self._mount_keeping(fresh, before)
            self._widgets[:0] = fresh
            self._first = start
            await self._let_go(below=len(self._widgets) - LIVE)
        finally:
            self._loading = False

    async def _load_newer(self) -> None:
        self._loading = True
        try:
            end = min(len(self._messages), self._last + PAGE)
            widgets = self._made(self._last, end)
            after = self._widgets[-1] if self._widgets else None
            self.release_anchor()
            await self._page.mount_all([w for w in widgets if w is not self._tail], after=after)
            self._widgets += widgets
            self._last = end
            self._show_tail()
            excess = len(self._widgets) - LIVE
            if excess > 0:
                kept = self._widgets[excess]
                row = kept.virtual_region.y - self.scroll_y
                await self._let_go(above=excess)
                self._hold(kept, row)
        finally:
            self._loading = False

    async def _let_go(self, above: int = 0, below: int = 0) -> None:
        """Takes so many widgets away at one end of the window."""
        if above <= 0 and below <= 0:
            return
        end = len(self._widgets) - max(below, 0)
        gone = [*self._widgets[: max(above, 0)], *self._widgets[end:]]
        self._widgets = self._widgets[max(above, 0) : end]
        self._first += max(above, 0)
        self._last -= max(below, 0)
        self._show_tail()
        await self._page.remove_children([w for w in gone if w is not self._tail])
        self.post_message(self.Trimmed())

    async def _mount_keeping(self, fresh: list[MessageWidget], before: Widget | None) -> None:
        row = before.virtual_region.y - self.scroll_y if before is not None else 0.0
        with self.app.batch_update():
            await self._page.mount_all(fresh, before=before)
        if before is not None:
            self._hold(before, row)

    def _hold(self, widget: Widget, row: float) -> None:
        """Keeps `widget` at the same row of the view when what is above it changes."""

        def scroll() -> None:
            self.scroll_to(y=widget.virtual_region.y - row, animate=False, force=True)

        self.call_after_refresh(scroll)
