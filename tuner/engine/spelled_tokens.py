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
from functools import cached_property
from itertools import groupby

from tuner.engine.protocol import Message

# Goes with the text through its template: no character (Unicode, 23.7), no space, without case.
_SPLIT = "\ufdd0"
_HEAD = 4  # characters by which the pattern is parted: some vocabularies have thousands


class SpelledTokens:
    """The tokens of one vocabulary that a template, and nobody else, is to write."""

    def __init__(self, tokens: Iterable[tuple[str, bool]], template: str):
        """`tokens`: its special (true) and user-defined (false) tokens. The latter are tokens in
        any text, and are the template's where it names them: llama.cpp calls gpt-oss's channels
        user-defined (llama_vocab::impl::load, llama-vocab.cpp)."""
        all_tokens = {text: special for text, special in tokens if len(text) > 1}
        self._user_defined = tuple(
            text
            for text, special in all_tokens.items()
            if not special and text in template and not (text[0].isspace() or text[0].isalnum())
        )
        special = (text for text, special in all_tokens.items() if special)
        self._one = _any(sorted({*special, *self._user_defined}))
        self._begins = re.compile(rf"(?={self._one})(.)", re.DOTALL)

    @cached_property
    def _tokens(self) -> re.Pattern[str]:
        return re.compile(f"({self._one})")

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
        for piece in self._tokens.split(text) if _SPLIT in text else (text,):
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
        return self._begins.sub(rf"\1{_SPLIT}", text)


def joined(text: str) -> str:
    """A text whose tokens were split, as it was."""
    return text.replace(_SPLIT, "")


def _any(texts: Sequence[str], head: int = _HEAD) -> str:
    """A pattern of the longest of sorted texts, which looks at each only where its head is."""
    if not head:
        return f"(?:{'|'.join(map(re.escape, reversed(texts)))})"
    by_first = [
        f"{re.escape(first)}{_any([text[1:] for text in among], head - 1)}" if first else ""
        for first, among in groupby(texts, key=lambda text: text[:1])
    ]
    return f"(?:{'|'.join(reversed(by_first))})" if by_first else "(?!)"
