"""A question as it is sent: the text, then the files that it names. What was pasted or attached is
known by its place, so that it can be shown folded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass

from tui.composing.draft import Draft
from tui.composing.files import TextFile, bytes_text


@dataclass(frozen=True, slots=True)
class Part:
    """The characters from `start` to `end` of a question stand folded as `label`. `file`: they are
    a file that goes along, else they were pasted."""

    start: int
    end: int
    label: str
    file: bool


@dataclass(frozen=True, slots=True)
class Question:
    """What the model is given, and its parts as they are stored with it; None: it has none."""

    content: str
    parts: str | None = None


def composed(draft: Draft, files: Sequence[tuple[TextFile, int | None]] = ()) -> Question:
    """The question of a draft and its files, each with its tokens where they are known."""
    content, parts = "", list[Part]()
    for label, text in draft.pieces():
        if label:
            parts.append(Part(len(content), len(content) + len(text), label, False))
        content += text
    for file, n_tokens in files:
        start = len(content)
        content += f"\n\n{file.block}" if content else file.block
        parts.append(Part(start, len(content), chip(file, n_tokens), True))
    return Question(content, json.dumps([astuple(part) for part in parts]) if parts else None)


def chip(file: TextFile, n_tokens: int | None) -> str:
    """`[notes.md, 3.1 KiB, 812 tokens]`."""
    tokens = "" if n_tokens is None else f", {n_tokens:,} tokens"
    return f"[{file.name}, {bytes_text(file.n_bytes)}{tokens}]"


def shown(content: str, parts: str | None) -> str:
    """A question with its parts folded: the labels stand in their places."""
    text = ""
    for label, piece, file in _pieces(content, parts):
        text += ("\n" if file and text else "") + (label or piece)
    return text


def asked(content: str, parts: str | None) -> Draft:
    """What was written to ask it: without the files, which are named in it."""
    kept = [(label, text) for label, text, file in _pieces(content, parts) if not file]
    return Draft(
        "".join(label or text for label, text in kept),
        {label: text for label, text in kept if label},
    )


def _pieces(content: str, parts: str | None) -> Iterator[tuple[str, str, bool]]:
    """Labels, texts, and whether they are files; the label of what is not folded is ""."""
    at = 0
    for part in _read(content, parts):
        if part.start > at:
            yield "", content[at : part.start], False
        yield part.label, content[part.start : part.end], part.file
        at = part.end
    if at < len(content):
        yield "", content[at:], False


def _read(content: str, parts: str | None) -> list[Part]:
    """The parts as they are stored; none where that does not fit the text (a damaged file)."""
    try:
        found = [Part(*values) for values in json.loads(parts or "[]")]
    except (ValueError, TypeError, RecursionError):
        return []
    at = 0
    for part in found:
        types = (type(part.start), type(part.end), type(part.label), type(part.file))
        if types != (int, int, str, bool) or not part.label or "\n" in part.label:
            return []
        if not at <= part.start < part.end <= len(content):
            return []
        at = part.end
    return found
