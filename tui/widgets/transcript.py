"""The scrolling conversation: one widget, in which only the rows in view exist.

Rows are made where one looks; of the rest it is guessed how many there are. Nothing here asks for a
layout, and a key that is typed waits for no more than the last few lines of an answer to be drawn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Offset, Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip
from textual.widget import Widget

from tui.storage import StoredMessage
from tui.widgets.cursor import Cursor
from tui.widgets.entries import Entry, Item, Part
from tui.widgets.look import CLASSES, WidgetLook
from tui.widgets.reading.lines import Kind, Line
from tui.widgets.reading.rows import Frame, Row
from tui.widgets.selecting import line_number, selected_text, word_at

WIDTH = 100  # columns of text: longer lines are hard to read
KEPT = 400  # parts whose rows are remembered
_WALK = 3  # views, within which scrolling counts rows and does not guess them
_SHIFT = 16  # columns by which long lines of code are moved

_Shown = tuple[Part, Row]


class Transcript(ScrollView, can_focus=False):
    """Shows a conversation, from its end. Follows new text until the user scrolls away."""

    COMPONENT_CLASSES = CLASSES

    class Moved(Message):
        """The end of the conversation came into view, or left it."""

    class LinkClicked(Message):
        """The user clicked on a link."""

        def __init__(self, href: str) -> None:
            super().__init__()
            self.href = href

    def __init__(self, width: int = WIDTH) -> None:
        """`width`: the most columns that text takes."""
        super().__init__()
        self.streaming = False  # an answer is being written
        self.block_keys = ""  # what keys do on a code block: shown on the one that the cursor is on
        self.cursor = Cursor(lambda: self._entries, self._cursor_moved)
        self._most = width
        self._wrap_code = False
        self._entries: list[Entry] = []
        self._next_serial = 0
        self._look = WidgetLook(self)
        self._frame: Frame | None = None
        self._rows = 0  # of the view
        self._following = True
        self._top: Part | None = None  # the part at the upper edge of the view,
        self._top_row = 0  # and which of its rows is there
        self._view: list[_Shown] = []
        self._ends_here = True  # the view reaches the end
        self._own_scroll = False
        self._drawn: dict[Part, None] = {}  # whose rows are remembered, the newest last
        self._shifts: dict[Item, int] = {}  # columns by which a block's long lines are moved
        self._found: re.Pattern[str] | None = None
        self._pressed: Offset | None = None

    # ------------------------------------------------------------ what it shows

    @property
    def at_end(self) -> bool:
        """The end of the conversation is in view."""
        return self._ends_here

    def text(self) -> str:
        """All that is said in it, as it was written."""
        return "\n\n".join(entry.source for entry in self._entries)

    async def show(self, messages: Sequence[StoredMessage]) -> None:
        """Another conversation, seen from its end."""
        self._entries.clear()
        self._drawn.clear()
        self._shifts.clear()
        self._top = None
        self.cursor.item = None
        for message in messages:
            self._append(Entry(self._serial(), message, self._changed))
        self.follow()

    async def add(self, message: StoredMessage, streaming: bool = False) -> Entry:
        """Appends a message and goes to the end. What it gives back takes the text of an answer
        that is being written."""
        entry = Entry(self._serial(), message, self._changed)
        entry.streaming = streaming
        self._append(entry)
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
        for entry in reversed(self._entries):
            if entry.message is not None:
                self._remove([entry])
                break
        self.follow()

    async def notice(self, text: str, kind: str = "info") -> Entry:
        """The program says something at the end of the conversation."""
        entry = Entry.of_notice(self._serial(), text, kind, self._changed)
        self._append(entry)
        self._place()
        return entry

    async def clear_notices(self) -> None:
        """Takes what the program said out of sight."""
        self._remove([entry for entry in self._entries if entry.message is None])
        self._place()

    def entry(self, message_id: str) -> Entry | None:
        """The entry of a message: its footer and whether it is faded are set there."""
        for entry in reversed(self._entries):
            if entry.message is not None and entry.message.id == message_id:
                return entry
        return None

    def mark(self, words: str) -> None:
        """Marks these words wherever they stand; "" for none."""
        self._found = re.compile(re.escape(words), re.IGNORECASE) if words else None
        self.refresh()

    def scroll_to_item(self, item: Item) -> None:
        """Brings a message, or one of its code blocks, into view."""
        entry = self.entry(item.message_id)
        if entry is None or self._frame is None:
            return
        for part in entry.parts:
            for n, row in enumerate(self._draw(part)):
                line = part.parsed().lines[row.line]
                if row.pieces and item.block in (None, entry.block_of(part, line)):
                    self._bring_into_view(part, n)
                    return

    def _bring_into_view(self, part: Part, row: int) -> None:
        shown = [n for n, (p, r) in enumerate(self._view) if p is part and r is self._draw(p)[row]]
        if shown and shown[0] < max(1, self._rows - 2):
            return
        self._following = False
        self._top, self._top_row = part, row
        self._step(-2)
        self._place()

    def fold(self) -> bool:
        """Shows or hides the reasoning, or the files and pastes, of the message that the cursor is
        on, or else of the last one in view that has any. False: there is none."""
        seen = [part.entry for part, _ in self._view]
        candidates = [self.cursor.entry, *reversed(seen), *reversed(self._entries)]
        for entry in candidates:
            if entry is not None and entry.may_fold:
                entry.fold()
                return True
        return False

    def wrap_code(self) -> bool:
        """Wraps long lines of code, or cuts them again; whether they are wrapped now."""
        self._wrap_code = not self._wrap_code
        self._shifts.clear()
        self._reframe(force=True)
        return self._wrap_code

    def shift_code(self, direction: int, chosen: Item | None = None) -> bool:
        """Moves the long lines of a code block to the left (-1) or to the right (1): of the chosen
        one, or the one that the cursor is on, or else of the last one in view that has any. False:
        there is none."""
        chosen = chosen or self.cursor.item
        for part, row in reversed(self._view):
            item = self._item_of(part, part.parsed().lines[row.line])
            if item is None or not row.wide:
                continue
            if chosen is not None and chosen.block is not None and item != chosen:
                continue
            widest = max(
                (r.strip.cell_length for p, r in self._view if self._same_block(p, r, item)),
                default=0,
            )
            most = max(0, widest - self._width + 2)
            now = self._shifts.get(item, 0)
            self._shifts[item] = max(0, min(most, now + direction * _SHIFT))
            self.refresh()
            return True
        return False

    def _item_of(self, part: Part, line: Line) -> Item | None:
        """What is moved together: a code block, or the tables of a message."""
        message = part.entry.message
        if message is None:
            return None
        block = part.entry.block_of(part, line)
        return Item(message.id, -1 if block is None else block)

    def _same_block(self, part: Part, row: Row, item: Item) -> bool:
        return row.wide and self._item_of(part, part.parsed().lines[row.line]) == item

    # ------------------------------------------------------------ scrolling

    async def to_end(self) -> None:
        """Shows the end and follows what comes."""
        self.follow()

    async def to_start(self) -> None:
        """Shows the first message."""
        self._following = False
        self._top, self._top_row = self._first_part(), 0
        self._place()

    def follow(self) -> None:
        """Stays at the end from now on."""
        self._following = True
        self._place()

    def hold(self) -> None:
        """Stays where it is, whatever comes."""
        self._following = False

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
        if 0 <= event.y < len(self._view):
            part, row = self._view[event.y]
            self.shift_code(direction, self._item_of(part, part.parsed().lines[row.line]))

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        rows = round(new_value) - round(old_value)
        if self._own_scroll or not rows or self._frame is None:
            return
        if self.scrollable_content_region.size != (self._frame.view, self._rows):
            return  # not the user: what fits into the view has changed
        self._following = rows > 0 and round(new_value) >= self.max_scroll_y
        if not self._following:
            if abs(rows) <= _WALK * self._rows:
                self._step(rows)
            else:
                self._jump(round(new_value))
        self._place()

    def _step(self, rows: int) -> None:
        """Moves the upper edge by so many rows, which are made."""
        part, row = self._top, self._top_row + rows
        while part is not None and row < 0:
            above = self._neighbour(part, -1)
            if above is None:
                row = 0
                break
            part = above
            row += len(self._draw(part))
        while part is not None and row >= len(self._draw(part)):
            below = self._neighbour(part, 1)
            if below is None:
                row = len(self._draw(part)) - 1
                break
            row -= len(self._draw(part))
            part = below
        self._top, self._top_row = part, max(0, row)

    def _jump(self, y: int) -> None:
        """Moves the upper edge to about this row of all."""
        assert self._frame is not None
        for entry in self._entries:
            rows = entry.rows_about(self._frame)
            if y < rows:
                for part in entry.parts:
                    rows = part.rows_about(self._frame)
                    if y < rows:
                        self._top = part
                        self._top_row = min(y, len(self._draw(part)) - 1)
                        return
                    y -= rows
                return
            y -= rows

    def _cursor_moved(self) -> None:
        if self.cursor.item is not None:
            self.scroll_to_item(self.cursor.item)
        self.refresh()

    # ------------------------------------------------------------ where things are

    def _serial(self) -> int:
        self._next_serial += 1
        return self._next_serial

    def _append(self, entry: Entry) -> None:
        entry.at = len(self._entries)
        self._entries.append(entry)

    def _remove(self, gone: Sequence[Entry]) -> None:
        if self._top is not None and self._top.entry in gone:
            kept = [e for e in self._entries[: self._top.entry.at] if e not in gone]
            self._top = kept[-1].parts[-1] if kept and kept[-1].parts else None
            self._top_row = 0
        if self.cursor.entry in gone:
            self.cursor.item = None
        self._entries = [entry for entry in self._entries if entry not in gone]
        for at, entry in enumerate(self._entries):
            entry.at = at
        for part in [part for part in self._drawn if part.entry in gone]:
            del self._drawn[part]

    def _neighbour(self, part: Part, step: int) -> Part | None:
        """The part above (-1) or below (1)."""
        parts = part.entry.parts
        at = part.serial + step
        if 0 <= at < len(parts):
            return parts[at]
        n = part.entry.at + step
        while 0 <= n < len(self._entries):
            if parts := self._entries[n].parts:
                return parts[0] if step > 0 else parts[-1]
            n += step
        return None

    def _first_part(self) -> Part | None:
        return next((e.parts[0] for e in self._entries if e.parts), None)

    def _last_part(self) -> Part | None:
        return next((e.parts[-1] for e in reversed(self._entries) if e.parts), None)

    def _draw(self, part: Part) -> list[Row]:
        """The rows of a part, made now if they are not there."""
        assert self._frame is not None
        if part.rows is None:
            known = part.height
            rows = part.drawn(self._frame, self._look)
            if len(rows) != known:
                part.entry.measured()
        else:
            rows = part.rows
        self._drawn.pop(part, None)
        self._drawn[part] = None
        return rows

    def _changed(self, entry: Entry) -> None:
        """An entry has other parts than before."""
        if self._top is not None and self._top.entry is entry:
            parts = entry.parts
            if self._top not in parts:
                self._top = parts[min(self._top.serial, len(parts) - 1)] if parts else None
                self._top_row = 0
        self._place()

    def _place(self) -> None:
        """Finds out which rows are in view, makes them, and tells the scrollbar."""
        if self._frame is None or not self._rows:
            return
        if self._top is None or self._following:
            self._to_last_rows()
        view = self._rows_below(self._top, self._top_row)
        if len(view) < self._rows and self._top is not self._first_part():
            self._to_last_rows()  # what was below became shorter
            view = self._rows_below(self._top, self._top_row)
        self._forget_far(view)
        tops = [0, *accumulate(entry.rows_about(self._frame) for entry in self._entries)]
        y = self._top_row
        if self._top is not None:
            above = self._top.entry.parts[: self._top.serial]
            y += tops[self._top.entry.at] + sum(part.rows_about(self._frame) for part in above)
        ends_here = not view or self._ends_with(view[-1])
        self._scrolled(y, max(tops[-1], y + len(view)))
        self._show(view)
        if ends_here != self._ends_here:
            self._ends_here = ends_here
            self.post_message(self.Moved())

    def _to_last_rows(self) -> None:
        part, rows = self._last_part(), 0
        while part is not None:
            rows += len(self._draw(part))
            above = self._neighbour(part, -1)
            if rows >= self._rows or above is None:
                break
            part = above
        self._top, self._top_row = part, max(0, rows - self._rows)

    def _rows_below(self, part: Part | None, row: int) -> list[_Shown]:
        view: list[_Shown] = []
        while part is not None and len(view) < self._rows:
            rows = self._draw(part)
            view += ((part, one) for one in rows[row : row + self._rows - len(view)])
            row = max(0, row - len(rows))
            part = self._neighbour(part, 1)
        return view

    def _ends_with(self, last: _Shown) -> bool:
        part, row = last
        return part is self._last_part() and row is self._draw(part)[-1]

    def _forget_far(self, view: Sequence[_Shown]) -> None:
        """Rows that were not seen for long are made again when they are."""
        if len(self._drawn) > KEPT:
            seen = {part for part, _ in view}
            for part in list(self._drawn)[: len(self._drawn) - KEPT]:
                if part not in seen:
                    del self._drawn[part]
                    part.let_go()

    def _scrolled(self, y: int, height: int) -> None:
        """Where the view is, without asking for a layout as a change of `virtual_size` would."""
        assert self._frame is not None
        size = Size(self._frame.view, height)
        if size != self.virtual_size:
            self.set_reactive(Widget.virtual_size, size)
            self.vertical_scrollbar.window_virtual_size = height
            self.vertical_scrollbar.window_size = self._rows
        self._own_scroll = True
        try:
            self.scroll_y = self.scroll_target_y = y
        finally:
            self._own_scroll = False

    def _show(self, view: list[_Shown]) -> None:
        """These rows from now on; those that are others than before are painted."""
        before, self._view = self._view, view
        n = max(len(before), len(view))
        other = [
            y for y in range(n)
            if y >= len(before) or y >= len(view) or before[y][1] is not view[y][1]
        ]  # fmt: skip
        if other:
            self.refresh(Region(0, other[0], self._width, other[-1] - other[0] + 1))

    # ------------------------------------------------------------ the frame

    def on_resize(self) -> None:
        self._reframe()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self.call_later(self._restyle)  # component classes have their new styles after this

    def _restyle(self) -> None:
        if self._frame is not None and self._look.changed():
            self._reframe(force=True)

    def _reframe(self, force: bool = False) -> None:
        """Another width, or another look: all rows are made again; the first one stays where it
        is."""
        view, rows = self.scrollable_content_region.size
        if not view or not rows:
            return
        margin = 3 if view >= 40 else 1  # noqa: PLR2004
        frame = Frame(view, max(1, min(self._most, view - 2 * margin + 1)), margin, self._wrap_code)
        changed = force or frame != self._frame
        if self._frame is None:
            self._look.changed()
        self._rows = rows
        if not changed:
            self._place()
            return
        held = self._held() if self._frame is not None else None
        self._frame = frame
        for entry in self._entries:
            entry.resized()
        self._view = []
        if held is not None:
            part, line, x = held
            self._top, self._top_row = part, self._row_of(part, line, x)
        self._place()
        self.refresh()

    def _held(self) -> tuple[Part, int, int] | None:
        """The line at the upper edge of the view, and the character that its row begins with."""
        if self._following or self._top is None or self._top.rows is None:
            return None
        rows = self._top.rows
        row = rows[min(self._top_row, len(rows) - 1)]
        return self._top, row.line, row.pieces[0].start if row.pieces else -1

    def _row_of(self, part: Part, line: int, x: int) -> int:
        found = 0
        for n, row in enumerate(self._draw(part)):
            if row.line == line:
                if not row.pieces and x < 0:
                    return n
                if row.pieces and row.pieces[0].start <= max(x, 0):
                    found = n
        return found

    @property
    def _width(self) -> int:
        """Columns of the view."""
        return self._frame.view if self._frame is not None else self.size.width

    # ------------------------------------------------------------ painting

    def render_lines(self, crop: Region) -> list[Strip]:
        selection = self.text_selection
        return [
            self._painted(y, selection).crop(crop.x, crop.right) for y in range(crop.y, crop.bottom)
        ]

    def _painted(self, y: int, selection: Selection | None) -> Strip:
        width = self._width
        if y >= len(self._view):
            return Strip.blank(width, self._look())
        part, row = self._view[y]
        strip = row.strip
        if selection is not None or self._found is not None:
            strip = self._marked(part, row, selection)
        if row.wide:
            strip = self._cut(part, row, strip)
        if self.cursor.item is not None and row.pieces:
            line = part.parsed().lines[row.line]
            if self.cursor.on(part, line):
                sign = Strip([Segment("┃", self._look("cursor"))], 1)
                strip = Strip.join([sign, strip.crop(1, strip.cell_length)])
                if self.cursor.item.block is not None and self._closes(part, row):
                    strip = self._with_keys(strip)
        return strip if strip.cell_length == width else strip.crop_extend(0, width, self._look())

    def _closes(self, part: Part, row: Row) -> bool:
        """Whether a row is the rule below a code block."""
        lines = part.parsed().lines
        line = lines[row.line]
        below = lines[row.line + 1 : row.line + 2]
        return line.kind is Kind.RULE and not any(one.block == line.block for one in below)

    def _with_keys(self, strip: Strip) -> Strip:
        """A rule that says at its right end what keys do on its block."""
        assert self._frame is not None
        end = self._frame.margin + self._frame.width
        keys = f" {self.block_keys}"
        if not self.block_keys or _cells(keys) > self._frame.width // 2:
            return strip
        said = Strip([Segment(keys, self._look("footer"))], _cells(keys))
        before, after = strip.crop(0, end - _cells(keys)), strip.crop(end, strip.cell_length)
        return Strip.join([before, said, after])

    def _marked(self, part: Part, row: Row, selection: Selection | None) -> Strip:
        """A row with what is selected and what was searched for."""
        strip = row.strip
        line = part.parsed().lines[row.line]
        if self._found is not None:
            for found in self._found.finditer(line.text):
                strip = self._over(strip, row, line, found.span(), self._look("found"))
        span = selection.get_span(line_number(part, row.line)) if selection is not None else None
        if span is not None:
            start, end = span
            end = len(line.text) if end < 0 else end
            strip = self._over(strip, row, line, (start, end), self._look("selected"))
        return strip

    def _over(
        self, strip: Strip, row: Row, line: Line, span: tuple[int, int], style: Style
    ) -> Strip:
        for piece in row.pieces:
            start, end = max(span[0], piece.start), min(span[1], piece.end)
            if start < end:
                first = piece.column + _cells(line.text[piece.start : start])
                last = first + _cells(line.text[start:end])
                before, inside, after = strip.divide([first, last, strip.cell_length])
                over = Style(bgcolor=style.bgcolor, color=style.color, underline=style.underline)
                marked = [Segment(s.text, (s.style or Style()) + over) for s in inside]
                strip = Strip.join([before, Strip(marked, inside.cell_length), after])
        return strip

    def _cut(self, part: Part, row: Row, strip: Strip) -> Strip:
        """The part of a long row that is in view, with a mark where there is more."""
        assert self._frame is not None
        width, margin = self._frame.view, self._frame.margin
        item = self._item_of(part, part.parsed().lines[row.line])
        shift = self._shifts.get(item, 0) if item is not None else 0
        mark = Strip([Segment("…", self._look("more"))], 1)
        lead = strip.crop(0, margin)
        start = margin + shift
        end = min(strip.cell_length, start + width - margin)
        inside = strip.crop(start + bool(shift), end - (end < strip.cell_length))
        ends = end < strip.cell_length
        return Strip.join([lead, *([mark] if shift else []), inside, *([mark] if ends else [])])

    # ------------------------------------------------------------ the mouse

    def render_line(self, y: int) -> Strip:
        """A row with the place of each character, by which the mouse selects. Painting does without
        them: with one in each style, nothing that is drawn could be remembered."""
        if not self._view:
            return Strip.blank(self._width, self._look())
        part, row = self._view[min(y, len(self._view) - 1)]
        lines = part.parsed().lines
        line = lines[row.line]
        number = line_number(part, row.line)

        def cells(n: int, x: int) -> Iterator[Segment]:
            style = Style.from_meta({"offset": (x, number)})
            return (Segment(" ", style) for _ in range(n))

        if y >= len(self._view):
            return Strip(cells(self._width, len(line.text)), self._width)
        segments: list[Segment] = []
        at = x = 0
        if row.pieces:
            x = row.pieces[0].start
        for piece in row.pieces:
            segments += cells(piece.column - at, x)
            text = line.text[piece.start : piece.end]
            segments.append(Segment(text, Style.from_meta({"offset": (piece.start, number)})))
            at, x = piece.column + _cells(text), piece.end
        segments += cells(max(self._width, row.strip.cell_length) - at, x)
        strip = Strip(segments)
        return self._cut(part, row, strip) if row.wide else strip.crop(0, self._width)

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        return selected_text(self._entries, selection), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        self.refresh()

    def on_mouse_down(self, event: events.MouseDown) -> None:
        self._pressed = event.screen_offset

    def on_click(self, event: events.Click) -> None:
        event.prevent_default()  # Textual would select all messages
        place = self._place_at(event.offset)
        if place is None or event.screen_offset != self._pressed:
            return
        part, number, x = place
        line = part.parsed().lines[number]
        if event.chain > 1:
            self._select(part, number, x, whole=event.chain > 2)  # noqa: PLR2004
        elif line.folds:
            part.entry.fold()
        else:
            for span in line.spans:
                if span.link and span.start <= x < span.end:
                    self.post_message(self.LinkClicked(span.link))

    def _place_at(self, offset: Offset) -> tuple[Part, int, int] | None:
        """The part, line and character below the mouse."""
        if not 0 <= offset.y < len(self._view):
            return None
        part, row = self._view[offset.y]
        _, place = self.screen.get_widget_and_offset_at(
            offset.x + self.region.x, offset.y + self.region.y
        )
        return part, row.line, place.x if place is not None else 0

    def _select(self, part: Part, number: int, x: int, whole: bool) -> None:
        """Selects a word, or a whole line or code block."""
        lines = part.parsed().lines
        first = last = number
        start, end = word_at(lines[number].text, x)
        if whole:
            block = lines[number].block
            while block >= 0 and first and _code_of(lines[first - 1], block):
                first -= 1
            while block >= 0 and last + 1 < len(lines) and _code_of(lines[last + 1], block):
                last += 1
            start, end = 0, len(lines[last].text)
        self.screen.selections = {
            self: Selection(
                Offset(start, line_number(part, first)), Offset(end, line_number(part, last))
            )
        }


def _cells(text: str) -> int:
    return Segment(text).cell_length


def _code_of(line: Line, block: int) -> bool:
    return line.block == block and line.kind is Kind.CODE
