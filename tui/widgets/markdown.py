"""Markdown of a model: nothing it writes is lost, nothing it writes is obeyed."""

from __future__ import annotations

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets.markdown import Markdown, MarkdownBlock

from tui.widgets.segments import Piece, Segmenter
from tuner.safe_text import printable


def _parser() -> MarkdownIt:
    # Textual draws no HTML: parsed as such, `Vec<String>` outside a code span would vanish.
    parser = MarkdownIt("gfm-like", {"html": False})
    parser.core.ruler.push("printable", _printable)
    return parser


def _printable(state: StateCore) -> None:
    """What was written as an entity (`&#x202e;`) is a character only now."""
    waiting = list(state.tokens)
    while waiting:
        token = waiting.pop()
        token.content = printable(token.content)
        waiting += token.children or ()


_TextualTable = Markdown.BLOCKS["table_open"]


class _Table(_TextualTable):  # type: ignore[valid-type,misc]
    """Drawn anew when a row is added. Textual's way of adding rows fails where the last row turns
    out to be none, as the first backticks of a fence below a table do."""

    async def _update_from_block(self, block: MarkdownBlock) -> None:
        await MarkdownBlock._update_from_block(self, block)


class Segment(Markdown):
    """A part of an answer, small enough to be drawn again many times a second."""

    def __init__(self, text: str = ""):
        super().__init__(text, parser_factory=_parser, open_links=False)

    def get_block_class(self, block_name: str) -> type[MarkdownBlock]:
        return _Table if block_name == "table_open" else super().get_block_class(block_name)


class MarkdownText(Vertical):
    """Markdown that may grow at its end, at a cost that does not depend on its length."""

    def __init__(self, text: str = ""):
        super().__init__()
        self._segmenter = Segmenter()
        self._segments: list[Segment] = []
        for text_so_far, joined in _whole(self._segmenter.feed(printable(text))):
            self._add(text_so_far, joined)

    def compose(self) -> ComposeResult:
        yield from self._segments

    def _add(self, text: str, joined: bool) -> Segment:
        segment = Segment(text)
        if joined and self._segments:
            segment.add_class("-joined")
            self._segments[-1].add_class("-continues")
        self._segments.append(segment)
        return segment

    async def feed(self, text: str, final: bool = False) -> None:
        """Appends text; `final` draws what was held back."""
        for piece in self._segmenter.feed(printable(text), final):
            if piece.fresh:
                # Empty at first: Markdown goes on where its last *line* began after an initial
                # text, and would forget that it is in a fence; after `append` it knows the block.
                await self.mount(self._add("", piece.joined))
            await self._segments[-1].append(piece.text)

    async def clear(self) -> None:
        self._segmenter = Segmenter()
        self._segments.clear()
        await self.remove_children()


def _whole(pieces: list[Piece]) -> list[tuple[str, bool]]:
    """The text of each segment and whether it is joined to the one before."""
    segments: list[tuple[str, bool]] = []
    for piece in pieces:
        if piece.fresh:
            segments.append((piece.text, piece.joined))
        else:
            text, joined = segments[-1]
            segments[-1] = (text + piece.text, joined)
    return segments
