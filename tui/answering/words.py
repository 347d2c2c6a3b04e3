"""A message in a few words: how it ended, what was thought before it, what became of its text."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from tui.storage import StoredMessage, Tree
from tuner.safe_text import one_line

# As word processors count: each character where a script has no spaces between words.
_WORD = re.compile("[\u3040-\u9fff]|[^\\s\u3040-\u9fff]+")

BACK = "the next message brings the model back"  # one that rests


def version_text(tree: Tree, message: StoredMessage) -> str:
    """Which of its versions a message is: ‹ 2/3 ›; "" where it has one."""
    versions = tree.versions(message)
    return "" if len(versions) == 1 else f"‹ {versions.index(message.id) + 1}/{len(versions)} ›"


def how_it_ended(message: StoredMessage) -> str:
    """What is not as it should be with a message, how an answer ended for example; "" where all
    is well."""
    if message.damaged:
        return "this message was damaged on disk: it may not say what it said"
    if message.state == "complete":
        only = message.reasoning and not message.content
        return "the model thought, and answered nothing" if only else ""
    how = {
        "stopped": "stopped",
        "max_tokens": "ends at --max-tokens",
        "context_full": "cut short: the context is full",
        "interrupted": "interrupted: kvchat ended while this was written",
        "error": "cut short by an error",
    }.get(message.state, message.state)
    if message.content:
        return how
    return f"{how} · nothing was {'answered yet' if message.reasoning else 'written'}"


def with_last_turn(report: str, reading: str, width: int) -> str:
    """A fit report below what of the last prompt had to be read; "" where nothing was asked yet."""
    return f"{textwrap.fill(f'Last turn: {reading}.', width)}\n\n{report}" if reading else report


def n_words(text: str) -> int:
    """How many words a text has."""
    return len(_WORD.findall(text))


def took(seconds: float) -> str:
    """A length of time as one says it."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes:
        return f"{minutes} min {rest} s"
    return f"{rest} s" if rest else "under 1 s"


def saved_to(path: Path, text: str, name: str) -> str:
    """Writes a text to a file, and says what became of it; `name`: what the text is. What is there
    already is never written over. Blocks."""
    where = one_line(str(path))
    try:
        with path.open("x", encoding="utf-8", errors="replace") as file:
            file.write(text if text.endswith("\n") else text + "\n")
    except FileExistsError:
        return f"{where} is there already; nothing was written"
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        return f"{where} cannot be written: {why}"
    return f"{name} saved to {where}"
