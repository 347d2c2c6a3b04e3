"""Text that others wrote (a model, a file, another program), made safe for a terminal."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

# A terminal obeys control characters: text could move the cursor, change the title or fill the
# clipboard. Tab and line feed stay. Overrides of the writing direction would show a text in another
# order than it has; half a surrogate pair cannot be written at all.
_REMOVED = (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SURROGATES = range(0xD800, 0xE000)
_SAFE: dict[int, str | None] = {
    **{code: None for code in _REMOVED if chr(code) not in "\t\n"},
    **dict.fromkeys(_SURROGATES, "\ufffd"),
    0x1B: "␛",
}
_PLAIN = set(range(0x20, 0x7F)) - set(b"'\\")  # bytes that quotes keep as they are
_WHOLE = dict.fromkeys(_SURROGATES, "\ufffd")
_LINE_ENDS = dict.fromkeys(map(ord, "\t\n\u2028\u2029"), " ")


def printable(text: str) -> str:
    """The text without what steers a terminal; an escape shows as ␛."""
    return text.translate(_SAFE)


def utf8(text: str) -> str:
    """The text as UTF-8 can hold it: it is kept in a file or given to the engine. Halves of
    surrogate pairs come from arguments, files and pipes that are not UTF-8."""
    return text.translate(_WHOLE)


def pasted(text: str) -> str:
    """A text from the clipboard, safe to be shown while it is written. Terminals send the ends of
    its lines as carriage returns."""
    return printable(text.replace("\r\n", "\n").replace("\r", "\n"))


def one_line(text: str) -> str:
    """The same on one line, for names, titles and messages."""
    return printable(text).translate(_LINE_ENDS).strip()


def cut(name: str, most: int = 60) -> str:
    """A name out of a file as messages show it: on one line of at most `most` characters."""
    line = one_line(name[: most + 1])
    return line if len(name) <= most else line[: most - 1] + "…"


def quoted(name: str, most: int = 60) -> str:
    """The same in quotes, what cannot be printed escaped."""
    return repr(name if len(name) <= most else name[: most - 1] + "…")


def shell_quoted(path: Path | str) -> str:
    """A path as a shell takes it for one word, whatever bytes it has: printable in any case."""
    text = str(path)
    return shell_word(f"./{text}" if text.startswith("-") else text)


def shell_word(text: str) -> str:
    """Any text as a POSIX shell takes it for one word, likewise."""
    if text.isprintable():
        return shlex.quote(text)
    safe = (chr(byte) if byte in _PLAIN else f"\\x{byte:02x}" for byte in os.fsencode(text))
    return f"$'{''.join(safe)}'"
