"""Words looked for in texts."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.safe_text import one_line

MOST = 200  # texts that are found
BEFORE = 24  # characters of a text that stand before the first word that was found
LINE = 400  # characters of a text that are shown


def holding(words: str, texts: Sequence[str]) -> list[str]:
    """The texts that hold every word, in their order, so many at most. Upper and lower case are
    alike."""
    wanted = [word.casefold() for word in words.split()]
    found: list[str] = []
    for text in texts:
        if len(found) == MOST:
            break
        folded = text.casefold()
        if all(word in folded for word in wanted):
            found.append(text)
    return found


def excerpt(text: str, words: str) -> str:
    """A line of a text: its beginning, or where the words stand first where that is further on."""
    line = one_line(text)
    folded = line.casefold()
    places = [at for word in words.split() if (at := folded.find(word.casefold())) >= 0]
    first = min(places, default=0)
    if first <= 2 * BEFORE:
        return line[:LINE]
    return f"…{line[first - BEFORE : first - BEFORE + LINE]}"
