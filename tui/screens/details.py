"""The session as small plots: how fast it answered, what memory it took, how warm it became."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import Screen

from tui.answering.session import Session
from tui.keymap import Keymap, Place, Show
from tui.screens.bindings import bindings
from tui.status import heat_text, of_bytes
from tui.widgets import Hints, Plain, StatusLine
from tui.widgets.lines import Lines
from tui.widgets.plots import Plot, drawn
from tuner.units import size_text, tokens_text, tps_text

REFRESH_SECONDS = 1.0
BESIDE = 100  # columns from which on plots stand side by side
LEAST_ROWS, MOST_ROWS = 2, 8  # of a plot
HOT = 100  # °C at the top of the plot


class DetailsScreen(Screen[None]):
    """Draws what `Session` has, again and again."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Place.DETAILS)
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (BESIDE, "-wide")]  # noqa: RUF012

    def __init__(self, session: Session, status: StatusLine, keymap: Keymap):
        super().__init__()
        self._session = session
        self._status = status
        self._keymap = keymap

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="details-scroll"):
            yield Plain(id="details-reading")
            with Horizontal(id="details-columns"):
                yield Lines(id="details-left")
                yield Lines(id="details-right")
        yield Hints()

    def on_mount(self) -> None:
        self.query_one(Hints).keys = self._keymap.hints(Show.IDLE, Place.DETAILS)
        self.query_one("#details-scroll").focus()
        self.set_interval(REFRESH_SECONDS, self._draw)
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        reading = self._session.last_reading
        above = self.query_one("#details-reading", Plain)
        above.display = bool(reading)
        above.show(f"last turn: {reading}")
        plots = list(self._plots())
        beside = self.size.width >= BESIDE
        n = -(-len(plots) // 2) if beside else len(plots)
        # a line above each, what stands above all, the margin and the keys
        room = self.size.height - 2 - bool(reading)
        rows = min(MOST_ROWS, max(LEAST_ROWS, room // max(1, n) - 1))
        self.query_one("#details-left", Lines).show(drawn(plots[:n], rows))
        self.query_one("#details-right", Lines).show(drawn(plots[n:], rows))

    def _plots(self) -> Iterator[Plot]:
        of, status = self._session, self._status.status
        yield _speeds("answers", tuple(of.speeds))
        if of.reads:
            yield _speeds("reading", tuple(of.reads))
        if status is not None and status.n_ctx:
            used = tokens_text(status.n_ctx_used or 0)
            whole = tokens_text(status.n_ctx)
            filled = f", {of_bytes(*status.cache)}" if status.cache else ""
            now = f"{used} of {whole}{filled}"
            yield Plot("context", now, of.context.values, status.n_ctx, whole)
        if of.now is None:
            return
        for name, memory, series in (("VRAM", of.now.vram, of.vram), ("RAM", of.now.ram, of.ram)):
            if memory is not None:
                top = size_text(memory[1])
                yield Plot(name, of_bytes(*memory), series.values, memory[1], top)
        if of.temperature.values:
            gpus = of.now.gpus.items()
            now = ", ".join(f"{name} {heat_text(g.temperature, g.power)}" for name, g in gpus)
            yield Plot("heat", now, of.temperature.values, HOT, f"{HOT} °C")


def _speeds(label: str, values: Sequence[float]) -> Plot:
    if not values:
        return Plot(label, "none yet", (), 1.0, "")
    n, top = len(values), max(values)
    now = f"{tps_text(values[-1])} t/s, the last of {n:,}"
    return Plot(label, now, values, top, f"{tps_text(top)} t/s")
