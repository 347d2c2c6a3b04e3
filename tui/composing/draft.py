"""What is being written: a text in which long pastes stand folded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tuner.units import count_text

FOLD_LINES = 20  # a paste of more lines folds,
FOLD_CHARS = 4000  # and one of more characters, however few its lines


@dataclass(frozen=True, slots=True)
class Draft:
    """`text` as it is seen; `folds`: what each label in it stands for."""

    text: str = ""
    folds: Mapping[str, str] = field(default_factory=dict)

    @property
    def whole(self) -> str:
        """The text with every fold open."""
        return "".join(text for _, text in self.pieces())

    def pieces(self) -> Iterator[tuple[str, str]]:
        """The draft in order, as labels and their texts; "" is the label of what is not folded."""
        at = 0
        for start, end in spans(self.text, self.folds):
            if start > at:
                yield "", self.text[at:start]
            label = self.text[start:end]
            yield label, self.folds[label]
            at = end
        if at < len(self.text):
            yield "", self.text[at:]

    def pruned(self) -> Draft:
        """The same without folds that are no longer in the text."""
        return Draft(self.text, {label: text for label, text in self.pieces() if label})

    def rewritten(self, whole: str) -> Draft:
        """Another text for all of it: what was folded and still stands there is folded again."""
        parts = [("", whole)]
        for label, folded in self.pruned().folds.items():
            cut: list[tuple[str, str]] = []
            for of, text in parts:
                before, found, after = ("", "", "") if of else text.partition(folded)
                whole_part = of or not found
                cut += [(of, text)] if whole_part else [("", before), (label, found), ("", after)]
            parts = cut
        return Draft("".join(label or text for label, text in parts), self.folds).pruned()


def spans(text: str, labels: Mapping[str, str]) -> Iterator[tuple[int, int]]:
    """Where labels stand in a text, from the first to the last."""
    if labels:
        # The longest first: one may begin as another does.
        longest = sorted(labels, key=len, reverse=True)
        for match in re.finditer("|".join(map(re.escape, longest)), text):
            yield match.span()


def folds(text: str) -> bool:
    """Whether a text that comes in at once is too long to be shown whole."""
    return text.count("\n") >= FOLD_LINES or len(text) > FOLD_CHARS


def label(text: str, n_tokens: int | None, taken: Mapping[str, str]) -> str:
    """`[200 lines, 1,412 tokens]`, or the characters where the tokens are not counted. `taken`:
    the labels that there are; none comes to stand for two texts."""
    n_lines = len(text.splitlines())
    size = f"{len(text):,} characters" if n_tokens is None else f"{n_tokens:,} tokens"
    name = f"{count_text(n_lines, 'line')}, {size}"
    found, number = f"[{name}]", 1
    while taken.get(found, text) != text:
        number += 1
        found = f"[{name}, no. {number}]"
    return found
