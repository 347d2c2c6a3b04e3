"""Textual's bindings of a place, made from the table of keys."""

from __future__ import annotations

from textual.binding import Binding, BindingType

from tui.keymap import ACTIONS, Keymap, Place


def bindings(place: Place) -> list[BindingType]:
    """One for each row of that place that is not a widget's own. Each has its row's id, by which
    `App.set_keymap` gives it the user's key."""
    return [
        Binding(
            ",".join(Keymap().keys(row.id)),
            row.action,
            row.title,
            show=False,
            priority=row.priority,
            id=row.id,
        )
        for row in ACTIONS
        if row.place is place and not row.fixed
    ]
