"""A part of a message, selected with keys."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.style import Style
from textual.pilot import Pilot

from tests.support.chat_fakes import FakeRunning, ask, chat_screen, make_app, shown, shows, until
from tui.storage import Conversations, StoredMessage
from tui.widgets.caret import Caret
from tui.widgets.entries import Entry
from tui.widgets.parts import Part
from tui.widgets.reading.rows import Frame, Row
from tui.widgets.selecting import selected_text

FIRST = "A *first* paragraph that is long enough to be wrapped at thirty columns."
TEXT = f"""{FIRST}

- one item
- 漢字 another

| a | b |
|---|---|
| 1 | 2 |

```python
x = 1

y = "é"
```

The end."""


def looks(*_: str) -> Style:
    return Style()


def caret_in(text: str, width: int = 30) -> tuple[Entry, Caret]:
    """A caret at the first character of an answer."""
    entry = Entry(1, StoredMessage("m", None, "assistant", text, 0.0), lambda _: None)
    frame = Frame(width + 6, width, 3)

    def draw(part: Part) -> list[Row]:
        return part.drawn(frame, looks)

    part = entry.parts[0]
    first = next(n for n, row in enumerate(draw(part)) if row.pieces)
    return entry, Caret(entry, draw, part, first)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("rows", "characters", "words", "line_end", "end")),
        st.sampled_from((-1, 1)),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(STEPS, st.integers(10, 60))
def test_wherever_it_goes_it_stands_on_a_character(
    steps: list[tuple[str, int]], width: int
) -> None:
    """And a character on, or a row, and back is where it was, but at the ends."""
    _, caret = caret_in(TEXT, width)
    for how, step in steps:
        getattr(caret, how)(step)
    here = (caret.y, caret.x)
    row = caret.row
    assert row is not None
    assert row.pieces
    assert caret.column < width + 6
    caret.characters(1)
    if (caret.y, caret.x) != here:
        caret.characters(-1)
        assert (caret.y, caret.x) == here
    caret.rows(1)
    if caret.row is not row:
        caret.rows(-1)
        assert caret.row is row


def test_from_the_first_character_to_the_last_is_the_message() -> None:
    """As it was written, whatever was walked between."""
    entry, caret = caret_in(TEXT)
    caret.hold()
    caret.end(1)
    assert caret.selection is not None
    assert selected_text([entry], caret.selection) == TEXT
    for _ in range(200):
        caret.characters(-1)
    assert selected_text([entry], caret.selection) == "A"
    for _ in range(200):
        caret.rows(1)
    assert selected_text([entry], caret.selection).endswith('y = "é"\n```\n\nT')


@pytest.mark.parametrize(
    ("walk", "text"),
    [
        ([("words", 1)], "A f"),
        ([("rows", 1)], "A first paragraph that is long e"),
        ([("line_end", 1)], FIRST.replace("*", "")),
        ([("line_end", 1), ("words", 1), ("words", 1)], f"{FIRST}\n\n- one i"),
        ([("line_end", 1), ("rows", 1), ("rows", 1), ("line_end", -1), ("characters", 1)],
         f"{FIRST}\n\n- one item\n- 漢字"),
    ],
)  # fmt: skip
def test_what_a_walk_selects(walk: list[tuple[str, int]], text: str) -> None:
    """Of a line in part what is drawn, of others what was written."""
    entry, caret = caret_in(TEXT)
    caret.hold()
    for how, step in walk:
        getattr(caret, how)(step)
    assert caret.selection is not None
    assert selected_text([entry], caret.selection) == text


def reversed_text(pilot: Pilot[None]) -> str:
    """What the caret is on."""
    return "".join(
        segment.text
        for strip in pilot.app.screen._compositor.render_strips()
        for segment in strip
        if segment.style and segment.style.reverse and segment.text.isalnum()
    )


async def test_a_part_of_a_message_is_copied(store: Conversations) -> None:
    """`v` or Shift and an arrow begins, the key that copies copies, Esc lets go and then leaves."""
    app = make_app(FakeRunning([["Red fox\n\n```\ncode one\ncode two\n```\n"]]), store)
    async with app.run_test(size=(60, 24)) as pilot:
        await chat_screen(pilot)
        await ask(pilot, "Go")
        await pilot.press("ctrl+up", "up", "v")  # the answer, not its block
        await until(pilot, lambda: shows(pilot, "y copy", "v begin"))
        assert reversed_text(pilot) == "R"
        await pilot.press("w", "v", "l", "l", "y")
        await until(pilot, lambda: shows(pilot, "3 characters copied", "v select"))
        assert app.clipboard == "fox"
        assert reversed_text(pilot) == ""
        await pilot.press("shift+down", "$")
        assert reversed_text(pilot) == "e"
        await pilot.press("c")
        await until(pilot, lambda: shows(pilot, "lines copied"))
        assert app.clipboard == "Red fox\n\n```\ncode one"
        await pilot.press("v", "j", "y")
        await until(pilot, lambda: shows(pilot, "8 characters copied"))
        assert app.clipboard == "code one"
        await pilot.press("v", "space", "G", "escape")
        await until(pilot, lambda: not app.screen.selections)
        assert shows(pilot, "v begin")
        await pilot.press("escape")
        await until(pilot, lambda: shows(pilot, "v select"))


async def test_the_view_follows_the_caret(store: Conversations) -> None:
    """Down and up, and along a line of code that is longer than the screen."""
    lines = "\n\n".join(f"paragraph {n}" for n in range(40))
    answer = f"top\n\n{lines}\n\n```\nx = {'1234567890' * 12}z\n```"
    app = make_app(FakeRunning([[answer]]), store)
    async with app.run_test(size=(60, 20)) as pilot:
        await chat_screen(pilot)
        await ask(pilot, "Go")
        await pilot.press("ctrl+up", "up", "v", "g")
        await until(pilot, lambda: shows(pilot, "top"))
        assert reversed_text(pilot) == "t"
        await pilot.press("G")
        await until(pilot, lambda: reversed_text(pilot) == "z")
        assert "1234567890z" in shown(pilot)
        await pilot.press("0")
        await until(pilot, lambda: reversed_text(pilot) == "x")
        await pilot.press("up", "up")
        await until(pilot, lambda: reversed_text(pilot) == "p")
        assert shows(pilot, "paragraph 38")
