"""Where two texts differ, word by word."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from typing import NamedTuple

from tuner.units import count_text

MOST_WORDS = 4000  # of a text; what follows is not looked at, since time grows by the square

# A word or a sign; each character where a script has no spaces between words.
_WORD = re.compile("[\u3040-\u9fff]|[^\\W\u3040-\u9fff]+|[^\\w\\s]")

Spans = Mapping[int, Sequence[tuple[int, int]]]


class _Word(NamedTuple):
    text: str
    line: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Differences:
    """`left`, `right`: characters [start, end) by the number of their line, of what the other has
    not, or has not there."""

    left: Spans
    right: Spans
    n_first: int  # words that both begin with, without signs
    share: float  # of words and signs, those that both have in the same order, 0 to 1
    whole: bool  # all was looked at

    def __str__(self) -> str:
        """In a line."""
        if not self.left and not self.right and self.whole:
            return "the same, word for word"
        n = self.n_first
        first = f"the same for {count_text(n, 'word')}" if n else "other from the start"
        of = "" if self.whole else f" of the first {MOST_WORDS:,} words"
        return f"{first} · {self.share:.0%}{of} in both"


def differences(left: Sequence[str], right: Sequence[str]) -> Differences:
    """Where the words of two texts differ; each text as lines. Up to a second for long ones."""
    all_a, all_b = _words(left), _words(right)
    a, b = all_a[:MOST_WORDS], all_b[:MOST_WORDS]
    texts_a, texts_b = [word.text for word in a], [word.text for word in b]
    pairs = zip(texts_a, texts_b, strict=False)
    first = next((n for n, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
    matcher = SequenceMatcher(None, texts_a[first:], texts_b[first:])
    n_same = first
    only_a: list[_Run] = []
    only_b: list[_Run] = []
    for what, a_from, a_to, b_from, b_to in matcher.get_opcodes():
        if what == "equal":
            n_same += a_to - a_from
        else:
            only_a += _runs(a[first + a_from : first + a_to])
            only_b += _runs(b[first + b_from : first + b_to])
    n = len(a) + len(b)
    return Differences(
        _by_line(only_a),
        _by_line(only_b),
        n_first=sum(text.isalnum() for text in texts_a[:first]),
        share=2 * n_same / n if n else 1.0,
        whole=len(a) == len(all_a) and len(b) == len(all_b),
    )


_Run = tuple[int, tuple[int, int]]


def _words(lines: Sequence[str]) -> list[_Word]:
    return [_Word(m[0], n, *m.span()) for n, line in enumerate(lines) for m in _WORD.finditer(line)]


def _runs(words: Sequence[_Word]) -> list[_Run]:
    """Words that follow each other as one run in each line."""
    by_line = (list(run) for _, run in groupby(words, lambda word: word.line))
    return [(run[0].line, (run[0].start, run[-1].end)) for run in by_line]


def _by_line(runs: Sequence[_Run]) -> dict[int, list[tuple[int, int]]]:
    found: dict[int, list[tuple[int, int]]] = {}
    for line, span in runs:
        found.setdefault(line, []).append(span)
    return found
