"""All keys, from the table."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static

from tui.keymap import ACTIONS, Keymap, Place, Show
from tui.screens.bindings import bindings
from tui.widgets import Hints

REMAP = 'Other keys: a line like "model.report" = "f3" in keys.toml, in the folder of settings.'
COLUMN_MAX = 24  # cells for the keys; what is longer moves its sentence on


class KeysScreen(Screen[None]):
    """Each key with what it does and the id that remaps it, by the place where it is heard."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Place.HELP)

    def __init__(self, keymap: Keymap):
        super().__init__()
        self._keymap = keymap

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="keys-scroll"):
            yield Static(self._listing(), id="keys")
        yield Hints()

    def on_mount(self) -> None:
        self.query_one(Hints).keys = self._keymap.hints(Show.IDLE, Place.HELP)
        self.query_one("#keys-scroll").focus()

    def _listing(self) -> Content:
        lines: list[Content] = []
        for place in Place:
            lines += [Content(""), Content.styled(place.value, "bold")]
            for row in ACTIONS:
                if row.place is place:
                    keys = f"{self._keymap.labels(row):<{COLUMN_MAX}} "
                    name = "" if row.fixed else f"  {row.id}"
                    lines.append(
                        Content.assemble((keys, "$text-accent"), row.does, (name, "$text-muted"))
                    )
        return Content("\n").join([*lines[1:], Content(""), Content.styled(REMAP, "$text-muted")])
