"""The user's own keys: `keys.toml` in kvchat's folder of settings, read once at start.

    "conversation.new" = "ctrl+t"
    "model.report" = "f12, ctrl+g"

The ids are those of keymap.py. What cannot be used is told in a sentence, and its row keeps the key
that it has without the file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from tui.keymap import ACTIONS, BY_ID, Action, Keymap, label
from tuner.private_files import kvchat_folder, read_bounded

FILE = "keys.toml"
_MAX_FILE = 1 << 16  # bytes; all actions take 2 KB

_NAMED = {
    "up", "down", "left", "right", "home", "end", "pageup", "pagedown", "insert", "delete",
    "backspace", "tab", "enter", "escape", "space", *(f"f{n}" for n in range(1, 25)),
}  # fmt: skip
_SPELLINGS = {
    "esc": "escape", "pgup": "pageup", "pgdn": "pagedown", "del": "delete", "ins": "insert",
    "return": "enter",
}  # fmt: skip
# A terminal sends the same bytes for these pairs.
_SAME = {"ctrl+i": "tab", "ctrl+m": "enter", "ctrl+h": "backspace", "ctrl+[": "escape"}
_MODIFIERS = {"alt", "ctrl", "shift"}
_EDITING = {"space", "backspace", "delete", "left", "right", "tab"}


def key_file(folder: Path | None = None) -> Path:
    """Where the keys are stated: in `folder`, or in kvchat's own."""
    return (kvchat_folder("config") if folder is None else folder) / FILE


def read_keymap(folder: Path | None = None) -> tuple[Keymap, tuple[str, ...]]:
    """The keys of the file in `folder` (kvchat's own by default), and a sentence for each thing
    in it that cannot be used. Never raises; without a file, the keys are the usual ones."""
    path = key_file(folder)
    try:
        raw = read_bounded(path, _MAX_FILE)
        if len(raw) > _MAX_FILE:
            raise OSError("it is too long")
        text = raw.decode("utf-8")
    except FileNotFoundError:
        return Keymap(), ()
    except (OSError, UnicodeDecodeError) as error:
        return Keymap(), (
            f"Your keys in {path} cannot be read ({error}); the usual ones are used.",
        )
    try:
        stated = dict(_flat(tomllib.loads(text)))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return Keymap(), (
            f'Your keys in {path} cannot be read ({error}); a line is like "model.report" = "f12".',
        )
    problems: list[str] = []
    wanted: dict[str, tuple[str, ...]] = {}
    for action_id, value in stated.items():
        try:
            wanted[action_id] = _keys_of(action_id, value)
        except ValueError as problem:
            problems.append(f"{path}: {problem}")
    return _without_clashes(wanted, problems, path), tuple(problems)


def _flat(table: Mapping[str, object], before: str = "") -> Iterator[tuple[str, object]]:
    """Ids and values; TOML reads an id without quotes as a table in a table."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value


def _keys_of(action_id: str, value: object) -> tuple[str, ...]:
    """The keys that a line states. Raises ValueError with the sentence to tell."""
    row = BY_ID.get(action_id)
    if row is None:
        raise ValueError(f"there is no action {action_id!r}; the list of keys has their ids.")
    if row.fixed:
        raise ValueError(f"the key of {action_id} cannot be changed.")
    if not isinstance(value, str):
        raise ValueError(f'{action_id} needs a key in quotes, like "f12" or "ctrl+t".')
    return tuple(_key(row, part) for part in value.split(","))


def _key(row: Action, text: str) -> str:
    """A key as Textual names it. Raises ValueError."""
    text = text.strip()
    *modifiers, name = [text] if len(text) == 1 else re.split(r"\+(?=.)", text.lower())
    name = _SPELLINGS.get(name, name)
    key = "+".join((*sorted(modifiers), name))  # in the order in which Textual names them
    key = _SAME.get(key, key)
    character = len(name) == 1
    writes = not set(modifiers) - {"shift"} and (character or name in _EDITING)
    if not (
        set(modifiers) <= _MODIFIERS
        and len(set(modifiers)) == len(modifiers)
        and (name in _NAMED or (character and name.isprintable() and name != " "))
        and (not character or not modifiers or (not writes and name.isascii() and name.isalnum()))
    ):
        raise ValueError(
            f"{text!r} is no key for {row.id}; one is written like f12, ctrl+t or pageup."
        )
    if row.place.takes_text and writes:
        raise ValueError(f"{row.id} cannot have {label(key)}, which is needed for writing.")
    return key


def _without_clashes(
    wanted: Mapping[str, tuple[str, ...]], problems: list[str], path: Path
) -> Keymap:
    """The changes that leave each key one meaning wherever it is heard. Of two changes the later
    gives way, and a change gives way to what was not changed."""
    changed = dict(wanted)

    def order(row: Action) -> int:
        """When the row's key was changed, itself or by what opens its place; -1: it was not."""
        causes = [c for c in (row.id, row.opened_by) if c in changed]
        return max((list(changed).index(cause) for cause in causes), default=-1)

    while clash := next(_clashes(Keymap(changed)), None):
        first, second, key = clash
        kept, loser = sorted((first, second), key=order)
        loser_id = list(changed)[order(loser)]
        del changed[loser_id]
        problems.append(
            f"{path}: {label(key)} cannot be the key of {loser_id}, it is that of {kept.id}."
        )
    return Keymap(changed)


def _clashes(keymap: Keymap) -> Iterator[tuple[Action, Action, str]]:
    """Pairs of rows that are heard at once and share a key."""
    for at, first in enumerate(ACTIONS):
        for second in ACTIONS[at + 1 :]:
            if first.place.meets(second.place):
                for key in keymap.keys(first.id):
                    if key in keymap.keys(second.id):
                        yield first, second, key
