"""Painting only the rows that changed."""

from __future__ import annotations

from collections.abc import Iterable

from textual._compositor import Compositor
from textual.geometry import Region
from textual.strip import Strip


class RowsCompositor(Compositor):
    """Textual has every widget that shares a container with what changed make all of its rows anew,
    and throws away those that are not to be painted (textual/_compositor.py, `_get_renders` and
    `_render_chops`). Here it makes those between the first row that changed and the last."""

    def _get_renders(
        self, crop: Region | None = None
    ) -> Iterable[tuple[Region, Region, list[Strip]]]:
        if crop is None:
            yield from super()._get_renders(crop)
            return
        for widget, (region, clip) in self.visible_widgets.items():
            seen = region.intersection(clip)
            rows = seen.intersection(Region(seen.x, crop.y, seen.width, crop.height))
            if rows:
                yield region, rows, widget.render_lines(rows.translate(-region.offset))
