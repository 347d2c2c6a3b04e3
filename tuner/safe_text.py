"""Text that others wrote, made safe for a terminal."""

from __future__ import annotations

# A terminal obeys control characters, so that a model (or a file's name for itself) could move the
# cursor, change the title or fill the clipboard. Tab and line feed stay.
_CONTROLS = {
    code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"
} | {0x1B: "␛"}


def printable(text: str) -> str:
    """The text without control characters; an escape shows as ␛."""
    return text.translate(_CONTROLS)


def one_line(text: str) -> str:
    """The same on one line, for names and titles."""
    return " ".join(printable(text).split())
