"""A part of what stands in the transcript: some text, and its rows once they are to be seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from tui.widgets.reading.lines import Kind, Line, Lines, plain
from tui.widgets.reading.rows import PAGE, Before, Frame, Ground, Look, Row, rows_of
from tuner.units import count_text

if TYPE_CHECKING:
    from tui.widgets.entries import Entry

_CHARS = 2000  # of plain text that is drawn apart


class Part:
    """Some text and its rows, which are made when they are to be seen and may be forgotten."""

    __slots__ = ("_before", "_guess", "columns", "continues", "entry", "ground", "height", "joined",
                 "lines", "repeated", "rows", "serial", "text", "what")  # fmt: skip

    def __init__(
        self,
        entry: Entry,
        text: str,
        what: str = "markdown",
        ground: Ground = PAGE,
        *,
        joined: bool = False,
        repeated: int = 0,
    ):
        """`what`: markdown, plain, or what only the screen has and no copy: fold, footer."""
        self.entry = entry
        self.text = text
        self.what = what
        self.ground = ground
        self.joined = joined
        self.repeated = repeated  # characters of the text that are in the part before, too
        self.continues = False  # the next part goes on with this one's last block
        self.serial = 0  # its place in the entry
        self.lines: Lines | None = None
        self.rows: list[Row] | None = None
        self.columns: tuple[int, ...] = ()
        self.height = 0  # rows; 0: not known
        self._guess = 0
        self._before: Before = ((), ())

    @property
    def source(self) -> str:
        """What this part adds to the text of its entry."""
        if self.what == "plain":
            return f"\n{self.text}" if self.joined else self.text
        return self.text[self.repeated :] if self.what == "markdown" else ""

    def change(self, text: str) -> None:
        """Another text."""
        if text != self.text:
            self.text = text
            self.forget()

    def forget(self, resized: bool = False) -> None:
        """Its rows are to be made again. `resized`: its text is the same, its frame or look is
        not."""
        if resized or self.rows is None or self.lines is None:
            self._before = ((), ())
        else:
            self._before = (self.lines.lines, self.rows)
        self.rows = None
        self.height = self._guess = 0
        if not resized:
            self.lines = None

    def let_go(self) -> None:
        """Its rows are far from view; how many they are is still known."""
        self.rows = self.lines = None
        self._before = ((), ())

    def parsed(self) -> Lines:
        """Its lines."""
        if self.lines is None:
            if self.what == "markdown":
                # A chat that has no answer yet is drawn before there is a parser.
                from tui.widgets.reading.markdown import parse  # noqa: PLC0415

                self.lines = parse(self.text, joined=self.joined, continues=self.continues)
            elif self.what == "fold":
                self.lines = Lines((Line(self.text, gap=True, folds=True),))
            else:
                self.lines = plain(self.text, gap=not self.joined)
        return self.lines

    def drawn(self, frame: Frame, look: Look) -> list[Row]:
        """Its rows in this frame."""
        if self.rows is None:
            lines = self.parsed()
            before = self.entry.part_before(self) if self.joined else None
            columns: tuple[int, ...] = ()
            if before is not None and lines.lines and lines.lines[0].kind is Kind.TABLE:
                before.drawn(frame, look)
                columns = before.columns
            ground = self.ground
            if self.entry.faded:
                ground = replace(ground, styles=(*ground.styles, "faded"))
            self.rows, self.columns = rows_of(
                lines.lines, frame, look, ground, columns=columns, notes=self._notes(lines),
                before=self._before,
            )  # fmt: skip
            self._before = ((), ())
            self.height = len(self.rows)
        return self.rows

    def _notes(self, lines: Lines) -> dict[int, str]:
        """How long the blocks are."""
        notes: dict[int, str] = {}
        for n, block in enumerate(lines.blocks):
            n_lines = len(block.code.split("\n")) if block.code else 0
            if self.continues and n == len(lines.blocks) - 1:
                below = self.entry.code_below(self)
                if below is None:
                    continue
                n_lines += below
            notes[n] = count_text(n_lines, "line")
        return notes

    def rows_about(self, frame: Frame) -> int:
        """How many rows it has, or may have."""
        if not self.height and not self._guess:
            self._guess = rows_about(self.text, frame)
        return self.height or self._guess

    def line(self, row: Row) -> Line:
        """The line that one of its rows is of."""
        return self.parsed().lines[row.line]


def rows_about(text: str, frame: Frame) -> int:
    """A guess of the rows of a text."""
    return 2 + text.count("\n") + len(text) // max(1, frame.width)


def plain_parts(entry: Entry, text: str, ground: Ground) -> Iterator[Part]:
    """Parts of a text that is drawn as it is written, cut at its lines."""
    at, joined = 0, False
    while True:
        cut = text.find("\n", at + _CHARS)
        end = len(text) if cut < 0 else cut
        yield Part(entry, text[at:end], "plain", ground, joined=joined)
        if cut < 0:
            return
        at, joined = cut + 1, True
