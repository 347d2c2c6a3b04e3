"""All keys, from the table."""

from __future__ import annotations

from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Static

from tui.key_file import key_file
from tui.keymap import ACTIONS, Keymap, Place, Show
from tui.screens.bindings import bindings
from tui.widgets import Hints, Plain

KEY_CELLS = 13  # for the keys of a row, a key more below where they are longer


class KeysScreen(Screen[None]):
    """Each key with what it does and the id that remaps it, by the place where it is heard."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Place.HELP)

    def __init__(self, keymap: Keymap):
        super().__init__()
        self._keymap = keymap

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="keys-scroll"):
            for place in Place:
                yield Plain(place.value, classes="place")
                yield Static(self._table(place), classes="keys")
            own = f'Other keys: a line like "model.report" = "f12" in {key_file()}.'
            yield Plain(own, classes="keys")
        yield Hints()

    def on_mount(self) -> None:
        self.query_one(Hints).keys = self._keymap.hints(Show.IDLE, Place.HELP)
        self.query_one("#keys-scroll").focus()

    def _table(self, place: Place) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        table.add_column(width=KEY_CELLS, style="bold")
        table.add_column(ratio=1)
        table.add_column(justify="right", style="dim")
        for row in ACTIONS:
            if row.place is place:
                keys = Text(self._keymap.labels(row))
                table.add_row(keys, Text(row.does), Text("" if row.fixed else row.id))
        return table
