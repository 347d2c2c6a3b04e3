"""The tables of README.md and docs/report.md, made from the program itself.

cog -r -I . README.md docs/report.md              writes them
cog --check --diff -I . README.md docs/report.md  says whether they are what the program says
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from tui.command.options import parser
from tui.keymap import Keymap, Place, Show, markdown
from tuner.machine.backends import BACKENDS
from tuner.machine.engine_build import rebuild_command
from tuner.report.json import plan_keys, report_keys
from tuner.report.logged import compared_keys
from tuner.report.receipt import receipt_keys

# The backends that most people have, as they know them; `rebuild_command` has the others too.
_GPUS = {
    "CUDA": "NVIDIA (CUDA toolkit installed)",
    "Metal": "Apple (Metal)",
    "ROCm": "AMD (ROCm)",
    "Vulkan": "any with Vulkan",
}


def flags() -> str:
    """The flags of `kvchat`, a table for each group of its help."""
    general, options, *groups = parser()._action_groups
    lists = [("", [*general._group_actions, *options._group_actions])]
    lists += [(f"{group.title}:", group._group_actions) for group in groups]
    parts = []
    for title, actions in lists:
        rows = [(_flag(action), action.help or "") for action in actions]
        parts.append(f"{title.capitalize()}\n\n{_table(('flag', 'what it does'), rows)}".lstrip())
    return "\n\n".join(parts)


def first_keys() -> str:
    """The keys that the chat's own line of hints tells, as a sentence."""
    keymap = Keymap()
    shown = [*keymap.shown(Show.IDLE, *Place), *keymap.shown(Show.ANSWERING, *Place)]
    rows = [row for row in dict.fromkeys(shown) if row.place in (Place.CHAT, Place.PROMPT)]
    parts = [f"**{keymap.label(row.id)}** {row.does[0].lower()}{row.does[1:-1]}" for row in rows]
    return f"In the chat: {'; '.join(parts)}; **{keymap.label('app.keys')}** lists all keys."


def keys() -> str:
    """What each key does."""
    return markdown().rstrip("\n")


def gpu_commands() -> str:
    """What builds the engine for a GPU."""
    assert BACKENDS.keys() >= _GPUS.keys()
    rows = [(who, f"`{rebuild_command(name, 'linux')}`") for name, who in _GPUS.items()]
    return _table(("GPU", "command"), rows)


def report() -> str:
    """The keys of the whole report."""
    return _table(("key", "meaning"), ((f"`{key}`", meaning) for key, meaning in report_keys()))


def plan() -> str:
    """The keys of one plan."""
    return _table(("key", "meaning"), ((f"`{key}`", meaning) for key, meaning in plan_keys()))


def receipt() -> str:
    """The keys of a receipt."""
    return _table(("key", "meaning"), ((f"`{key}`", meaning) for key, meaning in receipt_keys()))


def compared() -> str:
    """The keys of loads that are held against a log."""
    return _table(("key", "meaning"), ((f"`{key}`", meaning) for key, meaning in compared_keys()))


def _table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    cells = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows)
    return "\n".join((f"| {' | '.join(head)} |", "|---|---|", *(f"| {row} |" for row in cells)))


def _flag(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{action.metavar}`"
    value = "" if action.nargs == 0 else f" {action.metavar}"
    return f"`{', '.join(action.option_strings)}{value}`"
