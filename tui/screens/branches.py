"""All versions of a conversation, as the tree that they are."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.screen import Screen
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from tui.answering.words import version_text
from tui.keymap import Keymap, Place, Show
from tui.screens.bindings import bindings
from tui.storage import StoredMessage, Tree
from tui.widgets import Hints, Plain
from tuner.safe_text import one_line

DEEPEST = 12  # forks that are told apart by their indent
CHARS = 200  # of a message


class BranchesScreen(Screen[str | None]):
    """Gives back the id of the message to show the conversation through, or None. What is shown
    now is marked; a message is indented by the forks that lead to it."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Place.BRANCHES)

    def __init__(self, tree: Tree, keymap: Keymap):
        super().__init__()
        self._keymap = keymap
        self._tree = tree
        self._rows = list(tree.outline())

    def compose(self) -> ComposeResult:
        yield Plain("Versions", id="branches-title")
        yield OptionList(id="branches", markup=False)
        yield Hints()

    def on_mount(self) -> None:
        self.query_one(Hints).keys = self._keymap.hints(Show.IDLE, Place.BRANCHES)
        shown = {message.id for message in self._tree.path}
        options = self.query_one(OptionList)
        options.add_options(
            Option(self._row(depth, message, shown=message.id in shown), message.id)
            for depth, message in self._rows
        )
        if self._tree.head is not None:
            options.highlighted = options.get_option_index(self._tree.head)
        options.focus()

    def _row(self, depth: int, message: StoredMessage, *, shown: bool) -> Content:
        mark = "▌" if message.role == "user" else " "
        words = one_line(message.content[:CHARS]) or f"({message.state})"
        indent = "  " * min(depth, DEEPEST)
        style = "" if shown else "$muted"
        return Content.assemble(
            ("● " if shown else "  ", "$text-accent"),
            indent,
            (mark + " ", "$primary"),
            (words, style),
            (f"  {version_text(self._tree, message)}", "$muted"),
        )

    def action_open(self) -> None:
        at = self.query_one(OptionList).highlighted
        self.dismiss(None if at is None else self._rows[at][1].id)

    def on_option_list_option_selected(self) -> None:
        self.action_open()
