"""What stands in the transcript: messages and notices, each a list of parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tui.answering.words import how_it_ended, n_words, took
from tui.composing.parts import shown
from tui.storage import StoredMessage
from tui.widgets.parts import Part, plain_parts, rows_about
from tui.widgets.reading.lines import Block, Line
from tui.widgets.reading.rows import Frame, Ground
from tui.widgets.reading.segments import Segmenter
from tuner.safe_text import printable
from tuner.units import count_text

_THOUGHT = Ground(("thought",))
_USER = Ground(("user",), "▌", "user-mark", every_row=True, filled=True)
_FOOTER = Ground(("footer",))
_NOTICES = {
    "info": Ground(("notice",)),
    "welcome": Ground(("notice",)),
    "warning": Ground(("warning",), "!", "warning"),
    "error": Ground(("error",), "✗", "error"),
}


@dataclass(frozen=True, slots=True)
class Item:
    """Where the cursor may stand: a message, or one of its code blocks."""

    message_id: str
    block: int | None = None


Changed = Callable[["Entry"], None]


class Entry:
    """A message or a notice. Its parts are made when they are to be seen."""

    def __init__(
        self, serial: int, message: StoredMessage | None, changed: Callable[[Entry], None]
    ):
        self.serial = serial
        self.at = 0  # its place in the transcript
        self.message = message
        self.faded = False
        self.footer = ""
        self.unfolded = False
        self.streaming = False
        self._changed = changed
        self._notice: tuple[str, str] | None = None
        self._parts: list[Part] | None = None
        self._segmenter = Segmenter()
        self._thinking = False
        self._n_words = 0
        self._thought_chars = 0
        self._height: int | None = None

    @classmethod
    def of_notice(
        cls, serial: int, text: str, kind: str, changed: Callable[[Entry], None]
    ) -> Entry:
        """What the program says. `kind`: info, welcome, warning or error."""
        entry = cls(serial, None, changed)
        entry._notice = (printable(text), kind)
        return entry

    # ------------------------------------------------------------ parts

    @property
    def parts(self) -> list[Part]:
        """All of it, from the top."""
        if self._parts is None:
            self._parts = list(self._made())
            self._numbered()
        return self._parts

    def _made(self) -> Iterator[Part]:
        message = self.message
        if message is None:
            assert self._notice is not None
            text, kind = self._notice
            yield Part(self, text, "plain", _NOTICES.get(kind, _NOTICES["info"]))
            return
        if message.role == "user":
            whole = self.unfolded or not message.parts
            text = message.content if whole else shown(message.content, message.parts)
            yield from plain_parts(self, printable(text), _USER)
        else:
            if message.reasoning:
                yield Part(self, self._title(), "fold", _THOUGHT)
                if self.unfolded:
                    text = printable(message.reasoning).strip("\n ")
                    yield from plain_parts(self, text, _THOUGHT)
            self._segmenter = Segmenter()
            yield from self._body(message.content, final=not self.streaming)
            yield from self._summary(message)
        if self._footer_text():
            yield Part(self, self._footer_text(), "footer", _FOOTER)

    def _summary(self, message: StoredMessage) -> Iterator[Part]:
        """What the model is given in place of this message and those above."""
        if message.let_go:
            words = count_text(n_words(message.let_go), "word")
            title = f"{self._sign} a summary stands in for what is above · {words}"
            yield Part(self, title, "fold", _THOUGHT)
            if self.unfolded:
                yield from plain_parts(self, printable(message.let_go), _THOUGHT)

    def _body(self, text: str, final: bool) -> list[Part]:
        """New parts for more of the answer; what belongs to the last one is added to it."""
        made: list[Part] = []
        for piece in self._segmenter.feed(printable(text), final):
            last = made[-1] if made else self._last_of_body()
            if piece.fresh or last is None:
                if last is not None and piece.joined:
                    last.continues = True
                    last.forget()
                made.append(Part(self, piece.text, joined=piece.joined, repeated=piece.repeated))
            else:
                last.change(last.text + piece.text)
        return made

    def _last_of_body(self) -> Part | None:
        return next((p for p in reversed(self._parts or ()) if p.what == "markdown"), None)

    def _numbered(self) -> None:
        for n, part in enumerate(self._parts or ()):
            part.serial = n
        self._height = None

    def _again(self) -> None:
        """Its parts are to be made anew."""
        self._parts = None
        self._height = None

    def part_before(self, part: Part) -> Part | None:
        """The one above it."""
        return self.parts[part.serial - 1] if part.serial else None

    def rows_about(self, frame: Frame) -> int:
        """How many rows it has, or may have."""
        if self._height is None:
            if self._parts is not None:
                self._height = sum(part.rows_about(frame) for part in self._parts)
            else:
                text = self.message.content if self.message else (self._notice or ("",))[0]
                self._height = rows_about(text, frame)
        return self._height

    def resized(self) -> None:
        """The frame is another one, or the look."""
        self._height = None
        for part in self._parts or ():
            part.forget(resized=True)

    def measured(self) -> None:
        """Some part of it was drawn: its height may be another one."""
        self._height = None

    # ------------------------------------------------------------ an answer that grows

    def feed(self, text: str, final: bool = False) -> None:
        """Draws more of the answer."""
        parts = self.parts
        made = self._body(text, final)
        if made:
            at = len(parts) - (1 if parts and parts[-1].what == "footer" else 0)
            parts[at:at] = made
        self._numbered()
        if made or final:
            self._closed()
        self._changed(self)

    def reopen(self, message: StoredMessage) -> None:
        """The answer goes on: what comes through `feed` belongs to what is there."""
        self.message, self.streaming = message, True
        self._again()
        self._changed(self)

    def clear(self) -> None:
        """Takes the answer back: it turned out to be reasoning."""
        self._segmenter = Segmenter()
        self._parts = [part for part in self.parts if part.what != "markdown"]
        self._numbered()
        self._changed(self)

    def update_message(self, message: StoredMessage, streaming: bool = False) -> None:
        """A newer state of the message; the text of an answer comes through `feed`."""
        before, self.message = self.message, message
        self.streaming = streaming
        self._thinking = streaming and not message.content
        drawn = [(part, part.text) for part in self.parts]
        if message.reasoning and (before is None or message.reasoning != before.reasoning):
            self._thought(message)
        elif message.reasoning:
            self.parts[0].change(self._title())
        self._set_footer()
        if before is not None and before.let_go != message.let_go:
            self._again()
        if drawn != [(part, part.text) for part in self.parts]:
            self._numbered()
            self._changed(self)

    def _thought(self, message: StoredMessage) -> None:
        """The reasoning has grown."""
        parts = self.parts
        rest = [part for part in parts if part.what in ("markdown", "footer")]
        old = [part for part in parts if part.what not in ("markdown", "footer")]
        fold = old[0] if old else Part(self, "", "fold", _THOUGHT)
        fold.change(self._title())
        texts: list[Part] = []
        if self.unfolded:
            text = printable(message.reasoning).strip("\n ")
            texts = list(plain_parts(self, text, _THOUGHT))
            for new, kept in zip(range(len(texts)), old[1:], strict=False):
                if texts[new].text == kept.text:
                    texts[new] = kept
        self._parts = [fold, *texts, *rest]

    def _title(self) -> str:
        message = self.message
        assert message is not None
        if len(message.reasoning) != self._thought_chars:
            self._thought_chars = len(message.reasoning)
            self._n_words = n_words(message.reasoning)
        words = count_text(self._n_words, "word")
        seconds = message.thought_seconds
        if self._thinking:
            return f"{self._sign} thinking · {words}"
        return f"{self._sign} thought{f' for {took(seconds)}' if seconds else ''} · {words}"

    @property
    def _sign(self) -> str:
        return "▾" if self.unfolded else "▸"

    @property
    def may_fold(self) -> bool:
        """It has reasoning, or files or pastes, or a summary stands in for it."""
        message = self.message
        return message is not None and bool(message.reasoning or message.parts or message.let_go)

    def fold(self) -> None:
        """Shows the reasoning, a summary, or the files and pastes of a question, or hides them."""
        if self.message is None or not self.may_fold:
            return
        self.unfolded = not self.unfolded
        if self.streaming:
            self._thought(self.message)
            self._numbered()
        else:
            self._again()
        self._changed(self)

    # ------------------------------------------------------------ beside the text

    def _footer_text(self) -> str:
        message = self.message
        if message is None or self.streaming:
            return ""
        gone = "" if message.let_go is None else "up to here out of the model's view"
        return printable(" · ".join(filter(None, (how_it_ended(message), self.footer, gone))))

    def _set_footer(self) -> None:
        parts, text = self.parts, self._footer_text()
        if parts and parts[-1].what == "footer":
            if text:
                parts[-1].change(text)
            else:
                parts.pop()
        elif text:
            parts.append(Part(self, text, "footer", _FOOTER))
        self._numbered()

    def set_footer(self, text: str) -> None:
        """A dim line below the message."""
        self.footer = text
        if self._parts is not None:
            self._set_footer()
        self._changed(self)

    def set_faded(self, faded: bool) -> None:
        """The model no longer sees it. Who says so of entries has them placed again."""
        if faded != self.faded:
            self.faded = faded
            self.resized()

    # ------------------------------------------------------------ what is in it

    @property
    def source(self) -> str:
        """What it says, as it was written."""
        if self.message is None:
            return (self._notice or ("",))[0]
        return printable(self.message.content)

    def blocks(self) -> list[Block]:
        """Its code blocks, those that were cut apart whole again."""
        blocks: list[Block] = []
        for part in self.parts:
            if part.what == "markdown":
                found = list(part.parsed().blocks)
                if part.joined and part.repeated and found and blocks and _is_fence(part):
                    first = found.pop(0)
                    blocks[-1] = Block(blocks[-1].language, f"{blocks[-1].code}\n{first.code}")
                blocks += found
        return blocks

    def block_of(self, part: Part, line: Line) -> int | None:
        """The number of the code block that a line belongs to."""
        if line.block < 0:
            return None
        n = 0
        for other in self.parts:
            if other.what != "markdown":
                continue
            if other.joined and other.repeated and _is_fence(other):
                n -= 1
            if other is part:
                return n + line.block
            n += len(other.parsed().blocks)
        return None

    def code_below(self, part: Part) -> int | None:
        """How many lines the code block that a part ends in has in the parts below; None where its
        end is not here yet."""
        n_lines, last = 0, part
        for below in self.parts[part.serial + 1 :]:
            if not (below.joined and _is_fence(below)):
                break
            n_lines += below.text.count("\n", below.repeated) + (below.text[-1:] != "\n")
            last = below
        lines = last.text.rstrip("\n").split("\n")
        closed = len(lines) > 1 and _is_fence(last) and set(lines[-1].strip()) in ({"`"}, {"~"})
        return n_lines - 1 if closed else None

    def _closed(self) -> None:
        """A block that was cut apart may have come to its end: its first part says its length."""
        body = [part for part in self.parts if part.what == "markdown"]
        for at in range(max(0, len(body) - 2), len(body)):
            head = at
            while head and body[head].joined:
                head -= 1
            if head < at:
                body[head].forget()


def _is_fence(part: Part) -> bool:
    return part.text.lstrip()[:1] in ("`", "~")
