"""The fit explorer: settings on dials, and what the solver says of each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import Screen

from tui.keymap import Keymap, Place, Show
from tui.screens.bindings import bindings
from tui.screens.choices import Choice
from tui.screens.exploring import Exploring
from tui.widgets import Hints, Plain, fit
from tui.widgets.lines import Lines
from tuner.errors import KvchatError
from tuner.safe_text import one_line
from tuner.settings import Settings
from tuner.units import size_text

if TYPE_CHECKING:
    from tui.ports import Candidate, Explorer

CHART_ROWS = 7
ROOMY = 40  # rows of a screen with room for a chart of twice as many


class ExplorerScreen(Screen[Choice | None]):
    """Gives back what to load, or None."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Place.EXPLORER)

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (70, "-medium"), (120, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (20, "-middle"), (30, "-tall")]  # noqa: RUF012

    def __init__(
        self,
        make: Callable[[], Explorer],
        keymap: Keymap,
        *,
        loaded: bool = False,
        busy: Callable[[], bool] = lambda: False,
    ):
        """`make` may block. `loaded`: a model is, with the settings that it begins with. `busy`:
        whether an answer is being written, which loading would end."""
        super().__init__()
        self._make, self._keymap = make, keymap
        self._loaded, self._busy = loaded, busy
        self._exploring = Exploring(self)
        self._explorer: Explorer | None = None
        self._settings = Settings(n_ctx=1)
        self._weighed: Exploring.Weighed | None = None  # of these settings or those before
        self._own: Settings | None = None  # what kvchat would choose
        self._offers: list[tuple[str, Candidate]] = []  # by key
        self._reached: list[Candidate] = []
        self._row = 0
        self._reset_wanted = False
        self._enter_wanted = False
        self._asked = False
        self.error: KvchatError | None = None

    # ------------------------------------------------------------ layout

    def compose(self) -> ComposeResult:
        yield Plain("Fit explorer", id="fit-title")
        with VerticalScroll(id="fit", can_focus=False):
            yield Lines(id="fit-dials")
            yield Lines(id="fit-verdict")
            yield Lines(id="fit-figures")
            yield Lines(id="fit-memory")
            with Horizontal(id="fit-below"):
                yield Lines(id="fit-offers")
                yield Lines(id="fit-chart")
            yield Lines(id="fit-notes")
        yield Hints()

    def on_mount(self) -> None:
        self.query_one(Hints).keys = self._keymap.hints(Show.IDLE, Place.EXPLORER)
        self._say("measuring and planning")
        self._exploring.open(self._make)

    def on_unmount(self) -> None:
        self._exploring.end()

    def _lines(self, name: str) -> Lines:
        return self.query_one(f"#fit-{name}", Lines)

    def _say(self, text: str, style: str = "$muted") -> None:
        """Something in place of the verdict."""
        said = one_line(text)
        self._lines("verdict").show(lambda width: [((said, style),)])

    # ------------------------------------------------------------ what is computed

    def on_exploring_opened(self, message: Exploring.Opened) -> None:
        self._explorer = explorer = message.explorer
        model = explorer.model
        parts = (one_line(model.name), model.quantization, size_text(model.size_bytes))
        title = " · ".join(part for part in parts if part)
        self.query_one("#fit-title", Plain).show(f"Fit explorer   {title}")
        self._go_to(explorer.start)

    def on_exploring_failed(self, message: Exploring.Failed) -> None:
        self.error = message.error
        self._say(f"! {message.error}", "$text-error")

    def on_exploring_weighed(self, message: Exploring.Weighed) -> None:
        assert self._explorer is not None
        if message.settings != self._settings:
            return  # a step has been made meanwhile
        self._weighed = message
        self._show_dials()
        self._lines("memory").show(
            fit.memory(self._explorer.machine_of(message.settings), message.candidate)
        )
        self._lines("figures").show(fit.figures(message.candidate))
        self._lines("verdict").show(
            fit.verdict(message.candidate, message.missing, exact=message.exact)
        )
        self._lines("notes").show(fit.notes(self._explorer.notes(message.candidate)))
        self._show_chart()
        if message.exact and self._enter_wanted:
            self._load(message)

    def on_exploring_surveyed(self, message: Exploring.Surveyed) -> None:
        assert self._explorer is not None
        plan = message.plan
        listed = [plan.chosen, *plan.alternatives] if plan.chosen.fits else plan.alternatives
        self._own = self._explorer.of(plan.chosen)
        keys = iter("123456789")
        self._offers = [
            (self._keymap.label("explorer.reset") if c is plan.chosen else next(keys, " "), c)
            for c in listed
        ]
        for candidate in plan.alternatives:
            self._explorer.of(candidate)
        self._show_offers()
        self._show_dials()
        if self._reset_wanted:
            self.action_reset()

    def on_exploring_reached(self, message: Exploring.Reached) -> None:
        self._reached.append(message.candidate)
        self._show_chart()

    # ------------------------------------------------------------ what is shown

    def _go_to(self, settings: Settings) -> None:
        """Shows these settings; what they give follows."""
        assert self._explorer is not None
        self._settings = settings
        self._asked = self._enter_wanted = self._reset_wanted = False
        self._show_dials()
        self._exploring.weigh(self._explorer, settings)

    def _show_dials(self) -> None:
        explorer, weighed = self._explorer, self._weighed
        assert explorer is not None
        self._lines("dials").show(
            fit.dials(
                explorer.dials,
                self._settings,
                self._row,
                weighed.candidate if weighed else None,
                len(explorer.model.moe_layers),
            )
        )

    def _show_offers(self) -> None:
        assert self._explorer is not None
        at = self._row - len(self._explorer.dials)
        self._lines("offers").show(
            fit.offers(self._offers, at if at >= 0 else None, self._explorer.model.n_items)
        )

    def _show_chart(self) -> None:
        points = [(c.settings.n_ctx, c.speed.decode_tps) for c in self._reached]
        if self._weighed is not None:
            now = self._weighed.candidate
            mark = now.settings.n_ctx, now.speed.decode_tps
            rows = CHART_ROWS if self.size.height < ROOMY else 2 * CHART_ROWS
            self._lines("chart").show(fit.chart(points, mark, rows))

    # ------------------------------------------------------------ actions

    def action_move(self, rows: int) -> None:
        if self._explorer is None:
            return
        last = len(self._explorer.dials) + len(self._offers) - 1
        self._row = min(max(self._row + rows, 0), last)
        self._show_dials()
        self._show_offers()

    def action_turn(self, by: int) -> None:
        explorer = self._explorer
        if explorer is not None and self._row < len(explorer.dials):
            self._go_to(explorer.step(self._settings, explorer.dials[self._row], by))

    def action_reset(self) -> None:
        if self._own is not None:
            self._go_to(self._own)
        else:
            self._reset_wanted = True

    def on_key(self, event: events.Key) -> None:
        """The number of an offer takes it over."""
        for key, candidate in self._offers:
            if key == event.key and self._explorer is not None:
                event.stop()
                self._go_to(self._explorer.of(candidate))

    def action_enter(self) -> None:
        explorer, weighed = self._explorer, self._weighed
        if explorer is None:
            return
        offer = self._row - len(explorer.dials)
        if offer >= 0:
            _, candidate = self._offers[offer]
            self._row = 0
            self._show_offers()
            self._go_to(explorer.of(candidate))
        elif weighed and weighed.exact and weighed.settings == self._settings:
            self._load(weighed)
        else:
            self._enter_wanted = True

    def _load(self, weighed: Exploring.Weighed) -> None:
        """Loads what is shown, or says why not."""
        explorer, missing = self._explorer, weighed.missing
        assert explorer is not None
        self._enter_wanted = False
        enter = self._keymap.label("explorer.enter")
        if missing:
            self._say(f"! not loaded: {missing}", "$text-error")
        elif explorer.described:
            self._say("! not loaded: such GPUs are only described, not here", "$text-error")
        elif self._loaded and self._settings == explorer.start:
            self.dismiss(None)
        elif self._busy() and not self._asked:
            self._asked = True
            self._say(
                f"! an answer is being written: {enter} again stops it, keeps it, and loads",
                "$text-warning",
            )
        else:
            self.dismiss(Choice(weighed.candidate.settings, keep=self._settings != self._own))

    def action_leave(self) -> None:
        self.dismiss(None)
