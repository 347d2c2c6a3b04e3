"""Markdown of a model as lines: nothing it writes is lost, nothing it writes is obeyed.

Each line of the source is a line here: what a model writes on two lines is read on two. So a line
knows its place in the source, and what is selected can be copied as it was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from tui.widgets.reading.code import coloured
from tui.widgets.reading.lines import Block, Cell, Kind, Line, Lines, Span, Table
from tui.widgets.reading.maths import SUSPICIOUS, readable
from tuner.safe_text import printable

TAB = 4  # columns

_STYLED = {"em_open": "em", "strong_open": "strong", "s_open": "strike", "link_open": "link"}
_DOLLARS = re.compile(r"\$(?![\s$])([^$\n]*[^\s$\\])\$(?!\d)")
_BRACKETS = {"(": "\\)", "[": "\\]"}


def _parser() -> MarkdownIt:
    # Without HTML: parsed as such, `Vec<String>` outside a code span would vanish. Without
    # references: `[1]: http://...` would, too, and what is cut apart cannot refer to each other.
    parser = MarkdownIt("gfm-like", {"html": False})
    parser.disable("reference")
    return parser


@cache
def _blocks() -> MarkdownIt:
    """Finds blocks alone: what is in them is parsed by `_drawn`, which remembers."""
    parser = _parser()
    parser.block.ruler.before("fence", "display", _display, {"alt": ["paragraph"]})
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


@cache
def _inlines() -> MarkdownIt:
    parser = _parser()
    parser.inline.ruler.before("escape", "maths", _maths)
    parser.core.ruler.push("printable", _printable)
    return parser


def _printable(state: StateCore) -> None:
    """What was written as an entity (`&#x202e;`) is a character only now."""
    waiting = list(state.tokens)
    while waiting:
        token = waiting.pop()
        token.content = printable(token.content)
        waiting += token.children or ()


def _maths(state: StateInline, silent: bool) -> bool:
    """`\\(...\\)`, `\\[...\\]`, `$$...$$`, and `$...$` where it looks like maths and not like two
    prices."""
    source, at = state.src, state.pos
    opening = source[at : at + 2]
    if opening == "$$" or (opening[:1] == "\\" and opening[1:] in _BRACKETS):
        closing = "$$" if opening == "$$" else _BRACKETS[opening[1:]]
        end = source.find(closing, at + 2)
        if end <= at + 2:
            return False
        inside, after = source[at + 2 : end], end + 2
    elif opening[:1] == "$" and (found := _DOLLARS.match(source, at)):
        inside, after = found[1], found.end()
        if not SUSPICIOUS.search(inside):
            return False
    else:
        return False
    if after > state.posMax:
        return False
    if not silent:
        state.push("maths", "", 0).content = inside
    state.pos = after
    return True


def _display(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """`\\[` or `$$` on a line of its own, up to what closes it: no list or heading is in there."""
    first = _source_line(state, start)
    closing = {"\\[": "\\]", "$$": "$$"}.get(first)
    if closing is None:
        return False
    for line in range(start + 1, end):
        if _source_line(state, line) == closing:
            break
    else:
        return False
    if not silent:
        token = state.push("display", "", 0)
        token.content = state.getLines(start + 1, line, state.blkIndent, False)
        token.map = [start, line + 1]
    state.line = line + 1
    return True


def _source_line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]].strip()


def parse(text: str, *, joined: bool = False, continues: bool = False) -> Lines:
    """Markdown as lines. `joined`: it goes on with the block that the text before it ended in, of
    which it repeats the opening; `continues`: another text goes on with the block at its end."""
    tokens = _blocks().parse(text)
    writer = _Writer(text, joined, continues)
    writer.write(tokens)
    return Lines(tuple(writer.lines), tuple(writer.blocks))


@dataclass(slots=True)
class _Container:
    """A list item or a quote around what is written: what stands before its first line, and before
    the others."""

    first: tuple[str, str]
    rest: tuple[str, str]
    begun: bool = False


class _Writer:
    """Goes over the tokens of a text and writes its lines."""

    def __init__(self, text: str, joined: bool, continues: bool):
        self.lines: list[Line] = []
        self.blocks: list[Block] = []
        self._joined = joined
        self._continues = continues
        self._source = text.split("\n")
        self._starts = [0]
        for row in self._source:
            self._starts.append(self._starts[-1] + len(row) + 1)
        self._containers: list[_Container] = []
        self._numbers: list[int | None] = []  # of the next item of each list; None: bullets
        self._airy = False  # a blank row belongs below what was written last
        self._style = ""  # of the block that is open

    def write(self, tokens: Sequence[Token]) -> None:
        ahead = iter(tokens)
        for token in ahead:
            kind = token.type
            if kind == "inline":
                self._lines_of(token)
            elif kind == "heading_open":
                self._style = token.tag
            elif kind == "heading_close":
                self._style = ""
            elif kind in ("fence", "code_block"):
                self._code(token)
            elif kind == "display":
                self._maths_block(token)
            elif kind == "table_open":
                self._table(token, ahead)
            elif kind == "hr":
                self._emit("", style="rule", kind=Kind.RULE, at=self._map(token)[0])
            elif kind == "bullet_list_open":
                self._numbers.append(None)
            elif kind == "ordered_list_open":
                self._numbers.append(int(token.attrs.get("start", 1)))
            elif kind in ("bullet_list_close", "ordered_list_close"):
                self._numbers.pop()
            elif kind == "list_item_open":
                self._item()
            elif kind == "blockquote_open":
                self._containers.append(_Container(("▎ ", "quote-mark"), ("▎ ", "quote-mark")))
            elif kind in ("list_item_close", "blockquote_close"):
                if not self._containers[-1].begun:
                    self._emit("", at=self._map(token)[0] if token.map else None)
                self._containers.pop()

    def _map(self, token: Token) -> tuple[int, int]:
        """The lines of the source [first, last) that a block is made of."""
        first, last = token.map or (0, len(self._source))
        return first, max(first + 1, min(last, len(self._source)))

    def _item(self) -> None:
        number = self._numbers[-1]
        if number is None:
            mark = "• "
        else:
            mark, self._numbers[-1] = f"{number}. ", number + 1
        self._containers.append(_Container((mark, "mark"), (" " * len(mark), "")))

    def _leads(self) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
        first = tuple(one.rest if one.begun else one.first for one in self._containers)
        for one in self._containers:
            one.begun = True
        return first, tuple(one.rest for one in self._containers)

    def _emit(
        self,
        text: str,
        spans: tuple[Span, ...] = (),
        *,
        style: str = "",
        kind: Kind = Kind.TEXT,
        at: int | None = None,
        until: int | None = None,
        airy: bool | None = None,
        block: int = -1,
        table: Table | None = None,
        row: int = 0,
    ) -> None:
        """Writes a line that stands in the lines [at, until) of the source; None: nowhere. `airy`:
        a blank row is around its block; None: it goes on with what was written last."""
        if at is None:
            start = end = self.lines[-1].end if self.lines else 0
        else:
            start, end = self._starts[at], self._starts[at if until is None else until - 1]
            end += len(self._source[at if until is None else until - 1])
        if not self.lines:
            gap = not self._joined
        elif airy is None:
            gap = False
        else:
            blank = at is not None and at > 0 and not self._source[at - 1].strip(" \t>")
            gap = blank or airy or self._airy
        if airy is not None:
            self._airy = airy
        inherited = "quote" if any(one.first[0] == "▎ " for one in self._containers) else ""
        first, rest = self._leads()
        self.lines.append(
            Line(text, spans, style or inherited, kind, first, rest, gap, start, end,
                 block, table, row)
        )  # fmt: skip

    def _lines_of(self, token: Token) -> None:
        first, last = self._map(token)
        drawn = _drawn(token.content)
        for n, (text, spans) in enumerate(drawn):
            at = first + n if first + n < last else None
            until = last if n == len(drawn) - 1 and at is not None else None
            self._emit(
                text, spans, style=self._style, at=at, until=until,
                airy=self._style != "" if n == 0 else None,
            )  # fmt: skip
        if self._style:
            self._airy = False

    def _code(self, token: Token) -> None:
        first, last = self._map(token)
        fenced = token.type == "fence"
        words = token.info.split()
        language = printable(words[0]) if words else ""
        code = token.content.removesuffix("\n")
        block = len(self.blocks)
        self.blocks.append(Block(language, code))
        at = first
        closes = fenced and last - first > code.count("\n") + 2
        if fenced:
            if not (self._joined and not self.lines):
                self._emit(
                    language, style="label", kind=Kind.RULE, at=first, airy=True, block=block
                )
            at += 1
        colours = coloured(code.expandtabs(TAB), language)
        rows = code.split("\n") if token.content else []
        for n, row in enumerate(rows):
            here = at + n if at + n < last else None
            self._emit(
                row.expandtabs(TAB), tuple(colours[n]), style="code", kind=Kind.CODE, at=here,
                airy=None if fenced or n else True, block=block,
            )  # fmt: skip
        at_end = self._continues and last >= len(self._source) - 1 and not self._containers
        if fenced and not at_end:
            self._emit(
                "", style="label", kind=Kind.RULE, at=last - 1 if closes else None, block=block
            )
        self._airy = True

    def _maths_block(self, token: Token) -> None:
        first, last = self._map(token)
        rows = [row.strip() for row in readable(token.content.rstrip("\n")).split("\n")]
        self._containers.append(_Container(("  ", ""), ("  ", "")))
        for n, row in enumerate(rows):
            at = first + n if first + n < last else None
            until = last if n == len(rows) - 1 and at is not None else None
            self._emit(row, style="maths", at=at, until=until, airy=True if n == 0 else None)
        self._containers.pop()

    def _table(self, opening: Token, ahead: Iterator[Token]) -> None:
        first, last = self._map(opening)
        aligns: list[str] = []
        rows: list[list[Cell]] = []
        for token in ahead:
            if token.type == "table_close":
                break
            if token.type == "tr_open":
                rows.append([])
            elif token.type == "th_open":
                style = str(token.attrs.get("style", ""))
                aligns.append(style.partition("text-align:")[2] or "left")
            elif token.type == "inline":
                text, spans = _drawn(token.content)[0]
                rows[-1].append(Cell(text, spans))
        table = Table(tuple(map(tuple, rows)), tuple(aligns))
        repeated = self._joined and not self.lines
        for n in range(1 if repeated else 0, len(rows)):
            text, spans = joined_cells(table.rows[n])
            at = first + n + (n > 0)
            self._emit(
                text, spans, style="head" if n == 0 else "", kind=Kind.TABLE, table=table, row=n,
                at=at if at < last else None, airy=True if n == 0 else None,
            )  # fmt: skip
            if n == 0:
                self._emit("", style="label", kind=Kind.TABLE, table=table, row=-1,
                           at=first + 1 if first + 1 < last else None)  # fmt: skip
        self._airy = True


def joined_cells(cells: Sequence[Cell]) -> tuple[str, tuple[Span, ...]]:
    """A row of a table as one line."""
    spans: list[Span] = []
    at = 0
    for cell in cells:
        spans += (Span(s.start + at, s.end + at, s.style, s.link) for s in cell.spans)
        at += len(cell.text) + len(BETWEEN)
    return BETWEEN.join(cell.text for cell in cells), tuple(spans)


BETWEEN = "  "  # two cells of a table, where they are copied


@lru_cache(maxsize=1024)
def _drawn(source: str) -> tuple[tuple[str, tuple[Span, ...]], ...]:
    """The lines of what stands in a block, one at least, each with its spans. While an answer
    streams in, most of them are those of the drawing before."""
    texts: list[str] = []
    spans: list[Span] = []
    stack: list[tuple[str, int, str]] = []
    at = 0

    def add(text: str, style: str = "", link: str = "") -> None:
        nonlocal at
        texts.append(text)
        if style and text:
            spans.append(Span(at, at + len(text), style, link))
        at += len(text)

    inline = _inlines().parseInline(source)
    for token in inline[0].children or () if inline else ():
        kind = token.type
        if kind in ("softbreak", "hardbreak"):
            add("\n")
        elif kind == "code_inline":
            add(token.content.expandtabs(TAB), "inline-code")
        elif kind == "maths":
            add(readable(token.content), "maths")
        elif kind == "image":
            add(f"🖼 {token.content or 'image'}", "link", str(token.attrs.get("src", "")))
        elif kind in _STYLED:
            stack.append((_STYLED[kind], at, str(token.attrs.get("href", ""))))
        elif kind.endswith("_close") and stack:
            style, start, link = stack.pop()
            if at > start:
                spans.append(Span(start, at, style, link))
        else:
            add(token.content.replace("\t", " "))
    text = "".join(texts)
    if "\n" not in text:
        return ((text.rstrip(), tuple(spans)),)
    lines: list[tuple[str, tuple[Span, ...]]] = []
    start = 0
    for row in text.split("\n"):
        end = start + len(row)
        inside = (
            Span(max(s.start, start) - start, min(s.end, end) - start, s.style, s.link)
            for s in spans
            if s.start < end and s.end > start
        )
        lines.append((row.rstrip(), tuple(inside)))
        start = end + 1
    return tuple(lines)
