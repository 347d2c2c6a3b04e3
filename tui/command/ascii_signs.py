"""ASCII for what a stream's encoding cannot carry: an error handler of Python's codecs, so that
whatever is written comes through it, the report's bars and the borders of the screens alike."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from tuner.cells import cells

FOR_TEXT = "kvchat.text"
FOR_SCREENS = "kvchat.screens"  # keeps the cells: what is drawn beside it must not move

_SIGNS = {
    "█": "#", "▓": "=", "▒": "+", "░": ":", "×": "x", "·": ".",  # the bars of the report
    "…": "~", "≈": "~", "‐": "-", "‑": "-", "–": "-", "—": "-", "−": "-", "•": "*", "●": "*",
    "○": "o", "‘": "'", "’": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "✓": "v",
    "✗": "x", "→": ">", "←": "<", "↑": "^", "↓": "v", "▶": ">", "◀": "<", "▲": "^", "▼": "v",
    "▸": ">", "◂": "<", "▾": "v", "‹": "<", "›": ">", "≤": "<", "≥": ">",
    "ß": "s", "€": "E", "⏎": "<", "␛": "^", "\N{NO-BREAK SPACE}": " ",
}  # fmt: skip
_LONGER = {"…": "...", "→": "->", "←": "<-", "␛": "^[", "≤": "<=", "≥": ">=", "ß": "ss", "€": "EUR"}
_ACROSS = {"HORIZONTAL", "LEFT", "RIGHT"}  # in the names of box drawings
_UP_AND_DOWN = {"VERTICAL", "UP", "DOWN"}


def _box(name: str) -> str:
    """A line or a corner for a box drawing or a block, by its Unicode name."""
    words = set(name.split())
    if name.startswith("BOX DRAWINGS"):
        across, down = words & _ACROSS, words & _UP_AND_DOWN
    else:
        across, down = words & {"UPPER", "LOWER"}, words & {"LEFT", "RIGHT"}
    return "+" if across and down else "-" if across else "|" if down else "#"


@lru_cache(maxsize=1024)
def _cell(char: str) -> str:
    """ASCII of as many cells as the character has."""
    if char in _SIGNS:
        return _SIGNS[char]
    name = unicodedata.name(char, "")
    if name.startswith("BOX DRAWINGS") or "BLOCK" in name or "QUADRANT" in name:
        return _box(name)
    if name.startswith("BRAILLE PATTERN"):
        return "*"
    plain = unicodedata.normalize("NFKD", char)[0]
    return plain.ljust(cells(char)) if plain.isascii() else "?" * cells(char)


def _sign(char: str) -> str:
    """ASCII that reads best, of any length."""
    return _LONGER.get(char) or _cell(char) or ""


def _handler(sign: Callable[[str], str]) -> Callable[[UnicodeError], tuple[str | bytes, int]]:
    def replaced(error: UnicodeError) -> tuple[str | bytes, int]:
        if isinstance(error, UnicodeEncodeError):
            return "".join(map(sign, error.object[error.start : error.end])), error.end
        return codecs.replace_errors(error)  # whoever reads what was written to the stream

    return replaced


codecs.register_error(FOR_TEXT, _handler(_sign))
codecs.register_error(FOR_SCREENS, _handler(_cell))
