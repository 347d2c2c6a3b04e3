"""What the file holds, as dataclasses: a conversation, a message, and how both are read."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from tui.composing.draft import Draft
from tuner.safe_text import utf8

T = TypeVar("T")

_LARGEST = 1e11  # of a time in seconds, a count of tokens, a speed: more is damage
ROLES = ("user", "assistant")
DELETED = "deleted"  # a state


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation's own record. `head` is the id of the last message of the shown path."""

    id: str
    title: str
    created: float  # seconds since the epoch
    updated: float
    system_prompt: str | None = None
    head: str | None = None
    n_messages: int = 0  # all versions; filled when read


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message of the tree. `state` is complete, stopped, max_tokens,
    context_full, interrupted, error or deleted.

    A message that is still being written is saved as "interrupted", so that whatever ends the
    process leaves the truth on disk. One that was deleted stays without its words.
    """

    id: str
    parent_id: str | None
    role: str  # "user" | "assistant"
    content: str
    created: float
    state: str = "complete"
    reasoning: str = ""
    model_name: str | None = None
    model_fingerprint: str | None = None
    settings: str | None = None  # JSON of Settings and Sampling
    n_prompt: int | None = None  # tokens
    n_tokens: int | None = None  # tokens of this answer
    n_ctx_used: int | None = None  # tokens in the cache after it
    tokens_per_second: float | None = None
    thought_seconds: float | None = None  # of its reasoning
    parts: str | None = None  # JSON: what of a question is pasted or a file (composing/parts.py)
    # It and all before it are out of the model's view, which is given this instead, perhaps "".
    let_go: str | None = None
    n_reused: int | None = None  # tokens of the prompt that were in the cache already
    prompt_seconds: float | None = None  # in which the rest was read
    first_seconds: float | None = None  # from the asking to the first word, of a thought even
    damaged: bool = False  # it is not what was saved; filled when read


@dataclass(frozen=True, slots=True)
class Hit:
    """A conversation found by its text, with the words around the match."""

    conversation: Conversation
    excerpt: str
    message_id: str | None = None  # that holds the words; None where the title does


def record(kind: type[T], row: Mapping[str, Any]) -> T:
    """The dataclass that a row of the file holds. SQLite keeps a value of any type in any column,
    and a damaged file may have one: each is taken for what its field says, as well as it goes."""
    of: Any = kind
    found = {name: _value(hint, row.get(name)) for name, hint in _hints(of).items()}
    if found.get("role", ROLES[0]) not in ROLES:
        found["role"] = ROLES[1]
    return kind(**found)


def stored_message(row: Mapping[str, Any]) -> StoredMessage:
    """The message of a row, held against the checksum that was saved with it. SQLite notices
    damage to what holds a text together, not to the text."""
    found = record(StoredMessage, row)
    saved = row.get("checksum")
    return replace(found, damaged=saved is not None and saved != checksum(found))


def draft(row: Mapping[str, Any]) -> Draft:
    """The draft of a row; what its folds hold is lost where that is damaged."""
    try:
        stated = json.loads(_value(str, row.get("folds")))
    except (ValueError, RecursionError):
        stated = {}
    folds = stated if isinstance(stated, dict) else {}
    kept = {label: text for label, text in folds.items() if label and isinstance(text, str)}
    return Draft(_value(str, row.get("text")), kept)


def draft_values(draft: Draft) -> tuple[str, str]:
    """The text and the folds of a draft as they are stored."""
    return utf8(draft.text), json.dumps(dict(draft.folds))


def checksum(message: StoredMessage) -> int:
    """CRC-32 of what was said, and by whom, as it is stored."""
    said = "\0".join((message.role, message.content, message.reasoning))
    return zlib.crc32(utf8(said).encode())


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}


def _value(hint: Any, value: Any) -> Any:
    optional = NoneType in get_args(hint)
    if optional and value is None:
        return None
    plain = next((a for a in get_args(hint) if a is not NoneType), hint)
    if plain is str:
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        return "" if value is None else utf8(str(value))
    number = value if isinstance(value, int | float) else math.nan
    if not 0 <= number <= _LARGEST:
        return None if optional else plain(0)
    return plain(number)
