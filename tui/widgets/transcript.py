"""The scrolling conversation: one widget, in which only the rows in view exist.

Nothing here asks for a layout, and a key that is typed waits for no more than the last few lines of
an answer to be drawn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from textual import events
from textual.geometry import Offset, Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip
from textual.widget import Widget

from tui.storage import StoredMessage
from tui.widgets import overlays
from tui.widgets.caret import Caret
from tui.widgets.cursor import Cursor
from tui.widgets.entries import Entry, Item
from tui.widgets.look import CLASSES, WidgetLook
from tui.widgets.page import Page
from tui.widgets.reading.lines import Kind
from tui.widgets.reading.rows import Frame, Row
from tui.widgets.selecting import around, line_number, selected_text
from tui.widgets.shifts import Shifts, item_of

WIDTH = 100  # columns of text: longer lines are hard to read
MARGIN, NARROW = 3, 40  # columns; in a view narrower than this the margin is one
_ABOVE = 2  # rows that are shown above what is brought into view


class Transcript(ScrollView, can_focus=False):
    """Shows a conversation, from its end. Follows new text until the user scrolls away."""

    COMPONENT_CLASSES = CLASSES

    class Moved(Message):
        """The end of the conversation came into view, or left it."""

    class CursorMoved(Message):
        """The cursor is on another message or block, or on none."""

    @dataclass(eq=False)
    class LinkClicked(Message):
        """The user clicked on a link."""

        href: str

    def __init__(self, width: int = WIDTH) -> None:
        """`width`: the most columns that text takes."""
        super().__init__()
        self.block_keys = ""  # what keys do on a code block: shown on the one that the cursor is on
        self._look = WidgetLook(self)
        self._page = Page(self._look, self._place)
        self.cursor = Cursor(lambda: self._page.entries, self._cursor_moved)
        self.caret: Caret | None = None
        self._most = width
        self._wrap_code = False
        self._ends_here = True  # the view reaches the end
        self._own_scroll = False
        self._shown: list[Row] = []
        self._shifts = Shifts()
        self._found: re.Pattern[str] | None = None
        self._differing: Mapping[int, Sequence[tuple[int, int]]] = {}
        self._pressed: Offset | None = None

    # ------------------------------------------------------------ what it shows

    @property
    def at_end(self) -> bool:
        """The end of the conversation is in view."""
        return self._ends_here

    def text(self) -> str:
        """All that is said in it, as it was written."""
        return "\n\n".join(entry.source for entry in self._page.entries)

    async def show(self, messages: Sequence[StoredMessage]) -> None:
        """Another conversation, seen from its end."""
        self._page.clear()
        self._shifts.clear()
        self.cursor.item = self.caret = None
        for message in messages:
            self._page.append(Entry(self._page.serial(), message, self._page.changed))
        self.follow()

    async def add(self, message: StoredMessage, streaming: bool = False) -> Entry:
        """Appends a message and goes to the end. What it gives back takes the text of an answer
        that is being written."""
        entry = Entry(self._page.serial(), message, self._page.changed)
        entry.streaming = streaming
        self._page.append(entry)
        self.follow()
        return entry

    def reopen(self, message: StoredMessage) -> Entry | None:
        """An answer that is there goes on; None: it is not there."""
        entry = self.entry(message.id)
        if entry is not None:
            entry.reopen(message)
            self.follow()
        return entry

    def replace(self, message: StoredMessage) -> None:
        """A newer state of a message, which its entry is told, too, while it is written."""
        entry = self.entry(message.id)
        if entry is not None and not entry.streaming:
            entry.update_message(message)

    async def drop_last(self) -> None:
        """Takes the last message out of sight."""
        messages = [entry for entry in self._page.entries if entry.message is not None]
        self._remove(messages[-1:])
        self.follow()

    async def notice(self, text: str, kind: str = "info") -> Entry:
        """The program says something at the end of the conversation."""
        entry = Entry.of_notice(self._page.serial(), text, kind, self._page.changed)
        self._page.append(entry)
        self._place()
        return entry

    async def clear_notices(self) -> None:
        """Takes what the program said out of sight."""
        self._remove([entry for entry in self._page.entries if entry.message is None])
        self._place()

    def _remove(self, gone: Sequence[Entry]) -> None:
        if self.cursor.entry in gone:
            self.cursor.item = None
        self._page.remove(gone)

    @property
    def entries(self) -> Sequence[Entry]:
        """All messages and notices, from the top."""
        return self._page.entries

    def entry(self, message_id: str) -> Entry | None:
        """The entry of a message: its footer is set there."""
        for entry in reversed(self._page.entries):
            if entry.message is not None and entry.message.id == message_id:
                return entry
        return None

    def fade(self, path: Sequence[StoredMessage], n_gone: int) -> None:
        """The first messages of the path, so many, are out of the model's view."""
        place = {message.id: n for n, message in enumerate(path)}
        for entry in self._page.entries:
            message = entry.message
            if message is not None and message.id in place:
                n = place[message.id]
                entry.set_faded(n < n_gone)
                if message.let_go != path[n].let_go:
                    entry.update_message(path[n])
        self._place()

    def mark(self, words: str) -> None:
        """Marks these words wherever they stand; "" for none."""
        self._found = re.compile(re.escape(words), re.IGNORECASE) if words else None
        self.refresh()

    def answer_lines(self) -> list[tuple[int, str]]:
        """The lines of all answers as they are drawn, each with its number."""
        parts = (p for entry in self._page.entries for p in entry.parts if p.what == "markdown")
        return [
            (line_number(part, n), line.text)
            for part in parts
            for n, line in enumerate(part.parsed().lines)
        ]

    def mark_differing(self, spans: Mapping[int, Sequence[tuple[int, int]]]) -> None:
        """Marks characters [start, end) of lines, by their number, as not those of another
        text."""
        self._differing = spans
        self.refresh()

    def fold(self) -> bool:
        """Shows or hides the reasoning, a summary, or the files and pastes, of the message that the
        cursor is on, or else of the last one in view that has any. False: there is none."""
        seen = [part.entry for part, _ in self._page.view]
        for entry in (self.cursor.entry, *reversed(seen), *reversed(self._page.entries)):
            if entry is not None and entry.may_fold:
                entry.fold()
                return True
        return False

    # ------------------------------------------------------------ long lines

    def wrap_code(self) -> bool:
        """Wraps long lines of code, or cuts them again; whether they are wrapped now."""
        self._wrap_code = not self._wrap_code
        self._shifts.clear()
        self._reframe()
        return self._wrap_code

    def shift_code(self, direction: int, chosen: Item | None = None) -> bool:
        """Moves the long lines of a code block to the left (-1) or to the right (1): of the chosen
        one, or the one that the cursor is on, or else of the last one in view that has any. False:
        there is none."""
        chosen = chosen or self.cursor.item
        moved = self._shifts.move(self._page.view, direction, chosen, self._width)
        if moved:
            self.refresh()
        return moved

    # ------------------------------------------------------------ selecting with keys

    def put_caret(self) -> bool:
        """Puts a caret on the first row in view of what the cursor is on. False: there is none."""
        entry, page = self.cursor.entry, self._page
        rows = [(part, row) for part, row in page.view if row.pieces and part.entry is entry
                and part.what in ("markdown", "plain") and self.cursor.on(part, part.line(row))
                and part.line(row).kind is not Kind.RULE]  # fmt: skip
        if entry is None or not rows:
            return False
        part, row = rows[0]
        self.caret = Caret(entry, page.draw, part, page.draw(part).index(row))
        self.caret_moved()
        return True

    def drop_caret(self) -> None:
        """Takes the caret away, and what it has selected."""
        if self.caret is not None:
            self.caret = None
            self.screen.clear_selection()
            self.refresh()

    def caret_moved(self) -> None:
        """Shows where it is now and what it selects."""
        caret, frame = self.caret, self._page.frame
        place = caret.place if caret is not None else None
        if caret is None or place is None or frame is None:
            self.drop_caret()  # what it stood on is gone
            return
        part, n = place
        selection, row = caret.selection, self._page.draw(part)[n]
        self.screen.selections = {self: selection} if selection is not None else {}
        if row.wide:
            self._shifts.show(part, row, caret.column, frame)
        self._page.nudge(part, n)
        self._place()
        self.refresh()

    # ------------------------------------------------------------ scrolling

    async def to_end(self) -> None:
        """Shows the end and follows what comes."""
        self.follow()

    async def to_start(self) -> None:
        """Shows the first message."""
        self._page.to_start()
        self._place()

    def follow(self) -> None:
        """Stays at the end from now on."""
        self._page.following = True
        self._place()

    def hold(self) -> None:
        """Stays where it is, whatever comes."""
        self._page.following = False

    def scroll_to_item(self, item: Item) -> None:
        """Brings a message, or one of its code blocks, into view."""
        entry = self.entry(item.message_id)
        if entry is None or self._page.frame is None:
            return
        for part in entry.parts:
            for n, row in enumerate(self._page.draw(part)):
                if row.pieces and item.block in (None, entry.block_of(part, part.line(row))):
                    self._page.bring_into_view(part, n, _ABOVE)
                    self._place()
                    return

    def _cursor_moved(self) -> None:
        if self.cursor.item is not None:
            self.scroll_to_item(self.cursor.item)
        self.refresh()
        self.post_message(self.CursorMoved())

    def scroll_relative(
        self, x: float | None = None, y: float | None = None, **how: object
    ) -> None:
        """Scrolls by rows; upwards it no longer follows, though nothing may be above."""
        if y is not None and y < 0:
            self.hold()
        elif y is not None and y > 0 and self._ends_here:
            self.follow()
        super().scroll_relative(x, y, **how)  # type: ignore[arg-type]

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        if event.shift:
            self._wheel_across(event, -1)
        else:
            self.hold()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        if event.shift:
            self._wheel_across(event, 1)
        elif self._ends_here:
            self.follow()

    def on_mouse_scroll_left(self, event: events.MouseScrollLeft) -> None:
        self._wheel_across(event, -1)

    def on_mouse_scroll_right(self, event: events.MouseScrollRight) -> None:
        self._wheel_across(event, 1)

    def _wheel_across(self, event: events.MouseEvent, direction: int) -> None:
        """Moves the long lines of what is below the mouse."""
        event.prevent_default()
        if 0 <= event.y < len(self._page.view):
            part, row = self._page.view[event.y]
            self.shift_code(direction, item_of(part, row))

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        rows, frame = round(new_value) - round(old_value), self._page.frame
        if self._own_scroll or not rows or frame is None:
            return
        if self.scrollable_content_region.size != (frame.view, self._page.rows):
            return  # not the user: what fits into the view has changed
        self._page.following = rows > 0 and round(new_value) >= self.max_scroll_y
        if not self._page.following:
            self._page.scroll(rows, round(new_value))
        self._place()

    # ------------------------------------------------------------ where it is

    def on_resize(self) -> None:
        view, rows = self.scrollable_content_region.size
        frame = self._page.frame
        if not view or not rows:
            return
        if frame is None or view != frame.view:
            self._reframe()
        else:
            self._page.rows = rows
            self._place()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self.call_later(self._restyle)  # component classes have their new styles after this

    def _restyle(self) -> None:
        if self._look.changed() and self._page.frame is not None:
            self._reframe()

    def _reframe(self) -> None:
        """Another width, or another look."""
        view, rows = self.scrollable_content_region.size
        if not view or not rows:
            return
        if self._page.frame is None:
            self._look.changed()
        margin = MARGIN if view >= NARROW else 1
        width = max(1, min(self._most, view - 2 * margin + 1))
        self._page.reframe(Frame(view, width, margin, self._wrap_code), rows)
        self._place()
        self.refresh()

    def _place(self) -> None:
        """Shows what is in view now, and tells the scrollbar. A change of `virtual_size` would ask
        for a layout."""
        page = self._page
        if page.frame is None or not page.rows:
            return
        page.place()
        size = Size(page.frame.view, page.height)
        if size != self.virtual_size or self.vertical_scrollbar.window_size != page.rows:
            self.set_reactive(Widget.virtual_size, size)
            self.vertical_scrollbar.window_virtual_size = page.height
            self.vertical_scrollbar.window_size = page.rows
        self._own_scroll = True
        try:
            self.scroll_y = self.scroll_target_y = page.y
        finally:
            self._own_scroll = False
        self._refresh_others()
        if page.ends_here != self._ends_here:
            self._ends_here = page.ends_here
            self.post_message(self.Moved())

    def _refresh_others(self) -> None:
        """Rows that are others than before are painted."""
        before, self._shown = self._shown, [row for _, row in self._page.view]
        after, n = self._shown, max(len(before), len(self._shown))
        other = [
            y for y in range(n)
            if y >= len(before) or y >= len(after) or before[y] is not after[y]
        ]  # fmt: skip
        if other:
            self.refresh(Region(0, other[0], self._width, other[-1] - other[0] + 1))

    @property
    def _width(self) -> int:
        """Columns of the view."""
        return self._page.frame.view if self._page.frame is not None else self.size.width

    # ------------------------------------------------------------ painting

    def render_lines(self, crop: Region) -> list[Strip]:
        selection = self.text_selection
        caret = self.caret.row if self.caret is not None else None
        painted = (self._painted(y, selection, caret) for y in range(crop.y, crop.bottom))
        return [strip.crop(crop.x, crop.right) for strip in painted]

    def _painted(self, y: int, selection: Selection | None, caret: Row | None) -> Strip:
        frame, view = self._page.frame, self._page.view
        if frame is None or y >= len(view):
            return Strip.blank(self._width, self._look())
        part, row = view[y]
        strip = row.strip
        if selection is not None or self._found is not None or self._differing:
            line = part.line(row)
            number = line_number(part, row.line)
            selected = selection.get_span(number) if selection is not None else None
            differing = self._differing.get(number, ())
            for span, style in overlays.spans(line, selected, self._found, differing):
                strip = overlays.marked(strip, row, line, span, self._look(style))
        if self.caret is not None and row is caret:
            strip = overlays.with_caret(strip, self.caret.column, self.caret.width)
        if row.wide:
            strip = overlays.cut(strip, frame, self._shifts.of(part, row), self._look)
        if self.cursor.item is not None and row.pieces and self.cursor.on(part, part.line(row)):
            strip = overlays.with_cursor(strip, self._look)
            in_block = self.cursor.item.block is not None
            if in_block and overlays.closes(part.parsed().lines, row.line):
                strip = overlays.with_keys(strip, frame, self.block_keys, self._look)
        if strip.cell_length == frame.view:
            return strip
        return strip.crop_extend(0, frame.view, self._look())

    # ------------------------------------------------------------ the mouse

    def render_line(self, y: int) -> Strip:
        """A row with the place of each character, by which the mouse selects. Painting does without
        them: with one in each style, nothing that is drawn could be remembered."""
        frame, view = self._page.frame, self._page.view
        if frame is None or not view:
            return Strip.blank(self._width, self._look())
        part, row = view[min(y, len(view) - 1)]
        number, line = line_number(part, row.line), part.line(row)
        if y >= len(view):
            return overlays.below_all(line, number, frame.view)
        strip = overlays.with_places(row, line, number, frame.view)
        if row.wide:
            return overlays.cut(strip, frame, self._shifts.of(part, row), self._look)
        return strip.crop(0, frame.view)

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        return selected_text(self._page.entries, selection), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        self.refresh()

    def on_mouse_down(self, event: events.MouseDown) -> None:
        self._pressed = event.screen_offset

    def on_click(self, event: events.Click) -> None:
        event.prevent_default()  # Textual would select all messages
        if not 0 <= event.y < len(self._page.view) or event.screen_offset != self._pressed:
            return
        part, row = self._page.view[event.y]
        place = self.region.offset + event.offset
        _, offset = self.screen.get_widget_and_offset_at(place.x, place.y)
        x, line = offset.x if offset is not None else 0, part.line(row)
        if event.chain > 1:  # a word, then all of it
            selection = around(part, row.line, x, whole=event.chain > 2)  # noqa: PLR2004
            self.screen.selections = {self: selection}
        elif line.folds:
            part.entry.fold()
        else:
            for span in line.spans:
                if span.link and span.start <= x < span.end:
                    self.post_message(self.LinkClicked(span.link))
