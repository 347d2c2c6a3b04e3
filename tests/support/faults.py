"""What may happen to a file, as kinds: each changes bytes by a generator of chance, so that a seed
plays the same fault again. For the tests and for `bench/faults.py`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

from tui.storage import Conversation, Conversations, StoredMessage

_PAGE = 4096  # bytes of a page of SQLite's
Damage = Callable[[random.Random, bytearray], None]

# ---------------------------------------------------------------- databases


def _flip(chance: random.Random, raw: bytearray) -> None:
    for _ in range(chance.choice((1, 3, 20, 200))):
        raw[chance.randrange(len(raw))] = chance.randrange(256)


def _page(chance: random.Random, raw: bytearray) -> None:
    for _ in range(chance.randint(1, 6)):
        at = _PAGE * chance.randrange(len(raw) // _PAGE)
        raw[at : at + _PAGE] = chance.randbytes(_PAGE)


def _zeros(chance: random.Random, raw: bytearray) -> None:
    at = chance.randrange(len(raw))
    end = min(at + chance.randint(1, 5 * _PAGE), len(raw))
    raw[at:end] = bytes(end - at)


def _cut(chance: random.Random, raw: bytearray) -> None:
    del raw[chance.randrange(len(raw)) :]


def _header(chance: random.Random, raw: bytearray) -> None:
    for _ in range(chance.randint(1, 8)):
        raw[chance.randrange(100)] = chance.randrange(256)


def _first_page(chance: random.Random, raw: bytearray) -> None:
    raw[:_PAGE] = chance.randbytes(_PAGE)


def _swap(chance: random.Random, raw: bytearray) -> None:
    a, b = (_PAGE * chance.randrange(len(raw) // _PAGE) for _ in range(2))
    raw[a : a + _PAGE], raw[b : b + _PAGE] = raw[b : b + _PAGE], raw[a : a + _PAGE]


def _index(chance: random.Random, raw: bytearray) -> None:
    """The names of the search index's own tables."""
    at = -1
    for _ in range(chance.randint(1, 5)):
        at = raw.find(b"messages_fts", at + 1, _PAGE)
        if at < 0:
            return
        raw[at : at + 4] = chance.randbytes(4)


DATABASE_DAMAGES: Mapping[str, Damage] = {
    "bytes": _flip, "pages": _page, "zeros": _zeros, "cut": _cut, "header": _header,
    "first page": _first_page, "swapped pages": _swap, "search index": _index,
}  # fmt: skip


def fill(store: Conversations, n_conversations: int, n_messages: int, seed: int = 0) -> None:
    """Conversations `c0`, `c1`, ... of messages `c0m0`, `c0m1`, ... that make many pages."""
    chance = random.Random(seed)
    words = ("alpha", "beta", "gamma", "wörter", "学習", "`code`")
    for c in range(n_conversations):
        messages = [
            StoredMessage(
                f"c{c}m{m}", f"c{c}m{m - 1}" if m else None, "assistant" if m % 2 else "user",
                " ".join(chance.choices(words, k=chance.randint(3, 400))), 1.7e9 + m,
            )
            for m in range(n_messages)
        ]  # fmt: skip
        conversation = Conversation(
            f"c{c}", f"Title {c}", 1.7e9, 1.7e9 + c, "Be brief.", messages[-1].id
        )
        store.save(conversation, messages)


# ---------------------------------------------------------------- JSON files

_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 255, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**30, 0.0, -0.5,
    1e-300, 5e-324, 1e300, 1e308, "", "x", "\x1b]52;c;eA==\x07", "x" * 5000, "\ud800", [], {},
    [[]], [0.0, 0.0], [-1.0], ["x"], {"": 0}, {"a": {}},
)  # fmt: skip


def damaged_json(chance: random.Random, raw: bytes) -> bytes:
    """A JSON object with some of its values replaced or lost, or with its bytes changed."""
    if chance.random() < 0.25:
        body = bytearray(raw)
        chance.choice((_flip, _zeros, _cut))(chance, body)
        return bytes(body)
    value = json.loads(raw)
    only_numbers = chance.random() < 0.4  # which are more often believed
    for _ in range(chance.randint(1, 3)):
        _replace_one(chance, value, only_numbers)
    return json.dumps(value).encode()


def _replace_one(chance: random.Random, value: Any, only_numbers: bool) -> None:
    """Changes something in a value, however deep."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    if not keys:
        return
    key = chance.choice(keys)
    number = type(value[key]) in (int, float)
    if isinstance(value[key], dict | list) and value[key] and (only_numbers or chance.randrange(5)):
        _replace_one(chance, value[key], only_numbers)
    elif number and (only_numbers or chance.randrange(2)):
        scaled = chance.choice((1, 1, 1, 0, -1)) * value[key] * 10.0 ** chance.randint(-12, 12)
        value[key] = type(value[key])(scaled)
    elif only_numbers:
        return
    elif isinstance(value, dict) and chance.random() < 0.1:
        del value[key]
    else:
        value[key] = chance.choice(_ODD)
