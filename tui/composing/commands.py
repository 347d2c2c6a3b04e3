"""A draft that begins with a slash: a command, or a text after all."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tui.composing.completion import Choice
from tui.keymap import ACTIONS, Action, Keymap, Place
from tuner.safe_text import one_line

_COMMAND = re.compile(r"/([A-Za-z][\w-]*)?(?![\w/.])")  # a path goes on after its first name
_TYPED = re.compile(r"/[A-Za-z-]*")
COMMANDS = {row.slash: row for row in ACTIONS if row.slash}
WAY_OUT = "a space before it sends it as text"
PLACES = (Place.CHAT, Place.APP, Place.PROMPT)


class UnknownCommandError(Exception):
    """A command that there is not; `str()` says so, and how it is sent as a text."""


def command(text: str) -> tuple[Action, str] | None:
    """The command that a draft is, and what follows it; None: it is a text to be sent. Raises
    UnknownCommandError."""
    found = parted(text)
    if found is None:
        return None
    word, rest = found
    row = COMMANDS.get(word)
    if row is None:
        raise UnknownCommandError(f"there is no command {one_line(f'/{word}')[:40]} · {WAY_OUT}")
    if rest and not (row.takes and len(rest.split()) == 1):
        most = f"no more than {row.takes}" if row.takes else "nothing"
        raise UnknownCommandError(f"{most} goes after /{row.slash} · {WAY_OUT}")
    return row, rest


def parted(text: str) -> tuple[str, str] | None:
    """The word after the slash, in small letters, and what goes after that; None: it is a text."""
    match = _COMMAND.match(text)
    return match and ((match[1] or "").lower(), text[match.end() :].strip())


def as_text(text: str) -> str:
    """What is sent of a text that begins with a slash: the second slash, or the space before the
    first, only says that it is no command."""
    return text[1:] if text.startswith(("//", " /")) else text


def choices(typed: str, keymap: Keymap) -> Iterator[Choice]:
    """The commands that begin as a draft does, if it may become one."""
    if _TYPED.fullmatch(typed):
        for slash, row in COMMANDS.items():
            if slash.startswith(typed[1:].lower()):
                yield Choice(f"/{slash}", f"{keymap.label(row.id)} · {row.does}")
