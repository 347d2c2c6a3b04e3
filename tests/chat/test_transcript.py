"""The transcript as one scrolls, selects, folds and resizes it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from textual.app import App, ComposeResult
from textual.color import Color
from textual.events import MouseScrollRight
from textual.pilot import Pilot

from tests.support.chat_fakes import shown
from tui.storage import StoredMessage
from tui.widgets import Item, Transcript

CODE = "def f(x):\n    return x  # " + "long " * 30
ANSWER = f"""\
First *words* here.
Second line.

- one item
- two items

```python
{CODE}
```

See [there](https://example.org) and `code`.
"""


def message(n: int, content: str = "", **how: object) -> StoredMessage:
    role = "assistant" if n % 2 else "user"
    return StoredMessage(f"m{n}", None, role, content or f"message {n}", 1.0, **how)  # type: ignore[arg-type]


class Sheet(App[None]):
    CSS_PATH = ["../../tui/styles/chat.tcss", "../../tui/styles/messages.tcss"]  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.transcript = Transcript()
        self.moved = 0
        self.links: list[str] = []

    def compose(self) -> ComposeResult:
        yield self.transcript

    def on_transcript_moved(self) -> None:
        self.moved += 1

    def on_transcript_link_clicked(self, event: Transcript.LinkClicked) -> None:
        self.links.append(event.href)


@asynccontextmanager
async def sheet(
    messages: list[StoredMessage], size: tuple[int, int] = (60, 20)
) -> AsyncIterator[tuple[Pilot[None], Transcript]]:
    app = Sheet()
    async with app.run_test(size=size) as pilot:
        await app.transcript.show(messages)
        await pilot.pause()
        yield pilot, app.transcript


def rows(pilot: Pilot[None]) -> list[str]:
    """The screen without the scrollbar."""
    return [row[:-1].rstrip() for row in shown(pilot).splitlines()]


def place(pilot: Pilot[None], word: str, after: bool = False) -> tuple[int, int]:
    """Where a word stands on the screen, or its last character."""
    for y, row in enumerate(shown(pilot).splitlines()):
        if word in row:
            return row.index(word) + (len(word) - 1 if after else 0), y
    raise AssertionError(f"no {word!r} in\n{shown(pilot)}")


async def copied(pilot: Pilot[None], first: str, last: str) -> str:
    """What the mouse selects from the beginning of one word to the end of another."""
    await pilot.mouse_down(offset=place(pilot, first))
    await pilot.hover(offset=place(pilot, last, after=True))
    await pilot.mouse_up(offset=place(pilot, last, after=True))
    await pilot.pause()
    text = pilot.app.screen.get_selected_text()
    assert text is not None
    return text


async def test_what_is_selected_is_copied_as_it_was_written() -> None:
    """Whole lines with marks, fences and blank lines; within a line what is drawn; code to its end,
    seen or not; the same after more came in and the window became another."""
    async with sheet([message(0, "a question\n\nin two"), message(1, ANSWER)]) as (
        pilot,
        transcript,
    ):
        assert await copied(pilot, "words", "here") == "words here"
        assert await copied(pilot, "First", "Second line.") == "First *words* here.\nSecond line."
        assert await copied(pilot, "line.", "• two") == "line.\n\n- one item\n- two"
        fence = f"```python\n{CODE}\n```"
        assert await copied(pilot, "two items", "See there and code.") == (
            f"- two items\n\n{fence}\n\nSee [there](https://example.org) and `code`."
        ), "from the first character of an item on, its mark is in"
        text = await copied(pilot, "question", "Second line.")
        assert text == "question\n\nin two\n\nFirst *words* here.\nSecond line."
        await pilot.resize_terminal(30, 50)
        await transcript.add(message(2))
        await pilot.pause()
        assert pilot.app.screen.get_selected_text() == text
        pilot.app.screen.clear_selection()
        await pilot.click(Transcript, offset=place(pilot, "Second"), times=2)
        assert pilot.app.screen.get_selected_text() == "Second"
        await pilot.click(Transcript, offset=place(pilot, "def f"), times=3)
        assert pilot.app.screen.get_selected_text() == CODE
        await pilot.click(offset=place(pilot, "there"))
        assert pilot.app.links == ["https://example.org"]  # type: ignore[attr-defined]
        await copied(pilot, "See", "there")  # a drag that ends there is no click
        assert len(pilot.app.links) == 1  # type: ignore[attr-defined]


async def test_following_ends_with_the_first_step_up() -> None:
    """Also where all is in view yet: the view holds, and what comes below is told from the first
    row on. At the end it follows again."""
    async with sheet([message(0, "Go")], size=(60, 12)) as (pilot, transcript):
        entry = await transcript.add(message(1), streaming=True)
        entry.feed("line\n\n" * 2)
        assert transcript.at_end
        transcript.scroll_relative(y=-5, animate=False)
        entry.feed("line\n\n" * 2)
        await pilot.pause()
        assert transcript.at_end
        assert transcript.scroll_y == 0
        while transcript.at_end:
            entry.feed("line\n\n")
        await pilot.pause()
        assert transcript.scroll_y == 0
        assert " ▌ Go" in shown(pilot)
        assert transcript.max_scroll_y <= 2
        assert pilot.app.moved == 1
        entry.feed("line\n\n" * 20)
        assert transcript.scroll_y == 0
        for _ in range(20):
            transcript.scroll_relative(y=10, animate=False)
        assert transcript.at_end
        entry.feed("line\n\n" * 20 + "the end", final=True)
        await pilot.pause()
        assert "the end" in shown(pilot)


async def test_the_view_holds_while_guesses_come_true() -> None:
    """Rows above are made while one scrolls up, as many as they are and not as many as guessed: no
    row is skipped and none comes twice."""
    messages = [message(n, f"number {n}\n\n" + "word " * (7 * n % 90)) for n in range(1, 60, 2)]
    async with sheet(messages) as (pilot, transcript):
        seen = rows(pilot)
        for _ in range(400):
            transcript.scroll_relative(y=-7, animate=False)
            await pilot.pause()
            now = rows(pilot)
            if now == seen[: len(now)]:
                break
            step = next(n for n in range(1, 8) if now[n:] == seen[: len(now) - n])
            seen[:0] = now[:step]
        assert transcript.scroll_y == 0
        found = [row.split()[1] for row in seen if "number" in row]
        assert found == [str(n) for n in range(1, 60, 2)]
        assert transcript.virtual_size.height == len(seen)


async def test_a_resize_keeps_the_first_row() -> None:
    """Whatever the width, the line at the upper edge stays there; at the end, the end does."""
    messages = [message(n, f"number {n}\n" + "word " * 40) for n in range(1, 60, 2)]
    async with sheet(messages) as (pilot, transcript):
        transcript.scroll_relative(y=-100, animate=False)
        while "number" not in shown(pilot).splitlines()[0]:
            transcript.scroll_relative(y=-1, animate=False)
            await pilot.pause()
        first = shown(pilot).splitlines()[0].strip()
        for size in ((30, 20), (120, 12), (20, 5), (60, 20)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            assert shown(pilot).splitlines()[0].strip() == first
        await transcript.to_end()
        for size in ((30, 20), (120, 12), (60, 20)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            assert transcript.at_end
            assert "word" in shown(pilot).splitlines()[size[1] - 1]


async def test_text_is_no_wider_than_one_reads() -> None:
    """Code may be: the window has the room."""
    async with sheet([message(1, "word " * 60 + f"\n\n```\n{'x' * 130}\n```")], (160, 20)) as (
        pilot, _,
    ):  # fmt: skip
        rows = shown(pilot).splitlines()
        assert max(len(row.rstrip()) for row in rows if "word" in row) <= 103
        assert "x" * 130 in shown(pilot)


async def test_long_code_says_that_there_is_more() -> None:
    """A mark at the edge; keys move it, or wrap it."""
    async with sheet([message(1, ANSWER)]) as (pilot, transcript):
        (row,) = [row for row in shown(pilot).splitlines() if "return x" in row]
        assert row.rstrip().endswith("…")
        x, y = place(pilot, "return x")
        await pilot._post_mouse_events([MouseScrollRight], Transcript, (x, y), button=0)
        await pilot.pause()
        (row,) = [row for row in shown(pilot).splitlines() if "long long" in row]
        assert row.startswith("   …")
        assert "return x" not in shown(pilot)
        assert "First words" in shown(pilot)
        for _ in range(20):
            transcript.shift_code(1)
        await pilot.pause()
        (row,) = [row for row in shown(pilot).splitlines() if "long long" in row]
        assert row.rstrip().endswith("long")
        assert transcript.wrap_code()
        await pilot.pause()
        assert shown(pilot).count("long") == 30
        assert not transcript.shift_code(1)


async def test_the_cursor_goes_over_messages_and_blocks() -> None:
    """Up from the end and down again; it knows the source of what it is on, shows it, and brings it
    into view."""
    messages = [message(n, ANSWER if n % 2 else "") for n in range(12)]
    async with sheet(messages) as (pilot, transcript):
        transcript.block_keys = "y copy"
        cursor = transcript.cursor
        assert cursor.picked is None
        assert cursor.move(-1)
        assert cursor.item == Item("m11", 0)
        assert cursor.picked is not None
        assert (cursor.picked.text, cursor.picked.language) == (CODE, "python")
        await pilot.pause()
        marked = [row for row in shown(pilot).splitlines() if row.startswith("┃")]
        assert len(marked) == 4
        assert marked[-1].rstrip().endswith("─ y copy")
        assert cursor.move(-1)
        assert cursor.item == Item("m11")
        assert cursor.picked.text == ANSWER
        assert cursor.move(-1)
        assert cursor.item == Item("m10")
        assert cursor.move(-3, messages_only=True)
        assert cursor.item == Item("m7")
        await pilot.pause()
        assert any(row.startswith("┃  First") for row in shown(pilot).splitlines())
        cursor.put(Item("m0"))
        assert not cursor.move(-1)
        await pilot.pause()
        assert shown(pilot).splitlines()[1].startswith("┃▌ message 0")
        assert cursor.move(1)
        assert cursor.move(1)
        assert cursor.item == Item("m1", 0)
        await transcript.show(messages[:1])
        assert cursor.item is None


async def test_what_is_said_beside_the_messages() -> None:
    """Footers, faded messages, notices, words that are marked, thoughts that are folded."""
    messages = [message(0), message(1, "an answer", reasoning="hm hm")]
    async with sheet(messages) as (pilot, transcript):
        entry = transcript.entry("m1")
        assert entry is not None
        entry.set_footer("‹ 2/3 ›  12 tokens")
        await transcript.notice("look here", "warning")
        await pilot.pause()
        assert " ! look here" in shown(pilot)
        assert "‹ 2/3 ›  12 tokens" in shown(pilot)

        def style(word: str) -> object:
            x, y = place(pilot, word)
            return pilot.app.screen.get_style_at(x, y).without_color, pilot.app.screen.get_style_at(
                x, y
            ).color

        before = style("an answer")
        transcript.fade(messages, 2)
        transcript.mark("LOOK")
        await pilot.pause()
        assert style("an answer") != before
        assert pilot.app.screen.get_style_at(*place(pilot, "look")).underline
        assert transcript.fold()
        await pilot.pause()
        assert "hm hm" in shown(pilot)
        await transcript.clear_notices()
        await pilot.pause()
        assert "look here" not in shown(pilot)
        assert transcript.text() == "message 0\n\nan answer"


async def test_another_theme_is_seen_at_once() -> None:
    """All of its colours, also those of 16 alone."""
    async with sheet([message(0, "a question")]) as (pilot, _):
        for theme in ("textual-light", "ansi-dark", "textual-dark"):
            pilot.app.theme = theme
            await pilot.pause()
            primary = Color.parse(pilot.app.theme_variables["primary"])
            assert pilot.app.screen.get_style_at(*place(pilot, "▌")).color == primary.rich_color
