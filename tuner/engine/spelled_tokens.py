"""Special tokens that somebody spells out: in what was said they are text, and nothing else.

A template writes its control tokens as text, so a prompt is read with llama.cpp's `parse_special`.
With that alone a question about `</s>`, or a pasted page that has it, would end its turn there, and
a pasted `<|im_start|>system` would begin another (llama.cpp's own chats let it). A system prompt is
its owner's: some makers ask for tokens there, as Mistral does for Magistral's [THINK].
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from tuner.engine.protocol import Message

# Goes with the text through its template: no character (Unicode, 23.7), no space, without case.
_SPLIT = "\ufdd0"


class SpelledTokens:
    """The tokens of one vocabulary that a template, and nobody else, is to write."""

    def __init__(self, tokens: Iterable[tuple[str, bool]], template: str):
        """`tokens`: its special (true) and user-defined (false) tokens. The latter are tokens in
        any text, and are the template's where it names them: llama.cpp calls gpt-oss's channels
        user-defined (llama_vocab::impl::load, llama-vocab.cpp)."""
        special, defined = set[str](), set[str]()
        for text, is_special in tokens:
            if len(text) > 1 and (is_special or not (text[0].isspace() or text[0].isalnum())):
                (special if is_special else defined).add(text)
        self._user_defined = {token for _, token in _Finder(defined).found(template)}
        self._found = _Finder(special | self._user_defined).found

    def split(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The same, with what would become a token of what was said split in two."""
        return tuple(
            message
            if message.role == "system"
            else replace(
                message,
                content=self._split(message.content),
                reasoning=self._split(message.reasoning),
            )
            for message in messages
        )

    def fragments(self, text: str) -> Iterator[tuple[str, bool]]:
        """A prompt of split messages in pieces to be tokenized, and `parse_special` of each. They
        are cut at tokens, where llama.cpp cuts too, and in those that are tokens in any text."""
        meant = ""
        for piece in self._parted(text) if _SPLIT in text else (text,):
            if _SPLIT in piece:
                yield meant, True
                whole = joined(piece)
                cut = any(token in whole for token in self._user_defined)
                yield from ((part, False) for part in (piece.split(_SPLIT) if cut else (whole,)))
                meant = ""
            else:
                meant += piece
        yield meant, True

    def _split(self, text: str) -> str:
        cuts = (at + 1 for at, _ in self._found(text))
        return _SPLIT.join(text[a:b] for a, b in pairwise((0, *cuts, len(text))))

    def _parted(self, text: str) -> Iterator[str]:
        """Its tokens, and what is between them."""
        end = 0
        for at, token in self._found(text):
            if at >= end:
                yield from (text[end:at], token)
                end = at + len(token)
        yield text[end:]


class _Finder:
    """Finds some texts in others. A pattern of thousands would take seconds to make."""

    def __init__(self, texts: set[str]):
        self._texts = texts
        self._lengths = sorted(set(map(len, texts)), reverse=True)
        firsts = "".join(map(re.escape, sorted({text[0] for text in texts})))
        self._begins = re.compile(f"[{firsts}]" if firsts else "(?!)")

    def found(self, text: str) -> Iterator[tuple[int, str]]:
        """Where any begins, and the longest that does."""
        for match in self._begins.finditer(text):
            at = match.start()
            for n in self._lengths:
                if text[at : at + n] in self._texts:
                    yield at, text[at : at + n]
                    break


def joined(text: str) -> str:
    """A text whose tokens were split, as it was."""
    return text.replace(_SPLIT, "")
