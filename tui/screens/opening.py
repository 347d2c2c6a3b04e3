"""The screens over the chat. Each is imported when it opens: the chat itself is to be there at
once, and these are seldom wanted."""

# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from textual.screen import Screen

from tui.answering.room import Situation
from tui.answering.session import Session
from tui.keymap import Keymap
from tui.ports import RunningModel
from tui.screens.choices import Opened
from tui.screens.loads import Loads
from tui.storage import Conversations, StoredMessage, Tree
from tui.when_full import Way
from tui.widgets import StatusLine

if TYPE_CHECKING:
    from tui.ports import Explorer
    from tui.screens.compare import Talk
    from tui.screens.explorer import ExplorerScreen


def branches(tree: Tree, keymap: Keymap) -> Screen[str | None]:
    """All versions of a conversation; gives back the id of a message."""
    from tui.screens.branches import BranchesScreen

    return BranchesScreen(tree, keymap)


def compare(
    talk: Talk, loads: Loads, path: Sequence[StoredMessage], think: str, keymap: Keymap
) -> Screen[None]:
    """A question under two settings."""
    from tui.screens.compare import CompareScreen

    return CompareScreen(talk, loads, path, think, keymap)


def context(situation: Situation, keymap: Keymap) -> Screen[Way | None]:
    """What fills the context; gives back a way to room."""
    from tui.screens.context import ContextScreen

    return ContextScreen(situation, keymap)


def conversations(store: Conversations, keymap: Keymap) -> Screen[Opened | None]:
    """All that are saved; gives back one."""
    from tui.screens.conversations import ConversationsScreen

    return ConversationsScreen(store, keymap)


def details(session: Session, status: StatusLine, keymap: Keymap) -> Screen[None]:
    """How the session went."""
    from tui.screens.details import DetailsScreen

    return DetailsScreen(session, status, keymap)


def explorer(
    make: Callable[[], Explorer],
    keymap: Keymap,
    *,
    loaded: bool = False,
    busy: Callable[[], bool] = lambda: False,
) -> ExplorerScreen:
    """The fit explorer; gives back what to load."""
    from tui.screens.explorer import ExplorerScreen

    return ExplorerScreen(make, keymap, loaded=loaded, busy=busy)


def history(here: Sequence[str], everywhere: Sequence[str], keymap: Keymap) -> Screen[str | None]:
    """A search through what was asked; gives back a question."""
    from tui.screens.history import HistoryScreen

    return HistoryScreen(here, everywhere, keymap)


def keys(keymap: Keymap) -> Screen[None]:
    """The list of all keys."""
    from tui.screens.keys import KeysScreen

    return KeysScreen(keymap)


def report(model: RunningModel, keymap: Keymap, last_reading: str) -> Screen[None]:
    """The fit report of a loaded model, below what of the last prompt had to be read."""
    from tui.screens.report import ReportScreen

    return ReportScreen(model, keymap, last_reading)
